//! Reports on batches become events for the scheduler, log lines, warnings and progress.

use tracing::{debug, info};

use super::{Driver, cycle::Cycle};
use crate::{
    clock::wall_ms,
    domain::{ActiveSlice, BatchId, FailureReason, Progress, Slice, Warning, WarningKind},
    mailbox::BatchReport,
    scheduler::Event,
    store::LogRecord,
};

/// Warnings of a job, as the protocol states. The last one says that there are more.
pub(super) const WARNINGS_MAX: usize = 100;

impl Driver {
    pub(super) fn take_report(&mut self, batch: BatchId, report: BatchReport, cycle: &mut Cycle) {
        let event = match report {
            BatchReport::Started(slice) => {
                self.note_active(batch, slice, None, cycle);
                Event::SliceStarted { batch, slice }
            }
            BatchReport::Progress(slice, progress) => {
                return self.note_active(batch, slice, Some(progress), cycle);
            }
            BatchReport::Log { sequence, lines, dropped } => {
                return self.keep_log(batch, sequence, lines, dropped, cycle);
            }
            BatchReport::Warning(warning) => return self.keep_warning(batch, warning, cycle),
            BatchReport::Finished(slice, rendered) => {
                Event::SliceFinished { batch, slice, rendered }
            }
            BatchReport::Failed(slice, failure) => {
                if failure.reason == FailureReason::Infrastructure {
                    self.note_trouble(batch, failure.message.clone());
                }
                debug!(
                    %batch, frame = slice.frame, reason = ?failure.reason, message = failure.message,
                    "attempt failed"
                );
                Event::SliceFailed { batch, slice, failure }
            }
            BatchReport::Refused(why) => {
                self.note_trouble(batch, why.unwrap_or_default());
                Event::BatchRefused { batch }
            }
            BatchReport::Unreachable(lasts) => {
                self.note_trouble(batch, "it could not be reached at its address".to_owned());
                Event::BatchUnreachable { batch, lasts }
            }
            BatchReport::Unknown => Event::BatchLost { batch },
            BatchReport::Ended => Event::BatchEnded { batch },
        };
        self.decide(event, cycle);
    }

    /// Notes that a node renders a slice: it began now if there is no progress.
    fn note_active(
        &mut self,
        batch: BatchId,
        slice: Slice,
        progress: Option<Progress>,
        cycle: &mut Cycle,
    ) {
        let Some((job, node)) = self.scheduler.rendering(batch, slice) else { return };
        let Some(open) = self.jobs.get_mut(&job) else { return };
        let begun = open.begun_at_ms.entry(slice).or_insert_with(wall_ms);
        if progress.is_none() {
            *begun = wall_ms();
        }
        let (started_at_ms, progress) = (*begun, progress.unwrap_or_default());
        let active = ActiveSlice { slice, node, started_at_ms, progress };
        cycle.jobs.entry(job).or_default().active.insert(slice, active);
    }

    /// Remembers why a node is paused.
    pub(super) fn note_trouble(&mut self, batch: BatchId, what: String) {
        if let Some((_, node)) = self.scheduler.batch(batch) {
            self.troubles.insert(node, what);
        }
    }

    pub(super) fn keep_log(
        &mut self,
        batch: BatchId,
        sequence: u64,
        lines: Vec<(Option<i32>, String)>,
        dropped: u64,
        cycle: &mut Cycle,
    ) {
        let Some((job, node)) = self.scheduler.batch(batch) else { return };
        let Some(open) = self.jobs.get_mut(&job) else { return };
        // Lines that the node dropped leave a gap in the numbers. Readers learn of them by it.
        cycle.group.log_sequences.insert(batch, sequence);
        open.next_log_line = open.next_log_line.saturating_add(dropped);
        let records = cycle.group.log.entry(job).or_default();
        for (frame, text) in lines {
            let line = open.next_log_line;
            open.next_log_line += 1;
            records.push(LogRecord { line, frame, node: node.clone(), at_ms: wall_ms(), text });
        }
        cycle.jobs.entry(job).or_default();
    }

    /// Keeps a warning that the job does not have yet. A job that is over takes none.
    pub(super) fn keep_warning(&mut self, batch: BatchId, warning: Warning, cycle: &mut Cycle) {
        let Some((job, node)) = self.scheduler.batch(batch) else { return };
        let Some(open) = self.jobs.get_mut(&job) else { return };
        let status = &mut open.record.status;
        let number = status.warnings.len();
        if status.state.is_final() || number >= WARNINGS_MAX || status.warnings.contains(&warning) {
            return;
        }
        let warning = if number + 1 < WARNINGS_MAX { warning } else { more_warnings() };
        info!(%job, %node, text = warning.text, "warning");
        status.warnings = status.warnings.iter().cloned().chain([warning.clone()]).collect();
        cycle.group.warnings.entry(job).or_default().push((number, warning));
        self.decide(Event::JobRevised { job }, cycle);
    }
}

/// The last warning of a job that has too many.
fn more_warnings() -> Warning {
    let text =
        "there are more warnings than are kept; see the log for the renderers' output".to_owned();
    Warning { kind: WarningKind::Unspecified, text }
}
