-- Workers that are asked to leave or leave, how they spend their time, what they logged, and pictures that are taken back.

-- Somebody asked the worker to leave: when its image in hand is finished, or at its next denoising step.
ALTER TABLE sessions ADD COLUMN drain TEXT CHECK (drain IN ('soon', 'now'));
-- Why the worker leaves, as it said itself.
ALTER TABLE sessions ADD COLUMN leaving TEXT;
-- How it spends its time, as of its last renewal that told it.
ALTER TABLE sessions ADD COLUMN stats TEXT CHECK (stats IS NULL OR json_valid(stats));
ALTER TABLE sessions ADD COLUMN stats_at TEXT;

-- What workers logged about images, by attempt. Only when they logged anything.
CREATE TABLE image_logs (
    job INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    -- One an attempt, so that a report sent twice counts once.
    attempt INTEGER NOT NULL,
    session INTEGER REFERENCES sessions (key),
    device TEXT NOT NULL,
    log TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (job, idx, attempt),
    FOREIGN KEY (job, idx) REFERENCES images (job, idx)
) STRICT, WITHOUT ROWID;

-- Pictures that were taken back, because their objects are lost or damaged and somebody had them rendered again.
CREATE TABLE requeued_results (
    job INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    session INTEGER REFERENCES sessions (key),
    device TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    recipe TEXT NOT NULL CHECK (json_valid(recipe)),
    render_seconds REAL,
    decode_seconds REAL,
    finished_at TEXT NOT NULL,
    requeued_at TEXT NOT NULL,
    PRIMARY KEY (job, idx, attempt),
    FOREIGN KEY (job, idx) REFERENCES images (job, idx)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER image_logs_are_never_changed BEFORE UPDATE ON image_logs
BEGIN
    SELECT RAISE(ABORT, 'logs are append-only');
END;

CREATE TRIGGER image_logs_are_never_deleted BEFORE DELETE ON image_logs
BEGIN
    SELECT RAISE(ABORT, 'logs are append-only');
END;

CREATE TRIGGER requeued_results_are_never_changed BEFORE UPDATE ON requeued_results
BEGIN
    SELECT RAISE(ABORT, 'what was requeued is append-only');
END;

CREATE TRIGGER requeued_results_are_never_deleted BEFORE DELETE ON requeued_results
BEGIN
    SELECT RAISE(ABORT, 'what was requeued is append-only');
END;

-- A result may give way once it is written down as retried or requeued.
DROP TRIGGER results_are_never_deleted;
CREATE TRIGGER results_are_never_deleted BEFORE DELETE ON results
WHEN NOT EXISTS (
    SELECT 1 FROM retried_results AS t
    WHERE OLD.state = 'failed' AND t.job = OLD.job AND t.idx = OLD.idx AND t.attempt = OLD.attempt
    UNION ALL
    SELECT 1 FROM requeued_results AS t
    WHERE OLD.state = 'done' AND t.job = OLD.job AND t.idx = OLD.idx AND t.attempt = OLD.attempt)
BEGIN
    SELECT RAISE(ABORT, 'a result is committed once and for ever');
END;

-- The object of a picture that was taken back is not where an attempt of that time put it.
CREATE TRIGGER results_are_not_what_was_requeued BEFORE INSERT ON results
WHEN NEW.state = 'done' AND EXISTS (
    SELECT 1 FROM requeued_results AS q WHERE q.job = NEW.job AND q.idx = NEW.idx AND q.attempt >= NEW.attempt)
BEGIN
    SELECT RAISE(ABORT, 'the picture of this attempt was taken back');
END;

DROP VIEW audit_workers;
CREATE VIEW audit_workers AS
SELECT
    w.worker,
    n.version, n.devices, n.labels,
    w.sessions, w.open_sessions, w.first_seen_at, w.last_seen_at,
    coalesce(s.failures, 0) AS failures_in_a_row,
    coalesce(s.exclusions, 0) AS exclusions,
    s.excluded_until,
    n.drain, n.leaving,
    (SELECT avg(d.value ->> '$.idle') FROM json_each(n.stats, '$.devices') AS d) AS idle,
    n.stats ->> '$.outbox_images' AS outbox_images,
    nullif(n.stats ->> '$.trouble', '') AS trouble,
    n.stats, n.stats_at
FROM (
    SELECT
        worker, max(key) AS newest, count(*) AS sessions, count(*) FILTER (WHERE closed_at IS NULL) AS open_sessions,
        min(opened_at) AS first_seen_at, max(seen_at) AS last_seen_at
    FROM sessions GROUP BY worker) AS w
JOIN sessions AS n ON n.key = w.newest
LEFT JOIN standings AS s ON s.worker = w.worker;

CREATE VIEW audit_logs AS
SELECT
    j.id AS job_id,
    l.idx AS image_index,
    l.attempt,
    w.id AS session_id, w.worker, l.device,
    l.at, l.log
FROM image_logs AS l
JOIN jobs AS j ON j.key = l.job
LEFT JOIN sessions AS w ON w.key = l.session;
