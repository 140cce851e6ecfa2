//! Violations: everything that is wrong with a request, reported at once with the details of `google.rpc`.

use framecrew_blobs::Digest;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::domain::UnknownNumber;

/// Violations reported for one request. More would not fit the headers that carry them.
const VIOLATIONS_MAX: usize = 20;
/// Characters in the names of nodes and tags.
pub(super) const SHORT_NAME_MAX: usize = 100;
/// Tags of a job or a node.
const TAGS_MAX: usize = 32;

/// Everything that is wrong with a request, by field.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    details: ErrorDetails,
    count: usize,
}

impl Violations {
    pub(crate) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.count += 1;
        if self.count <= VIOLATIONS_MAX {
            self.details.add_bad_request_violation(field, description);
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

    pub(super) fn text(&mut self, field: &str, text: &str, max: usize) {
        let chars = text.chars().count();
        if chars == 0 || chars > max {
            self.add(field, format!("must have 1 to {max} characters, has {chars}"));
        } else if text.chars().any(char::is_control) {
            self.add(field, "must not have control characters");
        }
    }

    /// Reads a kind from its number, which is the same in the protocol and the domain.
    pub(super) fn kind<K: TryFrom<i32, Error = UnknownNumber>>(
        &mut self,
        field: String,
        number: i32,
    ) -> Option<K> {
        K::try_from(number).map_err(|error| self.add(field, error.to_string())).ok()
    }

    pub(super) fn tags(&mut self, field: &str, tags: &[String]) {
        if tags.len() > TAGS_MAX {
            self.add(field, format!("has {} tags, {TAGS_MAX} at most", tags.len()));
        }
        for (n, tag) in tags.iter().take(TAGS_MAX).enumerate() {
            self.text(&format!("{field}[{n}]"), tag, SHORT_NAME_MAX);
        }
    }
}

/// A request with one violation.
pub(crate) fn invalid(field: &str, description: impl Into<String>) -> Status {
    let description = description.into();
    Status::with_error_details(
        Code::InvalidArgument,
        format!("{field}: {description}"),
        ErrorDetails::with_bad_request_violation(field, description),
    )
}
