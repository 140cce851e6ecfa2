//! What every program of Framecrew does alike: connect and notice a dead peer, pause between attempts, say what went
//! wrong, end when asked to, and log.

pub mod backoff;
pub mod cause;
pub mod endpoint;
pub mod signals;
pub mod telemetry;
