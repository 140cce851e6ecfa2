//! Failures of a store.

/// The database is missing although the data folder holds blobs, which only an orchestrator with a database stores.
pub(crate) const LOST_DATABASE: &str = "the database is gone, or empty, although the blobs are there. Put framecrew.db \
     back, go on from a copy made by `framecrew-orchestrator backup`, or begin anew with another folder; nothing was \
     changed";

/// Why a store failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the store has no space left; make room on its disk")]
    Full,
    #[error(
        "the store has {free_bytes} bytes left and keeps {reserve_bytes} for the frames of accepted jobs; make room"
    )]
    Low { free_bytes: u64, reserve_bytes: u64 },
    #[error(
        "another orchestrator has opened the store since; this one stops, because only one may assign work"
    )]
    Superseded,
    #[error(
        "the database is damaged ({0}); `framecrew-orchestrator check` shows where. Go on from a copy made by \
         `framecrew-orchestrator backup`, or begin anew with another folder: nothing was changed"
    )]
    Corrupt(String),
    #[error("{LOST_DATABASE}")]
    Lost,
    #[error("the store was made by another version of the orchestrator ({0})")]
    OtherVersion(String),
    #[error("{0} names no known kind of store; use sqlite:///PATH, a plain path, or memory:")]
    UnknownUrl(String),
    /// Any other failure of the database. It is in the text, so it is not linked as the source.
    #[error("the store failed: {0}")]
    Failed(Box<dyn std::error::Error + Send + Sync>),
    #[error("the store holds an unreadable value in {what}: {detail}")]
    Unreadable { what: &'static str, detail: String },
}
