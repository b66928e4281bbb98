//! Order among named things with dependencies. Pure; finds a cycle and names it.

use std::collections::BTreeMap;

/// Positions in an order in which everything comes after what it needs; among the free ones the given order stays.
/// `Err` is one cycle, each needing the next, the first named again at the end. Needs that name nothing are ignored.
pub fn order(nodes: &[(String, Vec<String>)]) -> Result<Vec<usize>, Vec<String>> {
    let at: BTreeMap<&str, usize> = nodes.iter().enumerate().map(|(n, (id, _))| (id.as_str(), n)).collect();
    let needs: Vec<Vec<usize>> = nodes
        .iter()
        .map(|(_, needs)| needs.iter().filter_map(|n| at.get(n.as_str()).copied()).collect())
        .collect();
    let mut placed = vec![false; nodes.len()];
    let mut order = Vec::with_capacity(nodes.len());
    while order.len() < nodes.len() {
        let free = (0..nodes.len()).find(|&n| !placed[n] && needs[n].iter().all(|&m| placed[m]));
        match free {
            Some(n) => {
                placed[n] = true;
                order.push(n);
            }
            None => {
                return Err(cycle(&needs, &placed).into_iter().map(|n| nodes[n].0.clone()).collect());
            }
        }
    }
    Ok(order)
}

/// Among the nodes that could not be placed every one needs another of them: walking along must meet a node again.
fn cycle(needs: &[Vec<usize>], placed: &[bool]) -> Vec<usize> {
    let mut walked: Vec<usize> = Vec::new();
    let mut here = placed.iter().position(|p| !p).unwrap_or(0);
    loop {
        if let Some(start) = walked.iter().position(|&n| n == here) {
            let mut cycle = walked.split_off(start);
            cycle.push(here);
            return cycle;
        }
        walked.push(here);
        match needs[here].iter().find(|&&n| !placed[n]) {
            Some(&next) => here = next,
            None => return walked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(id: &str, needs: &[&str]) -> (String, Vec<String>) {
        (id.to_owned(), needs.iter().map(|n| (*n).to_owned()).collect())
    }

    #[test]
    fn a_cycle_is_named_from_end_to_end() {
        let nodes = [node("a", &[]), node("b", &["d", "a"]), node("c", &["b"]), node("d", &["c"])];
        assert_eq!(order(&nodes).unwrap_err(), ["b", "d", "c", "b"]);
    }

    proptest! {
        #[test]
        fn everything_comes_after_what_it_needs(edges in prop::collection::vec((0usize..12, 0usize..12), 0..30)) {
            // an edge always points to a smaller number: no cycle is possible
            let mut nodes: Vec<(String, Vec<String>)> = (0..12).map(|n| (n.to_string(), vec![])).collect();
            for (a, b) in edges {
                if a > b { nodes[a].1.push(b.to_string()); }
            }
            nodes.reverse();
            let order = order(&nodes).unwrap();
            prop_assert_eq!(order.len(), nodes.len());
            for (place, &n) in order.iter().enumerate() {
                for need in &nodes[n].1 {
                    let before = order[..place].iter().any(|&m| &nodes[m].0 == need);
                    prop_assert!(before);
                }
            }
        }
    }
}
