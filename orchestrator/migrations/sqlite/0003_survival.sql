-- Open jobs are found without a look at those that are over, of which there may be many, with long specs.
CREATE INDEX job_open ON job (job_id) WHERE state IN ('Queued', 'Rendering');

-- Commits of all lives: tells, after a crash, whether the last one that was tried is durable.
ALTER TABLE store ADD COLUMN commits BIGINT NOT NULL DEFAULT 0;
