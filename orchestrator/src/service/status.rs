//! Errors of the orchestrator as gRPC statuses: the one place for each.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::lookup::LookupError;
use crate::{
    blobs::BlobError,
    convert::violations::invalid,
    feed::WatchError,
    mailbox::{AdoptError, MembershipError, NoAnswer, RetryError, SubmitError},
    store::StoreError,
};

/// Preconditions in one status. More would not fit the headers that carry them.
const PRECONDITIONS_MAX: usize = 20;
/// When a caller that was turned away should try again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Preconditions that do not hold, each with its subject and what to do about it.
pub(crate) fn unmet(
    message: impl Into<String>,
    kind: &str,
    violations: impl IntoIterator<Item = (String, String)>,
) -> Status {
    let mut details = ErrorDetails::new();
    for (subject, description) in violations.into_iter().take(PRECONDITIONS_MAX) {
        details.add_precondition_failure_violation(kind, subject, description);
    }
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// A full resource. The details say when to try again.
pub(crate) fn exhausted(reason: &str, message: &str) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
    details.set_error_info(reason, "framecrew", HashMap::default());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// A temporary outage. The details say when to try again.
pub(crate) fn unavailable(message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::Unavailable, message, details)
}

pub(super) fn unknown_job() -> Status {
    Status::not_found("there is no such job; ListJobs returns those that exist")
}

impl From<SubmitError> for Status {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::RequestIdTaken(_) => Self::already_exists(message),
            SubmitError::Store(StoreError::Full | StoreError::Low { .. })
            | SubmitError::StoreFailing => exhausted("STORE", &message),
            SubmitError::Store(error) => error.into(),
            SubmitError::NoAnswer(error) => error.into(),
        }
    }
}

impl From<RetryError> for Status {
    fn from(error: RetryError) -> Self {
        let message = error.to_string();
        match error {
            RetryError::NotFound => unknown_job(),
            RetryError::Cancelled => {
                unmet(message.clone(), "JOB", [("job_id".to_owned(), message)])
            }
            RetryError::Store(error) => error.into(),
            RetryError::NoAnswer(error) => error.into(),
        }
    }
}

impl From<NoAnswer> for Status {
    fn from(error: NoAnswer) -> Self {
        let message = error.to_string();
        match error {
            NoAnswer::ShuttingDown => unavailable(message),
            NoAnswer::Late => Self::deadline_exceeded(message),
            NoAnswer::Held => exhausted("STORE", &message),
        }
    }
}

impl From<WatchError> for Status {
    fn from(error: WatchError) -> Self {
        let message = error.to_string();
        match error {
            WatchError::UnknownJob => unknown_job(),
            WatchError::FutureRevision { .. } | WatchError::OtherStore => {
                unmet(message.clone(), "REVISION", [("after_revision".to_owned(), message)])
            }
            WatchError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        // The text may name files of the server, so clients do not get it.
        tracing::error!(%error, "store");
        Self::internal("the orchestrator's store failed; its log says why")
    }
}

impl From<MembershipError> for Status {
    fn from(error: MembershipError) -> Self {
        let message = error.to_string();
        match error {
            MembershipError::NotRegistered(_) | MembershipError::Unreachable { .. } => {
                Self::not_found(message)
            }
            MembershipError::NewerIncarnation(_) => Self::aborted(message),
            MembershipError::NameTaken { .. } => Self::already_exists(message),
            MembershipError::NoAnswer(error) => error.into(),
        }
    }
}

impl From<AdoptError> for Status {
    fn from(error: AdoptError) -> Self {
        match error {
            AdoptError::Membership(error) => error.into(),
            AdoptError::Blobs(error) => error.into(),
        }
    }
}

impl From<BlobError> for Status {
    fn from(error: BlobError) -> Self {
        let message = error.to_string();
        match error {
            BlobError::Full(_) | BlobError::Low { .. } => exhausted("DISK", &message),
            BlobError::Missing(_) => Self::not_found(message),
            BlobError::Damaged(_) => Self::data_loss(message),
            BlobError::WrongDigest { .. } => invalid("header.digest", message),
            BlobError::WrongSize { .. } => invalid("header.size_bytes", message),
            BlobError::Disk(_) => {
                // The text may name folders of the server, so clients do not get it.
                tracing::error!(%message, "blob store");
                Self::internal("the blob store failed; its log says why")
            }
        }
    }
}

impl From<LookupError> for Status {
    fn from(error: LookupError) -> Self {
        let message = error.to_string();
        match error {
            LookupError::NotFinished => Self::failed_precondition(message),
            LookupError::UnknownJob | LookupError::UnknownFrame | LookupError::UnknownOutput => {
                Self::not_found(message)
            }
            LookupError::Failed(_) => {
                tracing::error!(%message, "output lookup");
                Self::internal("the job could not be looked up; the orchestrator's log says why")
            }
        }
    }
}
