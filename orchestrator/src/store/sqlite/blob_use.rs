//! When blobs were last used.

use framecrew_blobs::Digest;
use sqlx::{Connection as _, QueryBuilder, Sqlite, SqliteConnection, SqlitePool};

use super::store::{ROWS_MAX, close_after_error, still_in};
use crate::{domain::Epoch, store::StoreError};

/// A write, small enough that the driver's commits need not wait for long.
#[derive(Clone, Copy)]
enum Change<'a> {
    Save(&'a [(Digest, i64)]),
    Forget(&'a [Digest]),
    Mark { are_complete: bool },
}

pub(super) async fn save(
    writer: &SqlitePool,
    epoch: Epoch,
    uses: &[(Digest, i64)],
) -> Result<(), StoreError> {
    for chunk in uses.chunks(ROWS_MAX) {
        write(writer, epoch, Change::Save(chunk)).await?;
    }
    Ok(())
}

pub(super) async fn forget(
    writer: &SqlitePool,
    epoch: Epoch,
    blobs: &[Digest],
) -> Result<(), StoreError> {
    for chunk in blobs.chunks(ROWS_MAX) {
        write(writer, epoch, Change::Forget(chunk)).await?;
    }
    Ok(())
}

/// Returns whether the uses were complete before.
pub(super) async fn mark(
    writer: &SqlitePool,
    epoch: Epoch,
    are_complete: bool,
) -> Result<bool, StoreError> {
    let before: i64 =
        sqlx::query_scalar("SELECT blob_uses_complete FROM store").fetch_one(writer).await?;
    write(writer, epoch, Change::Mark { are_complete }).await?;
    Ok(before != 0)
}

async fn write(writer: &SqlitePool, epoch: Epoch, change: Change<'_>) -> Result<(), StoreError> {
    let mut connection = writer.acquire().await?;
    let written = write_in(&mut connection, epoch, change).await;
    close_after_error(connection, written)
}

async fn write_in(
    writer: &mut SqliteConnection,
    epoch: Epoch,
    change: Change<'_>,
) -> Result<(), StoreError> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    still_in(&mut tx, epoch).await?;
    let mut statement = QueryBuilder::<Sqlite>::new("");
    match change {
        Change::Save(uses) => {
            statement.push("INSERT INTO blob_use (digest, used_at_ms) ");
            statement.push_values(uses, |mut row, (digest, used_at_ms)| {
                row.push_bind(digest.as_bytes().to_vec()).push_bind(*used_at_ms);
            });
            statement.push(" ON CONFLICT (digest) DO UPDATE SET used_at_ms = excluded.used_at_ms");
        }
        Change::Forget(blobs) => {
            statement.push("DELETE FROM blob_use WHERE digest IN (");
            let mut digests = statement.separated(", ");
            for digest in blobs {
                digests.push_bind(digest.as_bytes().to_vec());
            }
            statement.push(")");
        }
        Change::Mark { are_complete } => {
            statement.push("UPDATE store SET blob_uses_complete = ");
            statement.push_bind(i64::from(are_complete));
        }
    }
    statement.build().execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}
