//! Why the driver refuses a request: one error type for each operation.

use std::net::SocketAddr;

use crate::{
    blobs::BlobError,
    domain::{JobId, NodeName},
    store::StoreError,
};

/// Why a job is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitError {
    #[error("request_id was used for another job, {0}; choose a new one")]
    RequestIdTaken(JobId),
    #[error("the job was not accepted: {0}; nothing was made, try again later")]
    Store(#[from] StoreError),
    #[error("the orchestrator cannot write to its store; nothing was made, try again later")]
    StoreFailing,
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// Why the driver gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("the orchestrator is shutting down; try again when it is back")]
    ShuttingDown,
    /// The request may still be carried out.
    #[error("the orchestrator has no answer yet; ask again")]
    Late,
    #[error(
        "the orchestrator cannot write to its store now, perhaps because its disk is full (see its log): the request \
         waits until it can, and may still be carried out"
    )]
    Held,
}

/// Why a node may not join, stay or hand in frames.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error("node {0} is not registered here; register again")]
    NotRegistered(NodeName),
    #[error(
        "heartbeats from node {node} arrive, but {address} cannot be reached; register again, from an address \
         (--listen, --advertise) that other machines reach"
    )]
    Unreachable { node: NodeName, address: String },
    #[error("a newer incarnation of node {0} is registered")]
    NewerIncarnation(NodeName),
    #[error(
        "the name {node} belongs to a node at {address} that may still be running (`framecrew nodes` shows until \
         when); wait, or choose another name with --name"
    )]
    NameTaken {
        node: NodeName,
        address: String,
        /// Where that process itself listens, if it runs on this machine.
        neighbour: Option<SocketAddr>,
    },
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// Why frames are not tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RetryError {
    #[error("there is no such job")]
    NotFound,
    #[error("cancelled jobs cannot be retried; submit the job again")]
    Cancelled,
    #[error("the frames were not looked up: {0}; nothing was changed, try again later")]
    Store(#[from] StoreError),
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// Why finished frames are not adopted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("the frames' outputs cannot be checked: {0}; keep them, and try again later")]
    Blobs(#[from] BlobError),
}
