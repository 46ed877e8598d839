-- Jobs, their images, and what became of them.
--
-- Tables are joined by small integer keys; people and messages use the text ids. Times are RFC 3339 in UTC with
-- milliseconds, so that they sort as text and any client reads them.

CREATE TABLE jobs (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    -- Null for the remains of a submission that was never sealed: the sweep deletes those.
    client_token TEXT UNIQUE,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    model TEXT NOT NULL,
    output TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    guidance REAL NOT NULL,
    bin TEXT NOT NULL CHECK (bin IN ('auto', 'always', 'never')),
    decode TEXT NOT NULL CHECK (decode IN ('exact', 'blend', 'whole')),
    negative_prompt TEXT NOT NULL,
    seed INTEGER NOT NULL,
    images_per_prompt INTEGER NOT NULL,
    name_template TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('pending', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
    -- Moved in the same transaction as the rows that they count.
    images INTEGER NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    -- Nothing is leased, listed or shown before.
    sealed_at TEXT,
    started_at TEXT,
    finished_at TEXT,
    -- Why a complete job has not ended: the newest trouble with its output. Null again at its end.
    output_error TEXT,
    CHECK (done >= 0 AND failed >= 0 AND done + failed <= images)
) STRICT;

-- Both are in order of age, so that the oldest job is found without sorting.
CREATE INDEX jobs_open ON jobs (key) WHERE state IN ('pending', 'running') AND sealed_at IS NOT NULL;
CREATE INDEX jobs_begun ON jobs (key) WHERE state IN ('running', 'paused');
CREATE INDEX jobs_unsealed ON jobs (key) WHERE sealed_at IS NULL;
CREATE INDEX jobs_by_model ON jobs (model, key);
CREATE INDEX jobs_by_output ON jobs (output);

-- Pass-through columns of the prompt list, in order of appearance.
CREATE TABLE job_columns (
    job INTEGER NOT NULL REFERENCES jobs (key),
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (job, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE settings_groups (
    job INTEGER NOT NULL REFERENCES jobs (key),
    group_no INTEGER NOT NULL,
    width INTEGER NOT NULL CHECK (width BETWEEN 1 AND 16384),
    height INTEGER NOT NULL CHECK (height BETWEEN 1 AND 16384),
    steps INTEGER NOT NULL CHECK (steps >= 1),
    guidance REAL NOT NULL,
    bin TEXT NOT NULL CHECK (bin IN ('auto', 'always', 'never')),
    decode TEXT NOT NULL CHECK (decode IN ('exact', 'blend', 'whole')),
    PRIMARY KEY (job, group_no)
) STRICT, WITHOUT ROWID;

-- One row of the prompt list, however many images it gives.
CREATE TABLE prompts (
    job INTEGER NOT NULL REFERENCES jobs (key),
    row_no INTEGER NOT NULL,
    line INTEGER NOT NULL,
    id TEXT,
    prompt TEXT NOT NULL,
    -- Null for the job's.
    negative_prompt TEXT,
    extra TEXT CHECK (extra IS NULL OR json_valid(extra)),
    PRIMARY KEY (job, row_no)
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    job INTEGER NOT NULL REFERENCES jobs (key),
    idx INTEGER NOT NULL,
    row_no INTEGER NOT NULL,
    group_no INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    object TEXT NOT NULL,
    errors INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job, idx),
    FOREIGN KEY (job, row_no) REFERENCES prompts (job, row_no),
    FOREIGN KEY (job, group_no) REFERENCES settings_groups (job, group_no)
) STRICT, WITHOUT ROWID;

CREATE INDEX images_by_group ON images (job, group_no, idx);
-- Two images of a job never share a name.
CREATE UNIQUE INDEX images_by_object ON images (job, object);

-- All images of one group with an index from first_index to last_index.
CREATE TABLE shards (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    job INTEGER NOT NULL REFERENCES jobs (key),
    group_no INTEGER NOT NULL,
    first_index INTEGER NOT NULL,
    last_index INTEGER NOT NULL,
    images INTEGER NOT NULL CHECK (images >= 1),
    state TEXT NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'leased', 'done')),
    -- The newest attempt given out; 0 before the first.
    attempt INTEGER NOT NULL DEFAULT 0,
    not_before TEXT NOT NULL,
    FOREIGN KEY (job, group_no) REFERENCES settings_groups (job, group_no),
    CHECK (first_index <= last_index)
) STRICT;

CREATE INDEX shards_by_job ON shards (job, key);
CREATE INDEX shards_ready ON shards (job, key) WHERE state = 'ready';

-- One connection life of a worker.
CREATE TABLE sessions (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    worker TEXT NOT NULL,
    version TEXT NOT NULL,
    devices TEXT NOT NULL CHECK (json_valid(devices)),
    labels TEXT NOT NULL CHECK (json_valid(labels)),
    -- 1 for a worker inside the coordinator's own process.
    embedded INTEGER NOT NULL CHECK (embedded IN (0, 1)),
    opened_at TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    closed_at TEXT,
    close_reason TEXT
) STRICT;

CREATE INDEX sessions_open ON sessions (seen_at) WHERE closed_at IS NULL;

-- Every attempt at a shard. One with no end is held now.
CREATE TABLE leases (
    shard INTEGER NOT NULL REFERENCES shards (key),
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    session INTEGER NOT NULL REFERENCES sessions (key),
    granted_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    -- Indices of the images that were being rendered at the last renewal.
    rendering TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(rendering)),
    ended_at TEXT,
    outcome TEXT CHECK (outcome IN ('finished', 'released', 'lost', 'revoked')),
    PRIMARY KEY (shard, attempt),
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
) STRICT, WITHOUT ROWID;

-- A shard is never held twice.
CREATE UNIQUE INDEX leases_held ON leases (shard) WHERE ended_at IS NULL;
CREATE INDEX leases_expiring ON leases (expires_at) WHERE ended_at IS NULL;
CREATE INDEX leases_of_session ON leases (session) WHERE ended_at IS NULL;

-- The committed record of an image: at most one, for ever.
CREATE TABLE results (
    job INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('done', 'failed')),
    -- A shard, but not by REFERENCES: no index leads from a shard to its results, and to delete one would read
    -- them all. The shards of a sealed job stay for ever.
    shard INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    -- Null when the session is not known to this database.
    session INTEGER REFERENCES sessions (key),
    device TEXT NOT NULL,
    object TEXT,
    bytes INTEGER,
    sha256 TEXT,
    recipe TEXT CHECK (recipe IS NULL OR json_valid(recipe)),
    render_seconds REAL,
    decode_seconds REAL,
    error_class TEXT CHECK (error_class IN ('prompt', 'size', 'model', 'out_of_memory', 'numeric', 'encode',
        'conflict', 'internal', 'worker_lost')),
    error TEXT,
    finished_at TEXT NOT NULL,
    PRIMARY KEY (job, idx),
    FOREIGN KEY (job, idx) REFERENCES images (job, idx),
    CHECK (state <> 'done'
        OR (object IS NOT NULL AND bytes IS NOT NULL AND sha256 IS NOT NULL AND recipe IS NOT NULL)),
    CHECK ((state = 'failed') = (error_class IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX results_failed ON results (job, idx) WHERE state = 'failed';

-- Every error that a worker reported, also of images that were rendered in the end.
CREATE TABLE image_errors (
    job INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    -- One error an attempt, so that a report sent twice counts once.
    attempt INTEGER NOT NULL,
    session INTEGER REFERENCES sessions (key),
    device TEXT NOT NULL,
    error_class TEXT NOT NULL,
    error TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (job, idx, attempt),
    FOREIGN KEY (job, idx) REFERENCES images (job, idx)
) STRICT, WITHOUT ROWID;

-- What happened, in order. Written in the transaction of what it tells of.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    job INTEGER,
    shard INTEGER,
    idx INTEGER,
    attempt INTEGER,
    session INTEGER,
    detail TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(detail))
) STRICT;

CREATE INDEX events_by_job ON events (job, seq);

CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'events are append-only');
END;

CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
BEGIN
    SELECT RAISE(ABORT, 'events are append-only');
END;

CREATE TRIGGER results_are_never_changed BEFORE UPDATE ON results
BEGIN
    SELECT RAISE(ABORT, 'a result is committed once and for ever');
END;

CREATE TRIGGER results_are_never_deleted BEFORE DELETE ON results
BEGIN
    SELECT RAISE(ABORT, 'a result is committed once and for ever');
END;

-- INSERT OR REPLACE deletes without asking the delete triggers.
CREATE TRIGGER results_are_never_replaced BEFORE INSERT ON results
WHEN EXISTS (SELECT 1 FROM results WHERE job = NEW.job AND idx = NEW.idx)
BEGIN
    SELECT RAISE(ABORT, 'a result is committed once and for ever');
END;

CREATE TRIGGER events_are_never_replaced BEFORE INSERT ON events
WHEN EXISTS (SELECT 1 FROM events WHERE seq = NEW.seq)
BEGIN
    SELECT RAISE(ABORT, 'events are append-only');
END;
