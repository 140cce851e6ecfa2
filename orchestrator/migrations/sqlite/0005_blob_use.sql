-- When each blob was last stored or asked for, in milliseconds since 1970: what no job needs is removed by its age.
-- A blob without a row counts as used when the orchestrator first sees that it has none, so old stores lose nothing.
CREATE TABLE blob_use (
    digest BLOB PRIMARY KEY NOT NULL,
    used_at_ms BIGINT NOT NULL
) WITHOUT ROWID;

-- 1 when the latest orchestrator saved every use before it stopped; 0 while one runs, and after it crashed.
ALTER TABLE store ADD COLUMN blob_uses_complete BIGINT NOT NULL DEFAULT 1;
