//! When blobs were last used.

use framecrew_blobs::Digest;
use sqlx::{QueryBuilder, Sqlite, SqlitePool, Transaction};

use super::store::{ROWS_MAX, still_in};
use crate::{domain::Epoch, store::StoreError};

pub(super) async fn save(
    writer: &SqlitePool,
    epoch: Epoch,
    uses: &[(Digest, i64)],
) -> Result<(), StoreError> {
    // In small transactions: the driver's commits wait for each.
    for chunk in uses.chunks(ROWS_MAX) {
        let mut tx = begin(writer, epoch).await?;
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO blob_use (digest, used_at_ms) ");
        insert.push_values(chunk, |mut row, (digest, used_at_ms)| {
            row.push_bind(digest.as_bytes().to_vec()).push_bind(*used_at_ms);
        });
        insert.push(" ON CONFLICT (digest) DO UPDATE SET used_at_ms = excluded.used_at_ms");
        insert.build().execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(())
}

pub(super) async fn forget(
    writer: &SqlitePool,
    epoch: Epoch,
    blobs: &[Digest],
) -> Result<(), StoreError> {
    for chunk in blobs.chunks(ROWS_MAX) {
        let mut tx = begin(writer, epoch).await?;
        let mut delete = QueryBuilder::<Sqlite>::new("DELETE FROM blob_use WHERE digest IN (");
        let mut digests = delete.separated(", ");
        for digest in chunk {
            digests.push_bind(digest.as_bytes().to_vec());
        }
        delete.push(")");
        delete.build().execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(())
}

pub(super) async fn mark(
    writer: &SqlitePool,
    epoch: Epoch,
    are_complete: bool,
) -> Result<bool, StoreError> {
    let mut tx = begin(writer, epoch).await?;
    let before: i64 =
        sqlx::query_scalar("SELECT blob_uses_complete FROM store").fetch_one(&mut *tx).await?;
    sqlx::query("UPDATE store SET blob_uses_complete = $1")
        .bind(i64::from(are_complete))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(before != 0)
}

async fn begin(
    writer: &SqlitePool,
    epoch: Epoch,
) -> Result<Transaction<'static, Sqlite>, StoreError> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    still_in(&mut tx, epoch).await?;
    Ok(tx)
}
