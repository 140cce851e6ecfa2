//! A job's log as a stream that mends itself.

use std::time::Duration;

use framecrew_proto::v1::{Job, LogLine, ReadLogResponse};
use futures::{Stream, StreamExt as _, stream};
use tonic::Streaming;

use crate::{
    cluster::{BACKOFF, Cluster},
    error::Error,
};

/// What a log tells.
#[derive(Debug, Clone, PartialEq)]
pub enum LogEvent {
    /// What came next.
    Lines {
        /// The lines, oldest first.
        lines: Vec<LogLine>,
        /// Lines before these that were lost to a bound; of a single frame nobody knows.
        dropped: u64,
    },
    /// The connection broke. The log goes on where it was, unless more was written meanwhile than is kept.
    Reconnecting {
        /// Attempts since the last message, from 1.
        attempt: u32,
        /// Pause before this attempt.
        delay: Duration,
        /// What broke the connection.
        reason: String,
    },
}

impl Cluster {
    /// What the renderers of a job have written so far, oldest first: of one frame or of all. Never reconnects.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`] when there is none, or the orchestrator cannot be reached.
    pub async fn log(
        &self,
        job_id: u64,
        frame: Option<i32>,
    ) -> Result<impl Stream<Item = Result<LogEvent, Error>> + Send + use<>, Error> {
        let messages = self.read_log(job_id, frame, false).await?;
        let url = self.url.clone();
        Ok(messages.map(move |message| match message {
            Ok(ReadLogResponse { lines, dropped }) => Ok(LogEvent::Lines { lines, dropped }),
            Err(status) => Err(Error::from_status(&url, &status)),
        }))
    }

    /// The same, and then what they go on to write until the job is over. Reconnects by itself for as long as it is
    /// polled, and tells no line twice; drop it to stop.
    ///
    /// # Errors
    /// As [`log`](Self::log), and in the stream [`Error::JobLost`] when another job bears the number by then.
    pub async fn follow_log(
        &self,
        job_id: u64,
        frame: Option<i32>,
    ) -> Result<impl Stream<Item = Result<LogEvent, Error>> + Send + use<>, Error> {
        let job = self.job(job_id).await?;
        Ok(follow(self.clone(), job.info, frame))
    }
}

/// Follows the log of a job until the job is over; of one frame, where `frame` is given.
fn follow(
    cluster: Cluster,
    known: Job,
    frame: Option<i32>,
) -> impl Stream<Item = Result<LogEvent, Error>> + Send + use<> {
    let follower = Follower {
        cluster,
        known,
        frame,
        messages: None,
        position: Position::default(),
        attempt: 0,
        delay: Duration::ZERO,
        over: false,
    };
    stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((event, follower))
    })
}

struct Follower {
    cluster: Cluster,
    known: Job,
    frame: Option<i32>,
    messages: Option<Streaming<ReadLogResponse>>,
    position: Position,
    attempt: u32,
    delay: Duration,
    over: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<LogEvent, Error>> {
        while !self.over {
            match self.receive().await {
                Ok(Some(message)) => {
                    self.attempt = 0;
                    let ReadLogResponse { mut lines, mut dropped } = self.position.fresh(message);
                    if self.frame.is_some() {
                        lines.retain(|line| line.frame == self.frame);
                        dropped = 0;
                    }
                    if !lines.is_empty() || dropped > 0 {
                        return Some(Ok(LogEvent::Lines { lines, dropped }));
                    }
                }
                Ok(None) => self.over = true,
                Err(error) if error.is_transient() => return Some(Ok(self.broken(error))),
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    async fn receive(&mut self) -> Result<Option<ReadLogResponse>, Error> {
        tokio::time::sleep(std::mem::take(&mut self.delay)).await;
        let messages = match &mut self.messages {
            Some(messages) => messages,
            None => {
                let job = self.cluster.job_again(&self.known).await?;
                // Of all frames, as only those lines can be counted.
                let opened = self.cluster.read_log(job.id(), None, true).await?;
                self.position.restart();
                self.messages.insert(opened)
            }
        };
        let message = messages.next().await.transpose();
        message.map_err(|status| Error::from_status(self.cluster.url(), &status))
    }

    fn broken(&mut self, error: Error) -> LogEvent {
        self.messages = None;
        self.attempt = self.attempt.saturating_add(1);
        self.delay = BACKOFF.pause_or(self.attempt, error.retry_after());
        let reason = match error {
            Error::Unreachable { reason, .. } => reason,
            error => error.to_string(),
        };
        LogEvent::Reconnecting { attempt: self.attempt, delay: self.delay, reason }
    }
}

/// How far a log has been read. Its lines have numbers, which rise by one from the first that was ever written: a line
/// does not bear its own, but each stream begins with the first one, and counts those that are lost.
#[derive(Debug, Default)]
struct Position {
    /// Lines that were told, or told to be lost.
    told: u64,
    /// Lines of this stream, lost ones included.
    at: u64,
}

impl Position {
    /// Another stream begins.
    fn restart(&mut self) {
        self.at = 0;
    }

    /// Leaves of a message what was not told before.
    fn fresh(&mut self, message: ReadLogResponse) -> ReadLogResponse {
        let ReadLogResponse { mut lines, dropped } = message;
        let first = self.at + dropped;
        self.at = first + lines.len() as u64;
        let old = usize::try_from(self.told.saturating_sub(first)).unwrap_or(usize::MAX);
        lines.drain(..old.min(lines.len()));
        let dropped = dropped.min(first.saturating_sub(self.told));
        self.told = self.told.max(self.at);
        ReadLogResponse { lines, dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(dropped: u64, texts: &[&str]) -> ReadLogResponse {
        let line = |text: &&str| LogLine { text: (*text).into(), ..LogLine::default() };
        ReadLogResponse { lines: texts.iter().map(line).collect(), dropped }
    }

    /// What of the messages of each stream is told.
    fn told(streams: &[&[ReadLogResponse]]) -> Vec<ReadLogResponse> {
        let mut position = Position::default();
        let mut told = Vec::new();
        for messages in streams {
            position.restart();
            told.extend(messages.iter().map(|message| position.fresh(message.clone())));
        }
        told.retain(|message| !message.lines.is_empty() || message.dropped > 0);
        told
    }

    #[test]
    fn no_line_is_told_twice() {
        let first = [message(0, &["1", "2"]), message(0, &["3"])];
        let second = [message(0, &["1"]), message(0, &["2", "3", "4"]), message(0, &["5"])];
        let expected = [&first[..], &[message(0, &["4"]), message(0, &["5"])]].concat();
        assert_eq!(told(&[&first, &second]), expected);
    }

    #[test]
    fn lines_are_told_to_be_lost_once_and_only_those_that_were_not_told() {
        let first = [message(2, &["3", "4"])];
        for (second, fresh) in [
            (message(2, &["3", "4", "5"]), message(0, &["5"])),
            (message(3, &["4", "5"]), message(0, &["5"])),
            (message(4, &["5"]), message(0, &["5"])),
            (message(6, &["7"]), message(2, &["7"])),
        ] {
            assert_eq!(told(&[&first, &[second]]), [first[0].clone(), fresh]);
        }
    }

    #[test]
    fn a_log_that_is_shorter_than_it_was_tells_nothing_until_it_is_longer() {
        let first = [message(0, &["1", "2", "3"])];
        let second = [message(0, &["1"]), message(0, &["2", "3", "4"])];
        assert_eq!(told(&[&first, &second]), [first[0].clone(), message(0, &["4"])]);
    }
}
