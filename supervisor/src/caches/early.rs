//! Publishing a tool when it has been installed, before the job changes it.

use std::time::Duration;

use init::Deadline;

use super::parent::Told;
use super::worker::Act;
use super::{Caches, Condition};
use crate::config::{CacheMode, CachePublish};
use crate::job_report::{Trust, trust};
use crate::lifecycle::Task;

/// Longer than any job.
const FOREVER: Duration = Duration::from_secs(35 * 24 * 3600);

impl Task<'_> {
    /// Publishes what the job installs, while it runs, if it may. Goes on until it is dropped.
    pub(crate) async fn publish_early(&self) -> std::convert::Infallible {
        if let (Some(caches), Some(settings)) = (&self.caches, &self.settings.caches)
            && settings.mode == CacheMode::ReadWrite
            && matches!(settings.publish, CachePublish::Trusted | CachePublish::All)
        {
            let report = self.reported.come().await;
            if settings.publish == CachePublish::All || trust(Some(&report)) == Trust::Trusted {
                let run = report.run_id.map(|id| id.to_string()).unwrap_or_default();
                let condition = Condition {
                    known: caches.known(),
                    by: format!("{} {run}", report.repository),
                    ..Condition::default()
                };
                caches.watch(self.children, condition).await;
            }
        }
        std::future::pending().await
    }
}

impl Caches {
    async fn watch(&self, children: &init::Children, condition: Condition) {
        let forever = Deadline::within(FOREVER);
        let mut running = match self.start(children, Act::Watch(condition), None, forever) {
            Ok(running) => running,
            Err(error) => return tracing::warn!("tools are published at the end: {error:#}"),
        };
        loop {
            match running.next(forever).await {
                Told::Event(::caches::Event::Published(unit)) => {
                    tracing::info!(%unit, "published while the job goes on");
                }
                Told::Event(_) | Told::Progress(_) => {}
                Told::End(Ok(_)) => return,
                Told::End(Err(error)) => {
                    return tracing::warn!("tools are published at the end: {error:#}");
                }
            }
        }
    }
}
