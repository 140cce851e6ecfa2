//! The records that survive a crash, and the stores that keep them.
//!
//! The driver holds the [`Ledger`]: it alone writes, and its reads wait for no watcher. Everyone else reads from the
//! [`Archive`]. [`open`] makes both from a URL. A new kind of store implements the two traits and passes the suite in
//! `conformance`.

mod archive;
#[cfg(test)]
mod conformance;
mod error;
mod failpoint;
mod ledger;
mod memory;
mod open;
mod records;
pub(crate) mod sqlite;

#[cfg(test)]
pub(crate) use self::memory::MemoryStore;
pub(crate) use self::{
    archive::Archive,
    error::StoreError,
    failpoint::point,
    ledger::Ledger,
    open::{Location, Opened, Options, open},
    records::*,
};
