//! Passwords, users, rights and TLS.

use std::path::PathBuf;

use super::super::settings::Tls;
use super::*;
use crate::error::ErrorKind;
use crate::runtime::child::Program;
use crate::runtime::secret::SecretRef;
use crate::system::testing::free_port;
use crate::system::{Canary, HealthState};

fn secret(directory: &Path, text: &str) -> SecretRef {
    let path = directory.join(text);
    std::fs::write(&path, text).unwrap();
    SecretRef::parse(&format!("file:{}", path.display())).unwrap()
}

#[tokio::test]
async fn a_user_with_the_rights_of_a_replica_can_take_a_backup() {
    let live = Live::filled().await;
    let secrets = tempfile::tempdir().unwrap();
    live.run("ACL SETUSER saver on >open-sesame +psync +replconf +ping +info").await;
    let with = |user: &str, password: &str| {
        engine(Settings {
            user: Some(user.to_owned()),
            password: Some(secret(secrets.path(), password)),
            ..live.system.settings.clone()
        })
    };
    let saver = with("saver", "open-sesame");
    let backups = MemoryBackups::default();
    let manifest = backups.take(&saver, BackupKind::Full, &[], &live.job).await.unwrap();
    assert_eq!(manifest.captured.fingerprint.total(), 22);
    let notes = manifest.captured.notes.join("\n");
    assert!(notes.contains("users were not captured") && notes.contains("configuration was not"), "{notes}");
    assert_eq!(saver.probe(&live.job).await.unwrap().state, HealthState::Healthy);
    // the wrong password
    let wrong = with("saver", "open-barley");
    let error = backups.take(&wrong, BackupKind::Full, &[], &live.job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.advice().unwrap().contains("password"), "{error}");
    assert!(!format!("{error:?}").contains("barley"));
    let health = wrong.probe(&live.job).await.unwrap();
    assert_eq!(health.state, HealthState::Degraded);
    // no right to replicate
    live.run("ACL SETUSER saver -psync +acl").await;
    let error = backups.take(&saver, BackupKind::Full, &[], &live.job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.advice().unwrap().contains("+psync"), "{error}");
    let health = saver.probe(&live.job).await.unwrap();
    assert_eq!(health.state, HealthState::Degraded);
    assert!(health.findings[0].contains("+psync"), "{health:?}");
}

#[tokio::test]
async fn a_server_with_a_password_tells_that_one_is_missing() {
    let live = Live::filled().await;
    let backups = MemoryBackups::default();
    live.run("CONFIG SET requirepass the-word").await;
    let error = live.take(&backups).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.advice().unwrap().contains("password"));
    let secrets = tempfile::tempdir().unwrap();
    let system = engine(Settings {
        password: Some(secret(secrets.path(), "the-word")),
        ..live.system.settings.clone()
    });
    let manifest = backups.take(&system, BackupKind::Full, &[], &live.job).await.unwrap();
    assert_eq!(manifest.captured.fingerprint.total(), 22);
}

/// A key and a certificate for 127.0.0.1, signed by itself, which the server's account can read.
async fn certificate(directory: &Path, job: &JobContext) -> (PathBuf, PathBuf) {
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    Program::find("openssl", &[], "")
        .unwrap()
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output(job)
        .await
        .unwrap();
    (cert, key)
}

#[tokio::test]
async fn tls_is_spoken_with_and_without_a_client_certificate() {
    let live = Live::filled().await;
    let dir = live.server.place.dir.clone();
    let (cert, key) = certificate(&dir, &live.job).await;
    if let Some(account) = &live.server.account {
        account.own_tree(&dir).unwrap();
    }
    let port = free_port().unwrap();
    let (cert_text, key_text) = (cert.display(), key.display());
    live.run(&format!(
        "CONFIG SET tls-cert-file {cert_text} tls-key-file {key_text} tls-ca-cert-file {cert_text} tls-port {port}"
    ))
    .await;
    let bare = Settings { port, tls: Tls::On, ca_file: Some(cert.clone()), ..Settings::default() };
    let full = Settings { cert_file: Some(cert), key_file: Some(key), ..bare.clone() };
    let backups = MemoryBackups::default();
    let manifest = backups.take(&engine(full), BackupKind::Full, &[], &live.job).await.unwrap();
    assert_eq!(manifest.captured.fingerprint.total(), 22);
    // the server insists on a client certificate until told otherwise
    assert!(engine(bare.clone()).read(&Place::Production, &live.job).await.is_err());
    live.run("CONFIG SET tls-auth-clients no").await;
    engine(bare.clone()).read(&Place::Production, &live.job).await.unwrap();
    let stranger = Settings { ca_file: None, ..bare };
    let error = engine(stranger).read(&Place::Production, &live.job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.advice().unwrap().contains("ca_file"), "{error}");
}
