//! Publishing a tool when it has been installed, before the job changes it.

use std::time::Duration;

use init::Deadline;

use super::parent::Told;
use super::worker::Act;
use super::{Caches, Condition, Published, read};
use crate::config::{CacheMode, CachePublish};
use crate::job_report::{Trust, trust};
use crate::lifecycle::Task;

/// Longer than any job.
const FOREVER: Duration = Duration::from_secs(35 * 24 * 3600);
/// A storage that does not answer until then is not waited for.
const HAND_OVER: Duration = Duration::from_secs(30);

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
        let mut watched = self.watch_once(children, condition.clone()).await;
        if watched.as_ref().is_ok_and(|watched| watched.denied) {
            // A new store belongs to root: only root can change that, once.
            match self.hand_over(children, Deadline::within(HAND_OVER)).await {
                Ok(true) => watched = self.watch_once(children, condition).await,
                Ok(false) => {}
                Err(error) => tracing::debug!("the store cannot be handed over: {error:#}"),
            }
        }
        let problems = watched.map_or_else(
            |error| format!("{error:#}"),
            |watched| watched.problems.join("; "),
        );
        tracing::warn!("tools are published at the end: {problems}");
    }

    /// Watches until it cannot go on; what it came to.
    async fn watch_once(
        &self,
        children: &init::Children,
        condition: Condition,
    ) -> anyhow::Result<Published> {
        let forever = Deadline::within(FOREVER);
        let condition = self.writing(condition);
        let mut running = self.start(children, Act::Watch(condition), None, forever)?;
        loop {
            match running.next(forever).await {
                Told::Event(::caches::Event::Published(unit)) => {
                    tracing::info!(%unit, "published while the job goes on");
                }
                Told::Event(_) | Told::Progress(_) => {}
                Told::End(end) => return read(&end?),
            }
        }
    }
}
