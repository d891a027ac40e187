//! Publishing a tool when it has been installed, before the job changes it.

use std::time::Duration;

use ::caches::Event;
use ::caches::request::Act;
use init::Deadline;
use tokio::sync::oneshot;

use super::parent::{Running, Told};
use super::{Caches, Condition, Published, read};
use crate::config::{CacheMode, CachePublish};
use crate::job_report::{Trust, trust};
use crate::lifecycle::Task;

/// Longer than any job.
const FOREVER: Duration = Duration::from_secs(35 * 24 * 3600);
/// A storage that does not answer until then is not waited for.
const HAND_OVER: Duration = Duration::from_secs(30);
/// A worker that blocks in the storage when the job is over is not waited for longer.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Task<'_> {
    /// Publishes what the job installs, while it runs, if it may. Returns when `over` is dropped,
    /// and counts what was published by then.
    pub(crate) async fn publish_early(&self, over: oneshot::Receiver<()>) {
        let Some(caches) = &self.caches else { return };
        let mut watching = None;
        tokio::select! {
            _ = over => {}
            () = self.watch(caches, &mut watching) => {}
        }
        if let Some(watching) = watching {
            caches.end(watching).await;
        }
    }

    async fn watch(&self, caches: &Caches, watching: &mut Option<Running>) {
        let Some(settings) = &self.settings.caches else {
            return;
        };
        if settings.mode != CacheMode::ReadWrite
            || !matches!(settings.publish, CachePublish::Trusted | CachePublish::All)
        {
            return;
        }
        let report = self.reported.come().await;
        if settings.publish == CachePublish::All || trust(Some(&report)) == Trust::Trusted {
            let run = report.run_id.map(|id| id.to_string()).unwrap_or_default();
            let condition = Condition {
                known: caches.known(),
                by: format!("{} {run}", report.repository),
                ..Condition::default()
            };
            caches.watch(self.children, condition, watching).await;
        }
    }
}

impl Caches {
    async fn watch(
        &self,
        children: &init::Children,
        condition: Condition,
        watching: &mut Option<Running>,
    ) {
        let mut watched = self.watch_once(children, condition.clone(), watching).await;
        if watched.as_ref().is_ok_and(|watched| watched.denied) {
            // A new store belongs to root: only root can change that, once.
            match self.hand_over(children, Deadline::within(HAND_OVER)).await {
                Ok(true) => watched = self.watch_once(children, condition, watching).await,
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
        watching: &mut Option<Running>,
    ) -> anyhow::Result<Published> {
        let forever = Deadline::within(FOREVER);
        let condition = self.writing(condition);
        let running =
            watching.insert(self.start(children, Act::Watch(condition), None, forever)?);
        loop {
            if let Some(end) = self.hear(running.next(forever).await) {
                return read(&end?);
            }
        }
    }

    /// Ends a watching worker: what it has not published by now is published with the rest. It is
    /// asked and not killed, or it could die between putting a tool into the store and telling so.
    async fn end(&self, mut watching: Running) {
        watching.ask_to_end();
        let deadline = Deadline::within(LAST_WORDS);
        while self.hear(watching.next(deadline).await).is_none() {}
    }

    /// Counts what a worker published; its end.
    fn hear(&self, told: Told) -> Option<anyhow::Result<String>> {
        match told {
            Told::Event(Event::Published { unit, files, bytes }) => {
                tracing::info!(%unit, "published while the job goes on");
                self.before.borrow_mut().early.count(&unit, files, bytes);
                None
            }
            Told::Event(_) | Told::Progress(_) => None,
            Told::End(end) => Some(end),
        }
    }
}
