//! Storage in an S3-compatible service, through OpenDAL.
//!
//! Owns the settings, the transport, retries and timeouts, and what an answer of the service means. Believes no answer:
//! after every put the object's size is read back, because services have answered 200 and stored nothing.

mod error;
#[cfg(test)]
mod fake_server;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use opendal::layers::TimeoutLayer;
use opendal::{Buffer, EntryMode, HttpTransporter, Metadata, Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;
use serde::{Deserialize, Serialize};

use super::key::{check_key, check_prefix};
use super::{OBJECT_BYTES_MAX, ObjectMeta, Overwrite, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::runtime::retry::RetryPolicy;
use crate::runtime::secret::{Secret, SecretRef};
use error::{error_kind, hint, is_refused_create};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One small request: stat, delete, a page of a listing.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// One whole object up or down. The largest object passes at 1 MiB/s.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(300);
/// Ours, not the library's retry layer: that one calls every error persistent, so that a refusal and an outage look alike.
const TRIES: RetryPolicy =
    RetryPolicy { attempts_max: 5, first_wait: Duration::from_millis(200), wait_max: Duration::from_secs(5) };
/// Marks an object with the put that wrote it, so that a retried create recognises its own first try.
const PUT_MARK: &str = "lifeboat-put";

/// `[destination.NAME]` of type `s3`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectSettings {
    /// `https://host[:port]`. `http` only makes sense on loopback or a trusted network.
    pub endpoint: String,
    pub bucket: String,
    #[serde(default = "default_region")]
    pub region: String,
    /// Objects go below this path of the bucket. Empty: to its top.
    #[serde(default)]
    pub prefix: String,
    pub access_key: SecretRef,
    pub secret_key: SecretRef,
    #[serde(default)]
    pub addressing: Addressing,
}

/// How the bucket is named in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Addressing {
    /// `https://host/bucket/key`: MinIO and most others.
    #[default]
    Path,
    /// `https://bucket.host/key`: Aliyun OSS.
    Host,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

impl ObjectSettings {
    /// Every problem at once, as `(key, message)`.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut problem = |key: &str, message: &str| problems.push((key.to_owned(), message.to_owned()));
        let host = ["https://", "http://"].iter().find_map(|scheme| self.endpoint.strip_prefix(scheme));
        if host.is_none_or(|h| h.is_empty() || h.contains('@')) {
            problem("endpoint", "must be http:// or https:// and a host, without credentials");
        }
        if self.bucket.is_empty() || self.bucket.contains('/') {
            problem("bucket", "must be the name of a bucket");
        }
        if self.region.is_empty() {
            problem("region", "must not be empty; `us-east-1` suits services that have no regions");
        }
        let prefix = self.prefix.trim_matches('/');
        if !prefix.is_empty() && check_key(prefix).is_err() {
            problem("prefix", "must be parts of letters, digits, . _ - joined by /");
        }
        problems
    }
}

#[derive(Clone, Debug)]
pub struct ObjectStorage {
    operator: Operator,
    location: String,
    /// Kept to take it out of what services quote in their errors.
    access_key: Secret<String>,
}

impl ObjectStorage {
    /// Reads the secrets. Does not speak to the service: use `conformance::check` for that.
    pub fn open(settings: &ObjectSettings) -> Result<Self> {
        if let Some((key, message)) = settings.check().into_iter().next() {
            return Err(Error::new(ErrorKind::Config, "open object storage").with("key", key).why(message));
        }
        install_transport()?;
        let (access_key, secret_key) = (settings.access_key.read()?, settings.secret_key.read()?);
        let prefix = settings.prefix.trim_matches('/');
        let builder = services::S3::default()
            .endpoint(&settings.endpoint)
            .bucket(&settings.bucket)
            .region(&settings.region)
            .root(&format!("/{prefix}"))
            .access_key_id(access_key.expose())
            .secret_access_key(secret_key.expose())
            .disable_config_load()
            .disable_ec2_metadata();
        let builder = match settings.addressing {
            Addressing::Path => builder,
            Addressing::Host => builder.enable_virtual_host_style(),
        };
        let operator = Operator::new(builder)
            .map_err(|e| Error::new(ErrorKind::Config, "open object storage").because(e))?
            .layer(TimeoutLayer::new().with_timeout(REQUEST_TIMEOUT).with_io_timeout(TRANSFER_TIMEOUT));
        let location = format!("s3://{}/{prefix}", settings.bucket);
        Ok(Self { operator, location: location.trim_end_matches('/').to_owned(), access_key })
    }

    fn error(&self, op: &'static str, key: &str, source: opendal::Error) -> Error {
        let kind = error_kind(&source);
        let error = Error::new(kind, op).with("key", key).with("storage", &self.location);
        let error = match hint(kind) {
            Some(hint) => error.hint(hint),
            None => error,
        };
        let text = source.to_string();
        if text.contains(self.access_key.expose()) {
            // services quote the key they refuse
            return error.why(text.replace(self.access_key.expose(), "[access key]"));
        }
        error.because(source)
    }

    async fn head(&self, key: &str, job: &JobContext) -> Result<Option<Metadata>> {
        let stat = async |_| match self.operator.stat(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(e) if e.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.error("stat object", key, e)),
        };
        TRIES.run(job, "stat object", stat).await
    }

    async fn list_once(&self, prefix: &str, job: &JobContext) -> Result<Vec<ObjectMeta>> {
        let path = if prefix.is_empty() { "/" } else { prefix };
        let failed = |e| self.error("list objects", prefix, e);
        let mut lister = self.operator.lister_with(path).recursive(true).await.map_err(failed)?;
        let mut found = Vec::new();
        while let Some(entry) = lister.try_next().await.map_err(failed)? {
            job.progress().beat();
            if entry.metadata().mode() == EntryMode::FILE && check_key(entry.path()).is_ok() {
                found.push(ObjectMeta {
                    key: entry.path().to_owned(),
                    bytes: entry.metadata().content_length(),
                });
            }
        }
        Ok(found)
    }

    async fn write(
        &self,
        key: &str,
        body: Buffer,
        overwrite: Overwrite,
        mark: &str,
    ) -> Result<(), opendal::Error> {
        let writing =
            self.operator.write_with(key, body).user_metadata([(PUT_MARK.to_owned(), mark.to_owned())]);
        match overwrite {
            Overwrite::Forbid => writing.if_not_exists(true).await?,
            Overwrite::Allow => writing.await?,
        };
        Ok(())
    }

    /// What the service says is there after a put, against what was sent.
    fn confirm(&self, key: &str, sent: u64, found: Option<&Metadata>) -> Result<()> {
        let broken = |why: String| {
            Error::new(ErrorKind::Failed, "store object")
                .with("key", key)
                .with("storage", &self.location)
                .why(why)
                .hint("the service accepts objects that it does not keep: probe the destination before trusting it")
        };
        match found.map(Metadata::content_length) {
            Some(bytes) if bytes == sent => Ok(()),
            Some(bytes) => Err(broken(format!("the service said yes to {sent} bytes and holds {bytes}"))),
            None => Err(broken("the service said yes and has no such object".to_owned())),
        }
    }
}

#[async_trait]
impl Storage for ObjectStorage {
    fn location(&self) -> String {
        self.location.clone()
    }

    async fn put(&self, key: &str, parts: Vec<Bytes>, overwrite: Overwrite, job: &JobContext) -> Result<()> {
        check_key(key)?;
        let sent: u64 = parts.iter().map(|p| p.len() as u64).sum();
        if sent > OBJECT_BYTES_MAX {
            return Err(Error::bug("store object").with("key", key).with("bytes", sent));
        }
        let mark = format!("{:08x}{:08x}", job.clock().random(), job.clock().random());
        let body = Buffer::from(parts);
        let writing = async |_| match self.write(key, body.clone(), overwrite, &mark).await {
            Ok(()) => Ok(None),
            Err(e) if is_refused_create(&e) => Ok(Some(e)),
            Err(e) => Err(self.error("store object", key, e)),
        };
        let refused = TRIES.run(job, "store object", writing).await?;
        job.progress().beat();
        let found = self.head(key, job).await?;
        if let Some(refusal) = refused {
            // a try whose answer was lost may have stored it
            let mine = found.as_ref().and_then(Metadata::user_metadata);
            if mine.and_then(|m| m.get(PUT_MARK)) != Some(&mark) {
                return Err(self.error("store object", key, refusal));
            }
        }
        self.confirm(key, sent, found.as_ref())
    }

    async fn get(&self, key: &str, job: &JobContext) -> Result<Bytes> {
        check_key(key)?;
        let found = self.head(key, job).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "read object").with("key", key).with("storage", &self.location)
        })?;
        let bytes = found.content_length();
        if bytes > OBJECT_BYTES_MAX {
            return Err(Error::new(ErrorKind::Exhausted, "read object")
                .with("key", key)
                .with("bytes", bytes)
                .why(format!("an object has at most {OBJECT_BYTES_MAX} bytes")));
        }
        let reading = async |_| {
            let body = self.operator.read(key).await;
            body.map_err(|e| self.error("read object", key, e))
        };
        let body = TRIES.run(job, "read object", reading).await?;
        job.progress().beat();
        // replaced in between, or cut off
        if body.len() as u64 > OBJECT_BYTES_MAX {
            return Err(Error::new(ErrorKind::Exhausted, "read object").with("key", key));
        }
        Ok(body.to_bytes())
    }

    async fn stat(&self, key: &str, job: &JobContext) -> Result<Option<ObjectMeta>> {
        check_key(key)?;
        let found = self.head(key, job).await?;
        Ok(found.map(|meta| ObjectMeta { key: key.to_owned(), bytes: meta.content_length() }))
    }

    async fn list(&self, prefix: &str, job: &JobContext) -> Result<Vec<ObjectMeta>> {
        check_prefix(prefix)?;
        let listing = async |_| self.list_once(prefix, job).await;
        let mut found = TRIES.run(job, "list objects", listing).await?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn delete(&self, key: &str, job: &JobContext) -> Result<()> {
        check_key(key)?;
        let deleting = async |_| match self.operator.delete(key).await {
            Err(e) if e.kind() != opendal::ErrorKind::NotFound => Err(self.error("delete object", key, e)),
            Ok(()) | Err(_) => Ok(()),
        };
        TRIES.run(job, "delete object", deleting).await
    }

    async fn free_bytes(&self, _job: &JobContext) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// OpenDAL finds no transport of its own in this build: every service would fail when first used.
fn install_transport() -> Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .build()
        .map_err(|e| Error::new(ErrorKind::Failed, "set up the HTTP client").because(e))?;
    HttpTransporter::install_default(ReqwestTransport::new(client));
    *installed = true;
    Ok(())
}
