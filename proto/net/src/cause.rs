//! What went wrong at the bottom, and whether the link did.

use std::error::Error;

use tonic::Status;

/// The innermost error: `Connection refused` rather than `transport error`.
#[must_use]
pub fn deepest<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

/// The errors below `error`, from the top.
pub fn causes<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// Whether the link failed, and no peer answered: such a status has a cause, and its code says nothing.
#[must_use]
pub fn is_of_the_link(status: &Status) -> bool {
    status.source().is_some()
}

/// Whether the connection was refused: nothing listens there.
#[must_use]
pub fn was_refused(status: &Status) -> bool {
    causes(status)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::io;

    use tonic::ConnectError;

    use super::*;

    #[test]
    fn the_deepest_cause_is_found_and_one_without_causes_is_its_own() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let text = refused.to_string();
        let status = Status::from_error(Box::new(ConnectError(Box::new(refused))));
        assert_eq!(deepest(&status).to_string(), text);
        assert!(is_of_the_link(&status) && was_refused(&status));
        let plain = Status::not_found("no job 7");
        assert!(!is_of_the_link(&plain) && !was_refused(&plain));
        assert_eq!(deepest(&plain).to_string(), plain.to_string());
    }
}
