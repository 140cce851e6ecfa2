//! What a failed call says about the node.

use std::error::Error;

use tonic::{Code, ConnectError, Status};
use tonic_types::StatusExt as _;

use crate::domain::{Incarnation, NodeName};

/// Whether the call was never sent because there was no connection.
pub(super) fn never_connected(status: &Status) -> bool {
    let mut source = Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether the connection for a call was refused.
pub(super) fn was_refused(status: &Status) -> bool {
    let mut source = Error::source(status);
    while let Some(error) = source {
        let error_kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if error_kind == Some(std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether this incarnation of the node accepts no more batches.
pub(super) fn is_leaving(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == "LEAVING")
}

/// Whether another node answered. A node that does not send its name counts as the one meant.
pub(super) fn is_of_another_node(status: &Status, meant: &NodeName) -> bool {
    names_other(status, "node", meant)
}

/// Whether another incarnation of the node answered. One that does not send its number counts as the one meant.
pub(super) fn is_of_another_incarnation(status: &Status, meant: Incarnation) -> bool {
    names_other(status, "incarnation", &meant.0.to_string())
}

/// Whether the link failed, and the node did not answer.
pub(super) fn is_of_the_link(status: &Status) -> bool {
    Error::source(status).is_some()
        || matches!(status.code(), Code::Unknown | Code::DeadlineExceeded | Code::Cancelled)
}

/// Whether the details of a status name another value than the one meant.
fn names_other(status: &Status, what: &str, meant: &str) -> bool {
    let info = status.get_details_error_info();
    info.and_then(|info| info.metadata.get(what).cloned()).is_some_and(|named| named != *meant)
}
