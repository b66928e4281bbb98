//! The `lifeboat` program: one actix system on a multi-thread tokio runtime, so that actors and work never share a thread.

use std::process::ExitCode;

fn main() -> ExitCode {
    // the first call wins; a second one would be a second TLS provider, which nobody installs
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is already installed");
    }
    let runtime = || {
        #[expect(clippy::expect_used, reason = "without a runtime there is nothing to report an error with")]
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("start the tokio runtime")
    };
    actix::System::with_tokio_rt(runtime).block_on(lifeboat::cli::main())
}
