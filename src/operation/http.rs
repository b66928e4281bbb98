//! HTTP checks of runbooks: one bounded request, the beginning of the answer.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::runbook::host::{HttpAct, HttpAnswer};
use crate::runtime::JobContext;

const WITHIN: Duration = Duration::from_secs(30);
/// Of the body, this much is kept.
const TEXT_CHARS_MAX: usize = 4_000;

/// `Unreachable` when nobody answers in time; any status is an answer.
pub async fn ask(act: &HttpAct, job: &JobContext) -> Result<HttpAnswer> {
    let refused = |e: reqwest::Error| {
        Error::new(ErrorKind::Unreachable, "make http request").with("url", &act.url).because(e)
    };
    let method = reqwest::Method::from_bytes(act.method.as_bytes()).map_err(|e| {
        Error::new(ErrorKind::Config, "use http method").with("method", &act.method).because(e)
    })?;
    let client = reqwest::Client::builder().timeout(WITHIN).build().map_err(refused)?;
    let mut request = client.request(method, &act.url);
    for (key, value) in &act.headers {
        request = request.header(key, value);
    }
    if let Some(body) = &act.body {
        request = request.body(body.clone());
    }
    let answer = async {
        let mut response = request.send().await.map_err(refused)?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(refused)? {
            body.extend_from_slice(&chunk);
            if body.len() > TEXT_CHARS_MAX {
                break;
            }
        }
        Ok::<_, Error>(HttpAnswer {
            status,
            body: String::from_utf8_lossy(&body).chars().take(TEXT_CHARS_MAX).collect(),
        })
    };
    job.child(WITHIN).run("make http request", answer).await
}
