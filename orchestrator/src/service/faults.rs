//! What is wrong with a request, told all at once, with the details of `google.rpc`.

use std::{collections::HashMap, time::Duration};

use framecrew_blobs::Digest;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Faults told of one request. More would not fit the headers that carry them.
const VIOLATIONS_MAX: usize = 20;
/// When one who found no room should try again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// All that is wrong with a request, field by field.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    details: ErrorDetails,
    count: usize,
}

impl Faults {
    pub(crate) fn add(&mut self, field: impl Into<String>, fault: impl Into<String>) {
        self.count += 1;
        if self.count <= VIOLATIONS_MAX {
            self.details.add_bad_request_violation(field, fault);
        }
    }

    pub(crate) fn digest(&mut self, field: impl Into<String>, text: &str) -> Option<Digest> {
        match text.parse() {
            Ok(digest) => Some(digest),
            Err(error) => {
                self.add(field, format!("{error}"));
                None
            }
        }
    }

    pub(crate) fn check(self) -> Result<(), Status> {
        let Some(bad_request) = self.details.bad_request() else {
            return Ok(());
        };
        let Some(first) = bad_request.field_violations.first() else {
            return Ok(());
        };
        let mut message = format!("{}: {}", first.field, first.description);
        if self.count > 1 {
            message += &format!(" (and {} more)", self.count - 1);
        }
        Err(Status::with_error_details(Code::InvalidArgument, message, self.details))
    }
}

/// One fault.
pub(crate) fn invalid(field: &str, fault: impl Into<String>) -> Status {
    let fault = fault.into();
    Status::with_error_details(
        Code::InvalidArgument,
        format!("{field}: {fault}"),
        ErrorDetails::with_bad_request_violation(field, fault),
    )
}

/// Preconditions that do not hold, each with what it is about and what to do.
pub(crate) fn unmet(
    message: impl Into<String>,
    kind: &str,
    violations: impl IntoIterator<Item = (String, String)>,
) -> Status {
    let mut details = ErrorDetails::new();
    for (subject, description) in violations.into_iter().take(VIOLATIONS_MAX) {
        details.add_precondition_failure_violation(kind, subject, description);
    }
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// No room now; says when to come back.
pub(crate) fn exhausted(reason: &str, message: &str) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
    details.set_error_info(reason, "framecrew", HashMap::default());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Nobody is there to answer for the moment; says when to come back.
pub(crate) fn unavailable(message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::Unavailable, message, details)
}
