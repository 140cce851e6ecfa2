-- What must survive. A frame has a row only once something happened to it: a job of a million frames is one
-- row when it is submitted, and "no row" reads "open, never tried".

CREATE TABLE store (
    -- Names this store: a watcher's revision means nothing in another one.
    store_id TEXT NOT NULL,
    -- The latest life of the orchestrator; rises with each of its starts, on this store and across stores.
    epoch BIGINT NOT NULL
);

CREATE TABLE job (
    job_id BIGINT PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    -- Hash of the request's body: the same request_id with another one is refused.
    fingerprint TEXT NOT NULL,
    spec TEXT NOT NULL,
    file_version TEXT NOT NULL,
    state TEXT NOT NULL,
    open_frames BIGINT NOT NULL,
    finished_frames BIGINT NOT NULL,
    failed_frames BIGINT NOT NULL,
    cancelled_frames BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    submitted_at_ms BIGINT NOT NULL,
    started_at_ms BIGINT NOT NULL,
    ended_at_ms BIGINT NOT NULL
);

CREATE TABLE slice (
    job_id BIGINT NOT NULL,
    frame BIGINT NOT NULL,
    slice_index BIGINT NOT NULL,
    state TEXT NOT NULL,
    revision BIGINT NOT NULL,
    attempts TEXT NOT NULL,
    outputs TEXT NOT NULL,
    failure TEXT,
    node TEXT,
    render_seconds DOUBLE PRECISION NOT NULL,
    peak_memory_bytes BIGINT NOT NULL,
    PRIMARY KEY (job_id, frame, slice_index)
);

-- How a watcher resumes.
CREATE UNIQUE INDEX slice_by_revision ON slice (job_id, revision);

-- Live batches only.
CREATE TABLE batch (
    batch_id BIGINT PRIMARY KEY,
    job_id BIGINT NOT NULL,
    node TEXT NOT NULL,
    slices TEXT NOT NULL,
    -- Sequence of its latest event whose log lines are kept: a restart replays all of them.
    log_sequence BIGINT NOT NULL
);

-- Live nodes only.
CREATE TABLE node (
    name TEXT PRIMARY KEY,
    incarnation BIGINT NOT NULL,
    address TEXT NOT NULL,
    description TEXT NOT NULL
);

CREATE TABLE log_line (
    job_id BIGINT NOT NULL,
    -- Rises by one per job: a gap at the front is what the bound took.
    line BIGINT NOT NULL,
    frame BIGINT,
    node TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (job_id, line)
);
