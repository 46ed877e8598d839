-- What the scheduler goes by, and what people change while a job runs.

ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
-- What a worker must have: labels, a kind of device, free memory.
ALTER TABLE jobs ADD COLUMN needs TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(needs));

-- Owners with a share that is not 1, or whose jobs are held.
CREATE TABLE owners (
    owner TEXT NOT NULL PRIMARY KEY,
    weight REAL NOT NULL DEFAULT 1 CHECK (weight > 0),
    held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1))
) STRICT, WITHOUT ROWID;

ALTER TABLE leases ADD COLUMN job INTEGER REFERENCES jobs (key);
UPDATE leases SET job = (SELECT job FROM shards WHERE shards.key = leases.shard);
CREATE INDEX leases_of_job ON leases (job, granted_at);
CREATE INDEX leases_held_of_job ON leases (job) WHERE ended_at IS NULL;

-- In order of age, of one settings group.
CREATE INDEX shards_ready_of_group ON shards (job, group_no, key) WHERE state = 'ready';

DROP VIEW audit_jobs;
CREATE VIEW audit_jobs AS
SELECT
    id AS job_id, name, owner, model, output, state,
    images, done, failed, images - done - failed AS pending,
    width, height, steps, guidance, bin, decode, negative_prompt, seed, images_per_prompt, name_template,
    client_token, sealed_at AS submitted_at, started_at, finished_at,
    priority, needs
FROM jobs
WHERE sealed_at IS NOT NULL;

-- Who wanted it, and why; null for what the farm does by itself.
ALTER TABLE events ADD COLUMN actor TEXT;
ALTER TABLE events ADD COLUMN reason TEXT;

DROP VIEW audit_events;
CREATE VIEW audit_events AS
SELECT
    e.seq, e.at, e.kind,
    j.id AS job_id,
    s.id AS shard_id,
    e.idx AS image_index,
    e.attempt,
    w.id AS session_id, w.worker,
    e.detail,
    coalesce(e.actor, w.worker, 'coordinator') AS actor,
    e.reason
FROM events AS e
LEFT JOIN jobs AS j ON j.key = e.job
LEFT JOIN shards AS s ON s.key = e.shard
LEFT JOIN sessions AS w ON w.key = e.session;

-- Failures that were taken back, because somebody had their images tried again.
CREATE TABLE retried_results (
    job INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    session INTEGER REFERENCES sessions (key),
    device TEXT NOT NULL,
    render_seconds REAL,
    error_class TEXT NOT NULL,
    error TEXT,
    finished_at TEXT NOT NULL,
    retried_at TEXT NOT NULL,
    PRIMARY KEY (job, idx, attempt),
    FOREIGN KEY (job, idx) REFERENCES images (job, idx)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER retried_results_are_never_changed BEFORE UPDATE ON retried_results
BEGIN
    SELECT RAISE(ABORT, 'what was retried is append-only');
END;

CREATE TRIGGER retried_results_are_never_deleted BEFORE DELETE ON retried_results
BEGIN
    SELECT RAISE(ABORT, 'what was retried is append-only');
END;

-- A picture stays for ever; a failure may give way once it is written down as retried.
DROP TRIGGER results_are_never_deleted;
CREATE TRIGGER results_are_never_deleted BEFORE DELETE ON results
WHEN OLD.state = 'done' OR NOT EXISTS (
    SELECT 1 FROM retried_results AS t WHERE t.job = OLD.job AND t.idx = OLD.idx AND t.attempt = OLD.attempt)
BEGIN
    SELECT RAISE(ABORT, 'a result is committed once and for ever');
END;

-- How a worker stands, by its lasting name: only those that failed since they last rendered an image.
CREATE TABLE standings (
    worker TEXT NOT NULL PRIMARY KEY,
    failures INTEGER NOT NULL,
    last_failed TEXT,
    exclusions INTEGER NOT NULL,
    excluded_until TEXT
) STRICT, WITHOUT ROWID;
