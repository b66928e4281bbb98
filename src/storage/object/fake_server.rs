//! A small S3 on loopback that misbehaves on request: real servers do not do these things when asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::runtime::workers::Task;

/// What goes wrong. Everything else works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// A put is answered 200 with an error in the body, and stores nothing.
    ErrorBody,
    /// A put is answered 200 and stores nothing.
    Loses,
    /// A put is answered 200 and stores one byte less.
    Truncates,
    /// The first put stores the object and answers 500.
    LosesAnswer,
    /// Every request is answered with this status and error code.
    Refuses(u16, &'static str),
}

#[derive(Debug)]
pub(super) struct FakeServer {
    pub(super) endpoint: String,
    pub(super) state: Arc<Mutex<State>>,
    _serving: Task<()>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) fault: Fault,
    objects: BTreeMap<String, (Vec<u8>, Option<String>)>,
    pub(super) requests: Vec<String>,
}

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn failed(e: std::io::Error) -> Error {
    Error::new(ErrorKind::Failed, "serve").because(e)
}

impl FakeServer {
    pub(super) async fn start(fault: Fault, job: &JobContext) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { fault, objects: BTreeMap::new(), requests: Vec::new() }));
        let (shared, workers) = (state.clone(), job.workers().clone());
        let serving = job.workers().spawn("fake server", async move {
            let mut open = Vec::new();
            loop {
                let (stream, _) = listener.accept().await.map_err(failed)?;
                open.push(workers.spawn("fake connection", serve(stream, shared.clone())));
            }
        });
        Self { endpoint, state, _serving: serving }
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await? {
        let answer = state.lock().unwrap().answer(&request);
        stream.write_all(&answer).await.map_err(failed)?;
    }
    Ok(())
}

async fn read(stream: &mut BufReader<TcpStream>) -> Result<Option<Request>> {
    let mut first = String::new();
    if stream.read_line(&mut first).await.map_err(failed)? == 0 {
        return Ok(None);
    }
    let mut words = first.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.map_err(failed)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(failed)?;
    Ok(Some(Request { method, path, headers, body }))
}

fn reply(status: u16, headers: &[(&str, &str)], length: usize, body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn error_body(code: &str) -> Vec<u8> {
    // real services quote the key they were given
    format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no: AKIDEXAMPLE</Message>\
         <Resource>/</Resource><RequestId>1</RequestId></Error>"
    )
    .into_bytes()
}

impl State {
    fn answer(&mut self, request: &Request) -> Vec<u8> {
        self.requests.push(format!("{} {}", request.method, request.path));
        if let Fault::Refuses(status, code) = self.fault {
            let body = error_body(code);
            let sent = if request.method == "HEAD" { &[][..] } else { &body };
            return reply(status, &[], body.len(), sent);
        }
        match request.method.as_str() {
            "PUT" => self.put(request),
            "HEAD" | "GET" => self.get(request),
            other => panic!("the fake server does not know {other}"),
        }
    }

    fn put(&mut self, request: &Request) -> Vec<u8> {
        let ok = reply(200, &[("etag", "\"1\"")], 0, b"");
        let exists = self.objects.contains_key(&request.path);
        if exists && request.headers.contains_key("if-none-match") {
            let body = error_body("PreconditionFailed");
            return reply(412, &[], body.len(), &body);
        }
        let mark = request.headers.get("x-amz-meta-lifeboat-put").cloned();
        let mut body = request.body.clone();
        let answer = match self.fault {
            Fault::None | Fault::Refuses(..) => ok,
            Fault::Truncates => {
                body.pop();
                ok
            }
            Fault::Loses => return ok,
            Fault::ErrorBody => {
                let body = error_body("InternalError");
                return reply(200, &[], body.len(), &body);
            }
            Fault::LosesAnswer => {
                self.fault = Fault::None;
                let body = error_body("InternalError");
                reply(500, &[], body.len(), &body)
            }
        };
        self.objects.insert(request.path.clone(), (body, mark));
        answer
    }

    fn get(&self, request: &Request) -> Vec<u8> {
        let Some((body, mark)) = self.objects.get(&request.path) else {
            let body = error_body("NoSuchKey");
            let sent = if request.method == "HEAD" { &[][..] } else { &body };
            return reply(404, &[], body.len(), sent);
        };
        let mut headers = vec![("etag", "\"1\""), ("last-modified", "Sat, 21 Nov 2026 00:00:00 GMT")];
        if let Some(mark) = mark {
            headers.push(("x-amz-meta-lifeboat-put", mark));
        }
        let sent = if request.method == "HEAD" { &[][..] } else { body };
        reply(200, &headers, body.len(), sent)
    }
}
