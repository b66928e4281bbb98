//! The status API, metrics and the status page. Reads the board and the catalog; decides nothing.
//!
//! Answers are `{"code", "message", "data"}`, errors `{"code", "error", "message", "hint"}`.

mod page;

use actix_web::{App, HttpResponse, HttpServer, dev::Server, web};
use serde::{Deserialize, Serialize};

use crate::actor::board::{StatusBoard, Supervision};
use crate::catalog::BackupQuery;
use crate::domain::Timestamp;
use crate::domain::id::SystemName;
use crate::error::{Error, ErrorKind, Result, io_kind};
use crate::operation::{Node, view};
use crate::system::HealthState;
use crate::telemetry::metric::metrics;

/// Most backups in one answer.
const PAGE_MAX: u32 = 1_000;
const PAGE_DEFAULT: u32 = 100;
/// Content of the page comes from this server only, and nothing in it is executed.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// What the routes read from.
#[derive(Clone, Debug)]
pub struct Faces {
    pub node: Node,
    pub board: StatusBoard,
    pub started_at: Timestamp,
}

#[derive(Serialize)]
struct Answer<T> {
    code: u16,
    message: &'static str,
    data: T,
}

fn ok<T: Serialize>(data: T) -> HttpResponse {
    HttpResponse::Ok().json(Answer { code: 200, message: "ok", data })
}

fn refuse(error: &Error) -> HttpResponse {
    let code = error.kind().http_status();
    let status = actix_web::http::StatusCode::from_u16(code)
        .unwrap_or(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status).json(serde_json::json!({
        "code": code, "error": error.kind().name(), "message": error.to_string(), "hint": error.advice(),
    }))
}

/// The process lives and answers.
async fn health() -> HttpResponse {
    ok(serde_json::json!({ "status": "alive" }))
}

/// Every system has been looked at once and none is given up.
async fn ready(faces: web::Data<Faces>) -> HttpResponse {
    let systems = faces.board.systems();
    let waiting: Vec<&SystemName> = systems
        .iter()
        .filter(|(_, s)| s.supervision != Supervision::Supervised)
        .map(|(name, _)| name)
        .collect();
    if waiting.is_empty() && systems.len() == faces.node.systems.len() {
        return ok(serde_json::json!({ "status": "ready" }));
    }
    HttpResponse::ServiceUnavailable().json(serde_json::json!({
        "code": 503, "error": "NOT_READY", "message": "some systems are not supervised", "systems": waiting,
        "hint": "see /api/status",
    }))
}

async fn status(faces: web::Data<Faces>) -> HttpResponse {
    let now = faces.node.clock.now();
    let systems: Vec<serde_json::Value> = faces
        .board
        .systems()
        .into_iter()
        .map(|(name, s)| {
            let progress = s.job.as_ref().map(|j| {
                serde_json::json!({
                    "run": j.run, "what": j.what, "since": j.since, "bytes": j.progress.bytes(),
                    "bytes_expected": j.progress.total(), "phase": j.progress.phase(),
                })
            });
            serde_json::json!({
                "name": name, "supervision": s.supervision, "generation": s.generation, "health": s.health,
                "health_as_of": s.health_as_of, "job": progress, "last_error": s.last_error,
            })
        })
        .collect();
    ok(serde_json::json!({
        "as_of": now, "started_at": faces.started_at, "version": env!("CARGO_PKG_VERSION"), "systems": systems,
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupsQuery {
    system: Option<String>,
    limit: Option<u32>,
}

async fn backups(faces: web::Data<Faces>, query: web::Query<BackupsQuery>) -> HttpResponse {
    match list(&faces.node, query.into_inner()).await {
        Ok(lines) => ok(lines),
        Err(error) => refuse(&error),
    }
}

async fn list(node: &Node, query: BackupsQuery) -> Result<Vec<view::BackupLine>> {
    let system = match query.system {
        Some(text) => {
            let name = SystemName::parse(text)
                .map_err(|e| Error::new(ErrorKind::Config, "read parameter `system`").because(e))?;
            node.system(&name)?;
            Some(name)
        }
        None => None,
    };
    let limit = query.limit.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX);
    view::backups(node, &BackupQuery { system, limit: Some(limit) }).await
}

async fn prometheus(faces: web::Data<Faces>) -> HttpResponse {
    for (name, s) in faces.board.systems() {
        let up = s.health.as_ref().is_some_and(|h| h.state == HealthState::Healthy);
        metrics().system_up.with_label_values(&[name.as_str()]).set(i64::from(up));
        let supervised = s.supervision != Supervision::Unsupervised;
        metrics().system_supervised.with_label_values(&[name.as_str()]).set(i64::from(supervised));
    }
    match metrics().render() {
        Ok(text) => HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text),
        Err(error) => refuse(&error),
    }
}

async fn index(faces: web::Data<Faces>) -> HttpResponse {
    let query = BackupQuery { system: None, limit: Some(20) };
    match view::backups(&faces.node, &query).await.and_then(|b| page::render(&faces, &b)) {
        Ok(html) => HttpResponse::Ok()
            .insert_header(("Content-Security-Policy", POLICY))
            .content_type("text/html; charset=utf-8")
            .body(html),
        Err(error) => refuse(&error),
    }
}

async fn not_found() -> HttpResponse {
    refuse(&Error::new(ErrorKind::NotFound, "find this page").hint("see / and /api/status"))
}

fn bad_query(error: actix_web::error::QueryPayloadError, _: &actix_web::HttpRequest) -> actix_web::Error {
    let error = Error::new(ErrorKind::Config, "read the query of the address").because(error);
    actix_web::error::InternalError::from_response("bad query", refuse(&error)).into()
}

/// Binds and starts serving; the server runs until it is stopped through its handle.
pub fn start(faces: Faces) -> Result<Server> {
    let listen = faces.node.config.server.listen;
    let data = web::Data::new(faces);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(data.clone())
            .app_data(web::QueryConfig::default().error_handler(bad_query))
            .route("/", web::get().to(index))
            .route("/health", web::get().to(health))
            .route("/ready", web::get().to(ready))
            .route("/metrics", web::get().to(prometheus))
            .route("/api/status", web::get().to(status))
            .route("/api/v1/backups", web::get().to(backups))
            .default_service(web::route().to(not_found))
    })
    .workers(1)
    .disable_signals()
    .bind(listen)
    .map_err(|e| {
        Error::new(io_kind(&e), "listen for status requests")
            .with("address", listen)
            .because(e)
            .hint("set server.listen to a free address and port")
    })?;
    Ok(server.run())
}
