-- A frame's small picture, without its bytes, which are a blob: JSON, as the outputs are.
ALTER TABLE slice ADD COLUMN preview TEXT;

-- The job that makes a movie of this one's frames; made in the same transaction that finishes this one.
ALTER TABLE job ADD COLUMN movie_job_id BIGINT;

-- What a person should know of a job's frames.
CREATE TABLE warning (
    job_id BIGINT NOT NULL,
    -- In the order they were told, from 0.
    number BIGINT NOT NULL,
    kind BIGINT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (job_id, number)
);
