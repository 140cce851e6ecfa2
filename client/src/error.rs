//! What can go wrong between a program and its cluster.

use std::{error::Error as StdError, fmt, io, path::PathBuf, time::Duration};

use framecrew_blobs::TransferError;
use framecrew_model::{FrameRange, FrameSet, InvalidFrames};
use framecrew_net::cause;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{progress::FetchProgress, words};

/// Longest pause that a server may ask for: nobody keeps a client away for good.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Why a call did not do what was asked. Its text is a sentence that says what happened and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL of the cluster cannot be used.
    #[error("`{url}` is not a URL of a cluster; write it like http://127.0.0.1:4000")]
    InvalidUrl {
        /// The URL.
        url: String,
    },
    /// Nothing answers.
    #[error(
        "no orchestrator answers at {url} ({reason}); start it again where it ran, or name another with --cluster \
         URL; `framecrew up` makes a cluster on this machine"
    )]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// The orchestrator answers, but takes no more for a while: it is full, or about to restart.
    #[error(
        "the orchestrator at {url} is busy: {message}; try again in {}",
        words::duration(*retry_after)
    )]
    Busy {
        /// Where it is.
        url: String,
        /// What it said.
        message: String,
        /// When it wants to be asked again.
        retry_after: Duration,
    },
    /// The orchestrator does not let this caller do this.
    #[error("not allowed: {message}")]
    NotAllowed {
        /// What it said.
        message: String,
    },
    /// There is no such job.
    #[error("there is no job {job_id} at {url}; `framecrew jobs` lists those there are")]
    NoSuchJob {
        /// Its number.
        job_id: u64,
        /// Where it was looked for.
        url: String,
    },
    /// The orchestrator answers from another store than before, or an older state of it, in which the job is not.
    #[error(
        "job {job_id} at {url} {}: the orchestrator has lost or replaced its store; start it with the one that has \
         the job, or render it again",
        Instead(.other.as_deref())
    )]
    JobLost {
        /// Its number.
        job_id: u64,
        /// Where it was.
        url: String,
        /// Name of the job that bears its number now, if one does.
        other: Option<String>,
    },
    /// What was asked for does not exist.
    #[error("{message}")]
    NotFound {
        /// What it said.
        message: String,
    },
    /// The orchestrator found fault with the request.
    #[error("{}{}", in_flags(message), Listed { violations, message })]
    Refused {
        /// What it said.
        message: String,
        /// Every fault it named.
        violations: Vec<Violation>,
    },
    /// The orchestrator or the network failed.
    #[error("{message}")]
    Failed {
        /// What it said.
        message: String,
    },
    /// The frames cannot be rendered as asked.
    #[error(transparent)]
    Frames(#[from] InvalidFrames),
    /// The project cannot be read.
    #[error("{} {message}", .path.display())]
    Project {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        message: String,
        /// What the system said.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    /// The output folder cannot be written to.
    #[error("cannot write to the output folder {}: {source}; free it or name another with -o DIR", .path.display())]
    OutputFolder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Outputs would overwrite files that Framecrew did not write, or that were changed since. These files stay.
    #[error(
        "{}{} there already, and Framecrew did not write {it} (or somebody changed {it} since); move {it} away, name \
         another place, or replace {it} with --overwrite",
        .path.display(),
        OrMore(*more),
        it = if *more == 0 { "it" } else { "them" },
    )]
    InTheWay {
        /// The first of these files.
        path: PathBuf,
        /// The number of further files.
        more: u64,
    },
    /// Some outputs did not come, for reasons of their own; all the others did.
    #[error(
        "{}; the other {} are in {}\n{}",
        Listing { missing, more: *more },
        progress.fetched + progress.kept,
        .folder.display(),
        Advice(missing)
    )]
    Incomplete {
        /// Where the others are.
        folder: PathBuf,
        /// Those that did not come, by frame; the first hundred.
        missing: Vec<Missing>,
        /// How many more there are.
        more: u64,
        /// How many came.
        progress: FetchProgress,
    },
    /// A blob did not travel.
    #[error(transparent)]
    Transfer(TransferError),
}

/// An output that did not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Number of its frame.
    pub frame: i32,
    /// Its file name.
    pub name: String,
    /// Why it did not come, for people.
    pub reason: String,
    /// Whether the output was not written because a file must not be replaced. The output itself is fine.
    pub in_the_way: bool,
}

/// A fault in one field of a request, or one condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, like `spec.frames[0].step`, or what the condition is about.
    pub subject: String,
    /// What is wrong.
    pub description: String,
}

/// Displays as ` is`, or ` and 3 more files are`.
struct OrMore(u64);

impl fmt::Display for OrMore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str(" is"),
            more => write!(f, " and {} are", words::plural(more, "more file")),
        }
    }
}

/// Fields of a job with the flags that set them. A name that starts with another name comes before it.
const FLAGS: [(&str, &str); 22] = [
    ("spec.name", "--name"),
    ("spec.frames", "--frames"),
    ("spec.priority", "--priority"),
    ("spec.tags", "--tag"),
    ("spec.strict", "--strict"),
    ("spec.movie", "--movie"),
    ("spec.settings.scene", "--scene"),
    ("spec.settings.camera", "--camera"),
    ("spec.settings.engine", "--engine"),
    ("spec.settings.samples", "--samples"),
    ("spec.settings.scale_percent", "--scale"),
    ("spec.settings.format", "--format"),
    ("spec.settings.denoise", "--denoise"),
    ("spec.settings.blender", "--blender"),
    ("spec.settings.view_layer", "--view-layer"),
    ("spec.settings.color_depth", "--depth"),
    ("spec.settings.run_scripts", "--run-scripts"),
    ("spec.settings.color_config", "--ocio"),
    ("spec.settings.addons", "--addon"),
    ("spec.limits.node_silence_seconds", "--node-silence"),
    ("spec.limits.frame_silence_seconds", "--frame-silence"),
    ("spec.limits.frame_seconds", "--frame-limit"),
];

/// Replaces the names of job fields in a server's message by the flags that set them, such as `spec.tags[0]` by
/// `--tag`.
fn in_flags(text: &str) -> String {
    let mut told = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("spec.") {
        let (before, field) = rest.split_at(at);
        told.push_str(before);
        let is_of_field = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '[' | ']');
        let end = field.find(|c| !is_of_field(c)).unwrap_or(field.len());
        let name = field[..end].trim_end_matches('.');
        let is_it = |of: &str| {
            name.strip_prefix(of)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
        };
        let flag = FLAGS.iter().find(|(of, _)| is_it(of)).map(|(_, flag)| *flag);
        told.push_str(flag.unwrap_or(name));
        rest = &field[name.len()..];
    }
    told + rest
}

/// What is where a job was, by name.
struct Instead<'a>(Option<&'a str>);

impl fmt::Display for Instead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(other) => write!(f, "is another one now ({})", words::printable(other)),
            None => f.write_str("is not there any more"),
        }
    }
}

/// Each missing output on its own line.
struct Listing<'a> {
    missing: &'a [Missing],
    more: u64,
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, output) in self.missing.iter().enumerate() {
            let end = if position == 0 { "" } else { "\n" };
            let name = words::printable(&output.name);
            write!(f, "{end}frame {} ({name}): {}", output.frame, output.reason)?;
        }
        if self.more > 0 {
            write!(f, "\nand {}", words::plural(self.more, "more file"))?;
        }
        Ok(())
    }
}

/// What to do about missing outputs.
struct Advice<'a>(&'a [Missing]);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.iter().any(|output| output.in_the_way) {
            f.write_str("the cluster keeps what was not fetched: `framecrew fetch` gets it once there is room for it")?;
        }
        let lost = self.0.iter().filter(|output| !output.in_the_way);
        let mut numbers: Vec<i32> = lost.map(|output| output.frame).collect();
        if numbers.is_empty() {
            return Ok(());
        }
        if numbers.len() < self.0.len() {
            f.write_str("\n")?;
        }
        numbers.dedup();
        let ranges = numbers
            .chunk_by(|a, b| a.checked_add(1) == Some(*b))
            .filter_map(|run| FrameRange::new(*run.first()?, *run.last()?, 1).ok());
        let Ok(frames) = FrameSet::new(ranges.collect()) else { return Ok(()) };
        write!(
            f,
            "check the disk that the cluster keeps its files on, then render again what is missing: \
             `framecrew render FILE -f {frames}`"
        )
    }
}

/// The faults, where the message does not say them already.
struct Listed<'a> {
    violations: &'a [Violation],
    message: &'a str,
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [fault] = self.violations
            && self.message.contains(&fault.description)
        {
            return Ok(());
        }
        self.violations.iter().try_for_each(|fault| {
            write!(f, "\n  {}: {}", in_flags(&fault.subject), in_flags(&fault.description))
        })
    }
}

impl Error {
    /// Whether trying again later may succeed without a change by anyone.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } => true,
            Self::Transfer(error) => error.is_transient(),
            _ => false,
        }
    }

    /// How long the orchestrator wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => Some(*retry_after),
            Self::Transfer(error) => error.status().and_then(retry_after),
            _ => None,
        }
    }

    /// Makes what became of a blob on its way to or from `url` into what a person can read.
    pub(crate) fn from_transfer(url: &str, error: TransferError) -> Self {
        match error.status() {
            Some(status) => Self::from_status(url, status),
            None => Self::Transfer(error),
        }
    }

    /// Makes a status of a call about a job into what a person can read.
    pub(crate) fn of_job(url: &str, job_id: u64, status: &Status) -> Self {
        match Self::from_status(url, status) {
            Self::NotFound { .. } => Self::NoSuchJob { job_id, url: url.into() },
            error => error,
        }
    }

    /// Makes a status of a call to `url` into what a person can read.
    pub(crate) fn from_status(url: &str, status: &Status) -> Self {
        let message = sentence(status);
        // A link that breaks may bear any code, but only a local failure has a source.
        if cause::is_of_the_link(status) {
            return Self::Unreachable { url: url.into(), reason: root_cause(status) };
        }
        if let Some(retry_after) = retry_after(status) {
            return Self::Busy { url: url.into(), message, retry_after };
        }
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => {
                Self::Unreachable { url: url.into(), reason: root_cause(status) }
            }
            // tonic's own words for an answer that is none of gRPC.
            _ if status.code() == Code::Unimplemented
                || message.starts_with("grpc-status header missing") =>
            {
                let message = format!(
                    "what answers at {url} is no orchestrator; one listens on port 4000 unless told otherwise \
                     (a node: on 3000)"
                );
                Self::Failed { message }
            }
            Code::Unauthenticated | Code::PermissionDenied => Self::NotAllowed { message },
            Code::NotFound => Self::NotFound { message },
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::OutOfRange => Self::Refused { violations: violations(status), message },
            _ => Self::Failed { message },
        }
    }
}

/// How long a server that says so wants to be left alone before it is asked again.
pub(crate) fn retry_after(status: &Status) -> Option<Duration> {
    let may_succeed = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
    let delay = status.get_details_retry_info().filter(|_| may_succeed)?.retry_delay?;
    Some(delay.min(RETRY_AFTER_MAX))
}

/// Every fault that the status names.
fn violations(status: &Status) -> Vec<Violation> {
    let details = status.get_error_details();
    let fields = details.bad_request().into_iter().flat_map(|bad| {
        bad.field_violations.iter().map(|field| Violation {
            subject: words::printable(&field.field),
            description: words::printable(&field.description),
        })
    });
    let conditions = details.precondition_failure().into_iter().flat_map(|failure| {
        failure.violations.iter().map(|condition| Violation {
            subject: words::printable(&condition.subject),
            description: words::printable(&condition.description),
        })
    });
    fields.chain(conditions).collect()
}

/// Returns the server's message as a printable line, or a description of the code if there is no message.
fn sentence(status: &Status) -> String {
    match status.message().trim() {
        "" => format!("the orchestrator answered: {}", status.code().description()),
        message => words::printable(message),
    }
}

/// What went wrong at the bottom: `Connection refused` rather than `transport error`.
pub(crate) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let cause = cause::deepest(error);
    match cause.downcast_ref::<Status>() {
        Some(status) => sentence(status),
        None => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn every_faulty_field_is_listed_on_its_own_line() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("spec.name", "is empty")
            .add_bad_request_violation("spec.frames[0].step", "is 0");
        let status =
            Status::with_error_details(Code::InvalidArgument, "the job is faulty", details);
        let error = Error::from_status("http://a:4000", &status);
        assert_eq!(error.to_string(), "the job is faulty\n  --name: is empty\n  --frames: is 0");
    }

    #[test]
    fn a_server_message_cannot_control_the_terminal() {
        const BAD: &str = "a\x1b]0;owned\x07\u{9b}2J\r\nerror: forged\u{202e}";
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation(BAD, BAD)
            .add_precondition_failure_violation("BLENDER", BAD, BAD);
        let codes = [Code::InvalidArgument, Code::NotFound, Code::Internal, Code::Unavailable];
        for code in codes.into_iter().chain([Code::PermissionDenied, Code::ResourceExhausted]) {
            let status = Status::with_error_details(code, BAD, details.clone());
            let text = Error::from_status("http://a:4000", &status).to_string();
            assert!(text.contains("owned") && !text.contains("\nerror: forged"), "{text:?}");
            assert_eq!(words::printable_lines(&text), text, "{code:?}");
        }
    }

    #[test]
    fn a_single_fault_that_the_message_tells_is_not_told_twice() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("spec.name", "is empty");
        let status =
            Status::with_error_details(Code::InvalidArgument, "spec.name: is empty", details);
        let error = Error::from_status("http://a:4000", &status);
        assert_eq!(error.to_string(), "--name: is empty");
    }

    #[test]
    fn job_fields_are_named_by_their_flags() {
        for (text, told) in [
            (
                "spec.tags[0]: is empty; spec.settings.blender: is no version",
                "--tag: is empty; --blender: is no version",
            ),
            ("see spec.limits.frame_seconds.", "see --frame-limit."),
            ("spec.movie_of_job_id must be 0", "spec.movie_of_job_id must be 0"),
            ("spec.project.files[3].path and inspec.", "spec.project.files[3].path and inspec."),
            ("spec.", "spec."),
        ] {
            assert_eq!(in_flags(text), told);
        }
    }

    #[test]
    fn a_condition_that_does_not_hold_is_listed_too() {
        let mut details = ErrorDetails::new();
        details.add_precondition_failure_violation("BLENDER", "4.5", "no node has it");
        let status = Status::with_error_details(Code::FailedPrecondition, "cannot render", details);
        let error = Error::from_status("http://a:4000", &status);
        assert_eq!(error.to_string(), "cannot render\n  4.5: no node has it");
    }

    #[test]
    fn what_is_busy_says_when_to_come_back_within_bounds() {
        let busy = |code, seconds| {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(seconds)));
            let status = Status::with_error_details(code, "too many streams", details);
            Error::from_status("http://a:4000", &status)
        };
        let error = busy(Code::ResourceExhausted, 5);
        assert_eq!(
            (error.is_transient(), error.retry_after()),
            (true, Some(Duration::from_secs(5)))
        );
        assert!(error.to_string().contains("too many streams; try again in 5.0 s"), "{error}");
        assert_eq!(busy(Code::Unavailable, 1 << 40).retry_after(), Some(RETRY_AFTER_MAX));
        assert_eq!(busy(Code::InvalidArgument, 5).retry_after(), None);
        let full =
            Error::from_status("http://a:4000", &Status::resource_exhausted("the store is full"));
        assert!(!full.is_transient());
    }

    #[test]
    fn who_is_no_orchestrator_is_told_apart_from_one_that_fails() {
        let other = [
            Status::unimplemented(""),
            Status::unknown("grpc-status header missing, mapped from HTTP status code 405"),
        ];
        for status in other {
            let text = Error::from_status("http://a:3000", &status).to_string();
            assert!(text.contains("http://a:3000 is no orchestrator"), "{text}");
        }
    }

    #[test]
    fn no_status_is_shown_as_code() {
        for code in 1..=16 {
            let status = Status::new(Code::from(code), "");
            let text = Error::from_status("http://a:4000", &status).to_string();
            assert!(!text.contains("Status") && !text.contains("code:"), "{text}");
            assert!(!text.trim().is_empty());
        }
    }
}
