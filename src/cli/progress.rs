//! Progress bars on a terminal; nothing where there is none.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::error::Error;
use crate::runtime::workers::Task;
use crate::runtime::{JobContext, Progress, Workers};

const LOOK_EVERY: Duration = Duration::from_millis(120);

/// Bars of several jobs below each other. Hidden when standard error is no terminal.
#[derive(Clone, Debug)]
pub struct Bars {
    all: MultiProgress,
    workers: Workers,
}

/// The bar of one job; goes away with it.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    _watch: Task<()>,
}

impl Bars {
    pub fn new(workers: &Workers) -> Self {
        Self { all: MultiProgress::new(), workers: workers.clone() }
    }

    pub fn watch(&self, name: &str, job: &JobContext) -> Bar {
        self.watch_progress(name, job.shared_progress())
    }

    pub fn watch_progress(&self, name: &str, progress: Arc<Progress>) -> Bar {
        let bar = self.all.add(ProgressBar::no_length());
        bar.set_prefix(name.to_owned());
        let shown = bar.clone();
        let watch = self.workers.spawn("progress bar", async move {
            let mut known_total = None;
            loop {
                let total = progress.total();
                if known_total != Some(total) {
                    known_total = Some(total);
                    shown.set_style(style(total > 0));
                    shown.set_length(total);
                }
                shown.set_position(progress.bytes());
                shown.set_message(progress.phase());
                shown.tick();
                tokio::time::sleep(LOOK_EVERY).await;
            }
            #[expect(unreachable_code, reason = "the task is aborted with its bar; the type names its error")]
            Ok::<(), Error>(())
        });
        Bar { bar, _watch: watch }
    }

    /// Prints a line above the bars.
    pub fn line(&self, text: &str) {
        if let Err(error) = self.all.println(text) {
            tracing::debug!(%error, "no terminal to print to");
        }
    }
}

#[expect(clippy::fn_params_excessive_bools, reason = "one local yes or no")]
fn style(has_total: bool) -> ProgressStyle {
    let template = if has_total {
        "  {prefix:16} {bar:30} {bytes:>10} of about {total_bytes:10} {bytes_per_sec:>12}  {msg}"
    } else {
        "  {prefix:16} {spinner} {bytes:>10} {bytes_per_sec:>12}  {msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
