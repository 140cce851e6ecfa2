use std::io;

use framecrew::{Error, contact_sheet::SheetError, proto::JobState};

/// How the command ends, as its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done; of a job: all frames.
    Success = 0,
    /// The job failed, or something on the way did.
    JobFailed = 1,
    /// What was typed, or what it names, cannot be used.
    Usage = 2,
    /// The cluster cannot be reached, or wants to be left alone for a while.
    Unreachable = 3,
    /// The cluster does not allow it.
    NotAllowed = 4,
    /// The job was cancelled.
    Cancelled = 5,
    /// Ctrl-C; the job goes on.
    Interrupted = 130,
}

impl Exit {
    /// How a command that followed a job ends.
    pub(crate) fn of_job(state: JobState) -> Self {
        match state {
            JobState::Failed => Self::JobFailed,
            JobState::Cancelled => Self::Cancelled,
            _ => Self::Success,
        }
    }
}

/// Why a command stops early: what to tell the person, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

impl Failure {
    /// What was typed, or what it names, cannot be used.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, text: text.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Unreachable { .. } | Error::Busy { .. } => Exit::Unreachable,
            Error::NotAllowed { .. } => Exit::NotAllowed,
            Error::Failed { .. }
            | Error::JobLost { .. }
            | Error::Incomplete { .. }
            | Error::Transfer(_) => Exit::JobFailed,
            _ => Exit::Usage,
        };
        Self { exit, text: error.to_string() }
    }
}

/// What an error means of a job that was there before: if it is not any more, nothing that was typed is wrong.
pub(crate) fn of_known_job(error: Error) -> Error {
    match error {
        Error::NoSuchJob { job_id, url } => Error::JobLost { job_id, url, other: None },
        error => error,
    }
}

impl From<SheetError> for Failure {
    fn from(error: SheetError) -> Self {
        match error {
            SheetError::Cluster(error) => error.into(),
            error @ SheetError::Write { .. } => Self::usage(error.to_string()),
        }
    }
}

impl Failure {
    /// Whether all that happened is that whoever read stdout has seen enough.
    pub(crate) fn is_unread(&self) -> bool {
        self.exit == Exit::Success
    }
}

/// Of writing to stdout. A reader that has seen enough, like `head`, is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { exit: Exit::Success, text: String::new() },
            _ => Self { exit: Exit::JobFailed, text: format!("cannot write the output: {error}") },
        }
    }
}
