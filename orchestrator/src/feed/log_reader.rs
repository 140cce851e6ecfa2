//! One reader of a job's log.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Feed, JobFeed, WatchError, lock};
use crate::{
    domain::JobId,
    store::{Archive, LogRecord, StoreError},
};

/// Log lines in one message; a line has 2,000 bytes at most.
pub(super) const LINES_IN_MESSAGE: u32 = 500;
/// Pause of a follower that has read the whole log: a job changes hundreds of times a second, and people read ten times
/// a second at most.
const LOG_PAUSE: Duration = Duration::from_millis(100);

/// One reader of a job's log.
#[derive(Debug)]
pub(crate) struct LogReader {
    store: Arc<dyn Archive>,
    job: JobId,
    frame: Option<i32>,
    /// Number of the next line.
    pub(super) next: u64,
    /// `None` for a reader that ends with the stored lines.
    feed: Option<Arc<JobFeed>>,
    changed: Option<watch::Receiver<()>>,
}

impl Feed {
    pub(crate) async fn read_log(
        self: &Arc<Self>,
        job: JobId,
        frame: Option<i32>,
        follow: bool,
    ) -> Result<LogReader, WatchError> {
        let (feed, _) = self.find(job).await?;
        let feed = feed.filter(|_| follow);
        let changed = feed.as_ref().map(|feed| feed.changed.subscribe());
        Ok(LogReader { store: self.store.clone(), job, frame, next: 1, feed, changed })
    }
}

impl LogReader {
    /// Waits for the next lines. Returns them with the number of lines lost before them; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<(Vec<LogRecord>, u64)>, StoreError> {
        loop {
            if let Some(changed) = &mut self.changed {
                changed.borrow_and_update();
            }
            // Checked before reading: if the job is over, all its lines are stored.
            let is_over =
                self.feed.as_ref().is_none_or(|feed| lock(&feed.now).status.state.is_final());
            // A follower of one frame reads the lines of all frames, so that it can continue after those of others.
            // Otherwise the store would scan them again each time.
            let asked = self.frame.filter(|_| self.feed.is_none());
            let mut lines = self.store.log(self.job, asked, self.next, LINES_IN_MESSAGE).await?;
            if let (Some(first), Some(mut last)) =
                (lines.first().map(|line| line.line), lines.last().map(|line| line.line))
            {
                let mut lost = 0;
                // Numbers rise by one, so a gap means lost lines, and is reported before the lines after it. The lines of
                // one frame always have gaps.
                if self.frame.is_none() {
                    lost = first - self.next;
                    let whole = lines.iter().zip(first..).take_while(|(line, at)| line.line == *at);
                    let whole = whole.count();
                    lines.truncate(whole);
                    last = first + whole as u64 - 1;
                }
                self.next = last + 1;
                lines.retain(|line| self.frame.is_none() || line.frame == self.frame);
                if lines.is_empty() {
                    continue;
                }
                return Ok(Some((lines, lost)));
            }
            if is_over {
                return Ok(None);
            }
            if let Some(changed) = &mut self.changed {
                tokio::time::sleep(LOG_PAUSE).await;
                let _ = changed.changed().await;
            }
        }
    }
}
