//! `http`: a request to an application and what its answer must be.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Acting, Action, MINUTE, Scope, Step};
use crate::domain::evidence::EvidenceLevel;
use crate::domain::id::SystemName;
use crate::domain::verification::Check;
use crate::error::Result;
use crate::runbook::host::{HttpAct, HttpAnswer};
use crate::runbook::model::Effect;
use crate::runbook::output::StepOutput;
use crate::runbook::problem::Problems;
use crate::runbook::yaml::{At, Fields};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    pub method: String,
    pub url: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    pub body: Option<String>,
    pub status: u16,
    pub contains: Option<String>,
    pub system: Option<SystemName>,
}

const METHODS: [(&str, &str); 6] = [
    ("GET", "GET"),
    ("HEAD", "HEAD"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("PATCH", "PATCH"),
    ("DELETE", "DELETE"),
];

pub(super) fn read(at: &At<'_>, scope: &Scope<'_>, problems: &mut Problems) -> Option<Action> {
    let mut fields = at.fields(problems)?;
    let method = fields.take("method").and_then(|a| a.choice(&METHODS, problems));
    let url = fields.require("url", problems).and_then(|a| read_url(&a, problems));
    let headers = read_headers(&mut fields, problems);
    let body = fields.take("body").and_then(|a| a.text(problems));
    let status = fields.take("status").and_then(|a| a.whole(100..=599, problems));
    let contains = fields.take("contains").and_then(|a| a.text(problems));
    fields.finish(problems);
    Some(Action::Http(Http {
        method: method.unwrap_or("GET").to_owned(),
        url: url?,
        headers,
        body,
        status: status.and_then(|s| u16::try_from(s).ok()).unwrap_or(200),
        contains,
        system: scope.system.cloned(),
    }))
}

fn read_url(at: &At<'_>, problems: &mut Problems) -> Option<String> {
    let url = at.text(problems)?;
    let known = ["http://", "https://", "${"].iter().any(|s| url.starts_with(s));
    if !known {
        at.problem(problems, "is not an address; it begins with http:// or https://");
    }
    known.then_some(url)
}

fn read_headers(fields: &mut Fields<'_>, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    if let Some(mut given) = fields.take("headers").and_then(|a| a.fields(problems)) {
        for (name, value) in given.entries() {
            headers.extend(value.text(problems).map(|v| (name.to_owned(), v)));
        }
    }
    headers
}

impl Http {
    fn judge(&self, answer: &HttpAnswer) -> Vec<Check> {
        let name = format!("{} {}", self.method, self.url);
        let level = EvidenceLevel::E6;
        let mut checks = vec![Check::equal(
            format!("{name} status"),
            level,
            self.status.to_string(),
            answer.status.to_string(),
        )];
        if let Some(wanted) = &self.contains {
            checks.push(if answer.body.contains(wanted) {
                Check::passed(format!("{name} body"), level, format!("holds `{wanted}`"))
            } else {
                Check::failed(format!("{name} body"), level, format!("`{wanted}` in it"), "not in it")
            });
        }
        checks
    }
}

#[async_trait]
impl Step for Http {
    fn describe(&self) -> String {
        let body = self.contains.as_ref().map_or_else(String::new, |c| format!(" and hold `{c}`"));
        format!("{} {}; the answer must be {}{body}", self.method, self.url, self.status)
    }
    fn effect(&self) -> Effect {
        match self.method.as_str() {
            "GET" | "HEAD" => Effect::Read,
            "PUT" | "DELETE" => Effect::Idempotent,
            _ => Effect::Once,
        }
    }
    fn timeout(&self) -> Duration {
        MINUTE
    }
    fn system(&self) -> Option<&SystemName> {
        self.system.as_ref()
    }
    async fn run(&self, acting: &Acting) -> Result<StepOutput> {
        let act = HttpAct {
            act: acting.act.clone(),
            method: self.method.clone(),
            url: self.url.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
        };
        let answer = acting.host.http(&act, &acting.job).await?;
        Ok(StepOutput::checked(self.judge(&answer)))
    }
}
