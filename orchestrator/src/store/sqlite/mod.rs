//! The store in SQLite: one writer whose commits are durable (WAL, `synchronous=FULL`), with readers beside it.
//! Statements keep to what PostgreSQL understands, too (`$1`, `ON CONFLICT`).

mod backup;
mod blob_use;
mod check;
mod read;
mod restore;
mod rows;
mod store;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use self::store::{SqliteStore, database_in, is_lost};
pub use self::{
    backup::{Backup, BackupError, backup},
    check::{Checked, NoStore, check},
};
