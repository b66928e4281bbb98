//! `[system.NAME.settings]` of kind `fake`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Bound of a fake production; it is kept in memory.
const ITEMS_MAX: usize = 100_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What production holds at first.
    #[serde(default)]
    pub items: BTreeMap<String, String>,
}

impl Settings {
    /// Every problem at once, as `(key, message)`.
    pub(super) fn check(&self) -> Vec<(String, String)> {
        if self.items.len() > ITEMS_MAX {
            return vec![("items".to_owned(), format!("at most {ITEMS_MAX} items"))];
        }
        Vec::new()
    }
}
