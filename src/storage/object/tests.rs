//! What an answer of a service means, against a server that misbehaves; and the conformance suite against MinIO.

use std::path::{Path, PathBuf};

use super::fake_server::{FakeServer, Fault};
use super::*;
use crate::error::Retry;
use crate::runtime::child::Program;
use crate::storage::conformance;
use crate::system::testing::free_port;

/// Secrets as files, and settings that name them.
fn settings(endpoint: &str, home: &Path, access: &str, secret: &str) -> ObjectSettings {
    let file = |name: &str, value: &str| {
        let path = home.join(name);
        std::fs::write(&path, value).unwrap();
        SecretRef::parse(&format!("file:{}", path.display())).unwrap()
    };
    ObjectSettings {
        endpoint: endpoint.to_owned(),
        bucket: "backups".to_owned(),
        region: default_region(),
        prefix: "site/a".to_owned(),
        access_key: file("access", access),
        secret_key: file("secret", secret),
        addressing: Addressing::Path,
    }
}

struct Fake {
    server: FakeServer,
    storage: ObjectStorage,
    job: JobContext,
    _home: tempfile::TempDir,
}

impl Fake {
    async fn with(fault: Fault) -> Self {
        let (job, home) = (JobContext::plain(), tempfile::tempdir().unwrap());
        let server = FakeServer::start(fault, &job).await;
        let settings = settings(&server.endpoint, home.path(), "AKIDEXAMPLE", "hidden");
        let storage = ObjectStorage::open(&settings).unwrap();
        Self { server, storage, job, _home: home }
    }

    async fn put(&self, overwrite: Overwrite) -> Result<()> {
        let body = vec![Bytes::from_static(b"seg"), Bytes::from_static(b"ment")];
        self.storage.put("pg/0001", body, overwrite, &self.job).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_sends_one_request_and_reads_the_size_back() {
    let fake = Fake::with(Fault::None).await;
    fake.put(Overwrite::Forbid).await.unwrap();
    assert_eq!(fake.storage.get("pg/0001", &fake.job).await.unwrap(), "segment");
    let requests = fake.server.state.lock().unwrap().requests.clone();
    let path = "/backups/site/a/pg/0001";
    assert_eq!(requests[..2], [format!("PUT {path}"), format!("HEAD {path}")]);
    assert_eq!(fake.storage.location(), "s3://backups/site/a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_without_the_object_is_a_failure() {
    for fault in [Fault::ErrorBody, Fault::Loses, Fault::Truncates] {
        for overwrite in [Overwrite::Forbid, Overwrite::Allow] {
            let fake = Fake::with(fault).await;
            let error = fake.put(overwrite).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Failed, "{fault:?}: {error}");
            assert!(error.to_string().contains("said yes"), "{fault:?}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_first_answer_was_lost_succeeds_when_tried_again() {
    let fake = Fake::with(Fault::LosesAnswer).await;
    fake.put(Overwrite::Forbid).await.unwrap();
    // and is a conflict for the next one
    let error = fake.put(Overwrite::Forbid).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    fake.put(Overwrite::Allow).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_become_our_kinds_and_never_show_a_key() {
    for (status, code, kind) in [
        (403, "InvalidAccessKeyId", ErrorKind::Denied),
        (403, "AccessDenied", ErrorKind::Denied),
        (404, "NoSuchBucket", ErrorKind::Config),
        (507, "XMinioStorageFull", ErrorKind::Exhausted),
        (400, "QuotaExceeded", ErrorKind::Exhausted),
        (400, "InvalidRequest", ErrorKind::Failed),
    ] {
        let fake = Fake::with(Fault::Refuses(status, code)).await;
        let error = fake.put(Overwrite::Forbid).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code}: {error}");
        assert_eq!(error.retry(), Retry::Never, "{code}");
        let text = format!("{error:?} {error}");
        assert!(!text.contains("AKIDEXAMPLE") && !text.contains("hidden"), "{text}");
        assert!(text.contains(code), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_down_is_unreachable_and_may_be_tried_later() {
    let home = tempfile::tempdir().unwrap();
    let endpoint = format!("http://127.0.0.1:{}", free_port().unwrap());
    let storage = ObjectStorage::open(&settings(&endpoint, home.path(), "a", "b")).unwrap();
    let job = JobContext::plain();
    let error = storage.stat("x", &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert_eq!(error.retry(), Retry::Later);
    assert!(error.advice().unwrap().contains("endpoint"), "{error}");
}

#[test]
fn every_wrong_setting_is_named() {
    let home = tempfile::tempdir().unwrap();
    let mut bad = settings("s3.example.org", home.path(), "a", "b");
    (bad.bucket, bad.region, bad.prefix) = ("a/b".to_owned(), String::new(), "../up".to_owned());
    let keys: Vec<String> = bad.check().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["endpoint", "bucket", "region", "prefix"]);
    assert_eq!(ObjectStorage::open(&bad).unwrap_err().kind(), ErrorKind::Config);
    let unknown = toml::from_str::<ObjectSettings>("bucket = 'b'\nbuckett = 'c'").unwrap_err();
    assert!(unknown.to_string().contains("buckett"), "{unknown}");
}

/// A MinIO of our own: pinned version, loopback, own port and directory. Killed and removed when dropped.
struct Minio {
    endpoint: String,
    _child: tokio::process::Child,
    home: tempfile::TempDir,
}

const MINIO_USER: &str = "lifeboat-test";
const MINIO_PASSWORD: &str = "not-a-secret-1";

impl Minio {
    fn program() -> PathBuf {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/servers");
        let out = std::process::Command::new(&script).args(["path", "minio"]).output().unwrap();
        assert!(
            out.status.success(),
            "MinIO is needed for this test and not installed: run `scripts/servers install minio`"
        );
        PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
    }

    async fn start(job: &JobContext) -> Self {
        let program = Self::program();
        let home = tempfile::Builder::new().prefix("lifeboat-minio-").tempdir().unwrap();
        // a directory at the top is a bucket
        std::fs::create_dir_all(home.path().join("data/backups")).unwrap();
        let address = |port: u16| format!("127.0.0.1:{port}");
        let own = address(free_port().unwrap());
        let child = Program::at(program)
            .args(["server", "--quiet", "--address", &own, "--console-address"])
            .arg(address(free_port().unwrap()))
            .arg("--certs-dir")
            .arg(home.path().join("certs"))
            .arg(home.path().join("data"))
            .env("HOME", home.path())
            .env("MINIO_ROOT_USER", MINIO_USER)
            .env("MINIO_ROOT_PASSWORD", MINIO_PASSWORD)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            .start_logged(&home.path().join("log"))
            .unwrap();
        let minio = Self { endpoint: format!("http://{own}"), _child: child, home };
        minio.ready(job).await;
        minio
    }

    /// Waits until an object can be stored; the service answers before it can.
    async fn ready(&self, job: &JobContext) {
        let job = job.child(Duration::from_secs(60));
        let storage = self.storage();
        while let Err(error) = storage.put("ready", vec![], Overwrite::Allow, &job).await {
            let log = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            job.sleep("wait for MinIO", Duration::from_millis(50))
                .await
                .unwrap_or_else(|_| panic!("MinIO does not start: {error}\n{log}"));
        }
    }

    fn storage(&self) -> ObjectStorage {
        ObjectStorage::open(&settings(&self.endpoint, self.home.path(), MINIO_USER, MINIO_PASSWORD)).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_conforms() {
    let job = JobContext::plain();
    let minio = Minio::start(&job).await;
    conformance::check(&minio.storage(), &job).await.unwrap();
    let wrong = settings(&minio.endpoint, minio.home.path(), MINIO_USER, "wrong-password");
    let refused = ObjectStorage::open(&wrong).unwrap();
    let error = refused.put("a", vec![], Overwrite::Allow, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!error.to_string().contains("wrong-password"), "{error}");
}
