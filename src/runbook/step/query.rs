//! `sql` and `redis`: a query against the recovered system and what its answer must be.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Acting, Action, MINUTE, Scope, Step, read_system};
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::SystemName;
use crate::domain::verification::Check;
use crate::error::Result;
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::problem::Problems;
use crate::runbook::yaml::At;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryLanguage {
    Sql,
    Redis,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Query {
    pub language: QueryLanguage,
    pub system: SystemName,
    pub query: String,
    /// First column of the first row, or the value; compared as text.
    pub expect: Option<String>,
    pub min: Option<f64>,
    pub max: Option<f64>,
}

pub(super) fn read_sql(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    read(QueryLanguage::Sql, at, scope, problems)
}

pub(super) fn read_redis(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    read(QueryLanguage::Redis, at, scope, problems)
}

fn read(language: QueryLanguage, at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = at.fields(problems)?;
    let system = read_system(&mut fields, scope, problems);
    let query = fields.require("query", problems).and_then(|a| a.text(problems));
    let expect = fields.take("expect").and_then(|a| a.text(problems));
    let min = fields.take("min").and_then(|a| a.number(problems));
    let max = fields.take("max").and_then(|a| a.number(problems));
    fields.finish(problems);
    match (&expect, min, max) {
        (None, None, None) => at.problem(
            problems,
            "says nothing about the answer, so it would pass on an empty system; give expect, min or max",
        ),
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            at.problem(problems, "give either expect, or min and max");
        }
        (Some(_), None, None) | (None, Some(_), _) | (None, _, Some(_)) => {}
    }
    Some(Action::Query(Query { language, system: system?, query: query?, expect, min, max }))
}

impl Query {
    fn wanted(&self) -> String {
        match (&self.expect, self.min, self.max) {
            (Some(e), _, _) => format!("`{e}`"),
            (None, Some(lo), Some(hi)) => format!("a number from {lo} to {hi}"),
            (None, Some(lo), None) => format!("a number not below {lo}"),
            (None, None, Some(hi)) => format!("a number not above {hi}"),
            (None, None, None) => "an answer".to_owned(),
        }
    }

    fn judge(&self, answer: &str) -> Check {
        let answer = answer.trim();
        let name = format!("{} {}", self.system, self.query);
        let holds = match &self.expect {
            Some(expected) => answer == expected.trim(),
            None => answer
                .parse::<f64>()
                .is_ok_and(|n| self.min.is_none_or(|lo| n >= lo) && self.max.is_none_or(|hi| n <= hi)),
        };
        if holds {
            Check::passed(name, EvidenceLevel::E6, answer)
        } else {
            Check::failed(name, EvidenceLevel::E6, self.wanted(), answer)
        }
    }
}

#[async_trait]
impl Step for Query {
    fn describe(&self) -> String {
        format!("ask `{}`: `{}`; the answer must be {}", self.system, self.query, self.wanted())
    }
    fn effect(&self) -> Effect {
        Effect::Read
    }
    fn timeout(&self) -> Duration {
        5 * MINUTE
    }
    fn system(&self) -> Option<&SystemName> {
        Some(&self.system)
    }
    async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        let answer = acting.host.query(&acting.act, &self.system, &self.query, &acting.job).await?;
        Ok(StepOutput::checked(vec![self.judge(&answer)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::verification::Outcome;

    #[test]
    fn an_answer_is_judged_by_value_or_by_bounds() {
        let mut query = Query {
            language: QueryLanguage::Sql,
            system: SystemName::parse("orders").unwrap(),
            query: "select count(*) from t".into(),
            expect: None,
            min: Some(10.0),
            max: None,
        };
        assert_eq!(query.judge("10\n").outcome, Outcome::Passed);
        for red in ["9", "", "many"] {
            assert_eq!(query.judge(red).outcome, Outcome::Failed, "{red}");
        }
        query.expect = Some("on".into());
        assert_eq!(query.judge("on").outcome, Outcome::Passed);
        assert_eq!(query.judge("off").outcome, Outcome::Failed);
    }
}
