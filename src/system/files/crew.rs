//! Runs blocking work with a helper beside it, through the workers of the job.

use std::sync::Arc;

use crate::archive::Crew;
use crate::error::{Error, Result};
use crate::runtime::JobContext;

/// Runs `work` on a blocking thread; once it runs, a second one helps it with what it submits to the crew.
pub(super) async fn with_helper<T: Send + 'static>(
    name: &'static str,
    job: &JobContext,
    work: impl FnOnce(&Arc<Crew>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let crew = Arc::new(Crew::default());
    let (started, start) = tokio::sync::oneshot::channel();
    let main_crew = crew.clone();
    let main = job.workers().block(name, move || {
        let _shift = main_crew.shift();
        // without a helper it only takes longer
        if started.send(()).is_err() {
            tracing::debug!(name, "works alone");
        }
        work(&main_crew)
    });
    let helper = async {
        match start.await {
            Ok(()) => {
                job.workers()
                    .block(name, move || {
                        crew.serve();
                        Ok(())
                    })
                    .await
            }
            Err(_) => Ok::<(), Error>(()),
        }
    };
    let (done, helped) = futures_util::future::join(main, helper).await;
    helped?;
    done
}
