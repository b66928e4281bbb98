//! Opens a replication connection: reaches the server, encrypts, logs in by password, MD5 or SCRAM-SHA-256.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::client::{CONNECT_WAIT_MAX, Connector};
use super::replication::{Duplex, Incoming, Replication, broken, unexpected};
use super::tls;
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::runtime::JobContext;

/// Streaming waits for the sink now and then; the server must not take that for a dead client.
const STARTUP_OPTIONS: &str = "-c statement_timeout=0 -c wal_sender_timeout=300000";

const OPEN_TLS: &str = "open TLS";

impl Replication {
    /// Connects to production, logs in and asks for nothing yet.
    pub async fn open(connector: &Connector, job: &JobContext) -> Result<Self> {
        let limited = job.child(CONNECT_WAIT_MAX);
        let address = connector.address(&Place::Production)?;
        let result = limited.run("open replication connection", dial(connector, &limited)).await;
        result.map_err(|e| {
            let late = e.kind() == ErrorKind::DeadlineExceeded && job.check("connect").is_ok();
            let (kind, retry) =
                if late { (ErrorKind::Unreachable, Retry::Later) } else { (e.kind(), e.retry()) };
            let hint = if kind == ErrorKind::Unreachable {
                "is the server running, and are host and port right?"
            } else {
                "the user needs the REPLICATION attribute, its right password, \
                 and a line for database \"replication\" in pg_hba.conf"
            };
            let advised = e.op() == OPEN_TLS;
            let wrapped = Error::new(kind, "connect to PostgreSQL for replication")
                .with("host", &address.host)
                .with("port", address.port)
                .with("user", &connector.settings().user)
                .because(e)
                .retry_as(retry);
            if advised { wrapped } else { wrapped.hint(hint) }
        })
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the driver's list of messages is open; others are refused"
    )]
    async fn log_in(&mut self, connector: &Connector, job: &JobContext) -> Result<()> {
        let settings = connector.settings();
        let mut out = BytesMut::new();
        let parameters = [
            ("user", settings.user.as_str()),
            ("replication", "true"),
            ("application_name", "lifeboat"),
            ("client_encoding", "UTF8"),
            ("options", STARTUP_OPTIONS),
        ];
        frontend::startup_message(parameters, &mut out).map_err(|e| broken("log in", e))?;
        self.put(job, &out).await?;
        loop {
            let Incoming::Known(message) = self.message(job).await? else {
                return Err(unexpected("log in", "a stream"));
            };
            let mut out = BytesMut::new();
            match message {
                Message::AuthenticationOk | Message::BackendKeyData(_) => continue,
                Message::ReadyForQuery(_) => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    let password = password(connector)?;
                    frontend::password_message(password.expose().as_bytes(), &mut out)
                        .map_err(|e| broken("log in", e))?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let password = password(connector)?;
                    let hash = md5_hash(settings.user.as_bytes(), password.expose().as_bytes(), body.salt());
                    frontend::password_message(hash.as_bytes(), &mut out).map_err(|e| broken("log in", e))?;
                }
                Message::AuthenticationSasl(body) => {
                    let offered: Vec<String> = body
                        .mechanisms()
                        .map(|m| Ok(m.to_owned()))
                        .collect::<Vec<_>>()
                        .map_err(|e| broken("log in", e))?;
                    if !offered.iter().any(|m| m == SCRAM_SHA_256) {
                        return Err(unexpected("log in", "a way of logging in that is not known here"));
                    }
                    self.scram(connector, job).await?;
                    continue;
                }
                _ => {
                    return Err(Error::new(ErrorKind::Unsupported, "log in")
                        .why("the server asks for a way of logging in that is not known here")
                        .hint(
                            "use scram-sha-256, md5, password, trust or peer for this user in pg_hba.conf",
                        ));
                }
            }
            self.put(job, &out).await?;
        }
    }

    async fn scram(&mut self, connector: &Connector, job: &JobContext) -> Result<()> {
        let op = "log in by SCRAM";
        let password = password(connector)?;
        let mut scram = ScramSha256::new(password.expose().as_bytes(), ChannelBinding::unsupported());
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut out)
            .map_err(|e| broken(op, e))?;
        self.put(job, &out).await?;
        let Incoming::Known(Message::AuthenticationSaslContinue(body)) = self.message(job).await? else {
            return Err(unexpected(op, "no challenge"));
        };
        scram.update(body.data()).map_err(|e| broken(op, e))?;
        let mut out = BytesMut::new();
        frontend::sasl_response(scram.message(), &mut out).map_err(|e| broken(op, e))?;
        self.put(job, &out).await?;
        let Incoming::Known(Message::AuthenticationSaslFinal(body)) = self.message(job).await? else {
            return Err(unexpected(op, "no proof"));
        };
        // the server proves here that it knows the password too
        scram.finish(body.data()).map_err(|e| Error::new(ErrorKind::Denied, op).because(e))
    }
}

async fn dial(connector: &Connector, job: &JobContext) -> Result<Replication> {
    let address = connector.address(&Place::Production)?;
    let away = |e: std::io::Error| Error::new(ErrorKind::Unreachable, "reach server").because(e);
    let stream: Box<dyn Duplex> = if address.host.starts_with('/') {
        let path = format!("{}/.s.PGSQL.{}", address.host, address.port);
        Box::new(UnixStream::connect(path).await.map_err(away)?)
    } else {
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(away)?;
        tcp.set_nodelay(true).map_err(away)?;
        match tls::client_config(connector.settings())? {
            None => Box::new(tcp),
            Some(config) => encrypt(tcp, config, &address.host).await?,
        }
    };
    let mut connection = Replication::over(stream);
    connection.log_in(connector, job).await?;
    Ok(connection)
}

async fn encrypt(mut tcp: TcpStream, config: rustls::ClientConfig, host: &str) -> Result<Box<dyn Duplex>> {
    let op = OPEN_TLS;
    let away = |e: std::io::Error| Error::new(ErrorKind::Unreachable, op).because(e);
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    tcp.write_all(&out).await.map_err(away)?;
    // exactly one byte: anything sent before the handshake must not be believed afterwards
    if tcp.read_u8().await.map_err(away)? != b'S' {
        return Err(Error::new(ErrorKind::Unsupported, op)
            .why("the server offers no TLS")
            .hint("turn on ssl on the server, or set tls = \"off\""));
    }
    let name = rustls::pki_types::ServerName::try_from(host.to_owned())
        .map_err(|e| Error::new(ErrorKind::Config, op).with("host", host).because(e))?;
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector.connect(name, tcp).await.map_err(|e| {
        Error::new(ErrorKind::Denied, op)
            .because(e)
            .hint("is the certificate valid for this host, and does ca_file name its authority?")
    })?;
    Ok(Box::new(stream))
}

fn password(connector: &Connector) -> Result<crate::runtime::secret::Secret<String>> {
    let reference = connector.settings().password.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::Denied, "log in")
            .why("the server wants a password and none is configured")
            .hint("set password = \"env:NAME\" or \"file:/path\"")
    })?;
    reference.read()
}
