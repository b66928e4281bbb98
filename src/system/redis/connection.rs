//! One connection to a server: TCP or TLS, authentication, commands and pipelines in RESP2.
//!
//! Our own rather than a crate's, because the replication protocol needs the raw stream right behind the handshake, and
//! one way to connect and to authenticate must serve both. Replies are read with limits; secrets never enter an error.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::resp::{self, Reply};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::runtime::secret::SecretRef;

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// A server that works on one command for longer is taken for hung.
const REPLY_MAX: Duration = Duration::from_secs(600);
const READ_BYTES: usize = 64 * 1024;

/// Where a server is and how to get in.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub user: Option<String>,
    pub password: Option<SecretRef>,
    pub tls: Option<TlsFiles>,
}

#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

pub struct Connection {
    stream: Box<dyn Stream>,
    received: BytesMut,
    address: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// A throwaway server on loopback: no password, no TLS.
    pub fn open(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, user: None, password: None, tls: None }
    }

    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Connects and authenticates. `Unreachable` when nothing answers, `Denied` when the password is not accepted.
    pub async fn connect(&self, job: &JobContext) -> Result<Connection> {
        let work = async {
            match tokio::time::timeout(CONNECT_MAX, self.connect_now()).await {
                Ok(done) => done,
                Err(_) => Err(self.unreachable().why("it did not answer in time")),
            }
        };
        let mut connection = job.run("connect to redis", work).await?;
        if let Some(reference) = &self.password {
            let secret = reference.read()?;
            let mut command: Vec<&[u8]> = vec![b"AUTH"];
            command.extend(self.user.as_ref().map(String::as_bytes));
            command.push(secret.expose().as_bytes());
            connection.call(&command, job).await.map_err(|e| e.during("authenticate"))?;
        }
        Ok(connection)
    }

    async fn connect_now(&self) -> Result<Connection> {
        let tcp = tokio::net::TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|e| self.unreachable().because(e))?;
        tcp.set_nodelay(true).map_err(|e| self.unreachable().because(e))?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(files) => {
                let connector = tokio_rustls::TlsConnector::from(Arc::new(files.config()?));
                let name = ServerName::try_from(self.host.clone())
                    .map_err(|e| Error::new(ErrorKind::Config, "use host name for TLS").because(e))?;
                let tls = connector.connect(name, tcp).await.map_err(|e| {
                    Error::new(ErrorKind::Unreachable, "open a TLS connection")
                        .with("server", self.address())
                        .because(e)
                        .hint("check tls, ca_file, cert_file and key_file against the server's tls- settings")
                })?;
                Box::new(tls)
            }
        };
        Ok(Connection { stream, received: BytesMut::new(), address: self.address() })
    }

    fn unreachable(&self) -> Error {
        Error::new(ErrorKind::Unreachable, "connect to redis")
            .with("server", self.address())
            .hint("check that the server runs and that host and port are right")
    }
}

impl TlsFiles {
    fn config(&self) -> Result<rustls::ClientConfig> {
        let bad = |path: &PathBuf, e: rustls::pki_types::pem::Error| {
            Error::new(ErrorKind::Config, "read PEM file").with("path", path.display()).because(e)
        };
        let mut roots = rustls::RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for cert in CertificateDer::pem_file_iter(path).map_err(|e| bad(path, e))? {
                    let added = roots.add(cert.map_err(|e| bad(path, e))?);
                    added.map_err(|e| Error::new(ErrorKind::Config, "use authority").because(e))?;
                }
            }
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::bug("set up TLS").because(e))?
            .with_root_certificates(roots);
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
            .map_err(|e| bad(cert, e))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, e))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| Error::new(ErrorKind::Config, "use client certificate").because(e))
    }
}

impl Connection {
    /// One command; an error reply is an error here.
    pub async fn call(&mut self, command: &[&[u8]], job: &JobContext) -> Result<Reply> {
        let mut bytes = Vec::with_capacity(256);
        resp::encode(command, &mut bytes);
        self.send(&bytes, job).await?;
        let name = command.first().copied().unwrap_or_default();
        self.receive(job).await?.into_result(name)
    }

    /// One command given as words.
    pub async fn ask(&mut self, words: &[&str], job: &JobContext) -> Result<Reply> {
        let command: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
        self.call(&command, job).await
    }

    pub async fn send(&mut self, bytes: &[u8], job: &JobContext) -> Result<()> {
        let (stream, address) = (&mut self.stream, &self.address);
        job.run("send to redis", async {
            let written = async {
                stream.write_all(bytes).await?;
                stream.flush().await
            };
            match tokio::time::timeout(REPLY_MAX, written).await {
                Ok(done) => done.map_err(|e| lost(address, "send to redis", e)),
                Err(_) => Err(silent(address)),
            }
        })
        .await
    }

    /// The next reply, an error reply being a value.
    pub async fn receive(&mut self, job: &JobContext) -> Result<Reply> {
        loop {
            if let Some(reply) = resp::take_reply(&mut self.received)? {
                return Ok(reply);
            }
            self.fill(REPLY_MAX, job).await?;
        }
    }

    /// The next line without its end; lines that are empty (keep-alives) are passed over.
    pub async fn line(&mut self, silence_max: Duration, job: &JobContext) -> Result<String> {
        loop {
            while let Some(end) = self.received.iter().position(|b| *b == b'\n') {
                let line = self.received.split_to(end + 1);
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if !text.is_empty() {
                    return Ok(text);
                }
                job.progress().beat();
            }
            if self.received.len() > READ_BYTES {
                return Err(Error::new(ErrorKind::Corrupt, "read a line").with("server", &self.address));
            }
            self.fill(silence_max, job).await?;
        }
    }

    /// Reads what has come, at least one byte, behind what was received and not used yet.
    pub async fn fill(&mut self, silence_max: Duration, job: &JobContext) -> Result<usize> {
        self.received.reserve(READ_BYTES);
        let (stream, received, address) = (&mut self.stream, &mut self.received, &self.address);
        job.run("read from redis", async {
            match tokio::time::timeout(silence_max, stream.read_buf(received)).await {
                Ok(Ok(0)) => Err(lost(address, "read from redis", std::io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(n)) => Ok(n),
                Ok(Err(e)) => Err(lost(address, "read from redis", e)),
                Err(_) => Err(silent(address)),
            }
        })
        .await
    }

    /// Bytes received and not used yet; for the snapshot that follows a handshake.
    pub fn received(&mut self) -> &mut BytesMut {
        &mut self.received
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

fn lost(address: &str, op: &'static str, error: std::io::Error) -> Error {
    // whatever the system calls it: the connection is gone
    Error::new(ErrorKind::Unreachable, op)
        .with("server", address)
        .because(error)
        .hint("the server closed the connection: look into its log")
}

fn silent(address: &str) -> Error {
    Error::new(ErrorKind::Unreachable, "get an answer")
        .with("server", address)
        .why("the server stopped answering")
}
