-- What is written for the images of a job, tars in the layout webdataset, and what a look at a picture gives.

ALTER TABLE jobs ADD COLUMN format TEXT NOT NULL DEFAULT 'png'
    CHECK (format IN ('png', 'jpeg', 'webp', 'webp-lossless'));
-- Of a lossy format; 0 for the encoder's own.
ALTER TABLE jobs ADD COLUMN quality INTEGER NOT NULL DEFAULT 0 CHECK (quality BETWEEN 0 AND 100);
ALTER TABLE jobs ADD COLUMN layout TEXT NOT NULL DEFAULT 'files' CHECK (layout IN ('files', 'webdataset'));
ALTER TABLE jobs ADD COLUMN thumbnails INTEGER NOT NULL DEFAULT 0 CHECK (thumbnails IN (0, 1));
-- Images of earlier jobs in the output: names of this one's go on after theirs.
ALTER TABLE jobs ADD COLUMN index_base INTEGER NOT NULL DEFAULT 0 CHECK (index_base >= 0);

-- The tar of a lease whose pictures are committed. A picture is in that of its shard and attempt.
CREATE TABLE archives (
    shard INTEGER NOT NULL REFERENCES shards (key),
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    job INTEGER NOT NULL REFERENCES jobs (key),
    -- Where the worker has put it.
    object TEXT NOT NULL,
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    sha256 TEXT NOT NULL,
    images INTEGER NOT NULL CHECK (images >= 1),
    -- Of its pictures.
    first_index INTEGER NOT NULL,
    last_index INTEGER NOT NULL,
    committed_at TEXT NOT NULL,
    -- Of its final name. Those of an output have no holes.
    number INTEGER CHECK (number >= 0),
    -- It has that name.
    published_at TEXT,
    PRIMARY KEY (shard, attempt),
    CHECK (published_at IS NULL OR number IS NOT NULL)
) STRICT, WITHOUT ROWID;

CREATE INDEX archives_of_job ON archives (job, number);
CREATE INDEX archives_to_publish ON archives (job) WHERE published_at IS NULL;

-- The class `numeric` is `bad_image` now. A check cannot be changed: the table of results is made anew, with what it
-- held, and guarded as before.
DROP VIEW audit_images;
DROP VIEW audit_attempts;
DROP VIEW audit_usage;
CREATE TABLE new_results (
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
    error_class TEXT CHECK (error_class IN ('prompt', 'size', 'model', 'out_of_memory', 'bad_image', 'encode',
        'conflict', 'internal', 'worker_lost')),
    error TEXT,
    finished_at TEXT NOT NULL,
    -- Of the brightness of its pixels, in bits.
    entropy REAL,
    -- Share of its pixels that are black or white in every channel.
    clipped REAL,
    PRIMARY KEY (job, idx),
    FOREIGN KEY (job, idx) REFERENCES images (job, idx),
    CHECK (state <> 'done'
        OR (object IS NOT NULL AND bytes IS NOT NULL AND sha256 IS NOT NULL AND recipe IS NOT NULL)),
    CHECK ((state = 'failed') = (error_class IS NOT NULL))
) STRICT, WITHOUT ROWID;

INSERT INTO new_results (job, idx, state, shard, attempt, session, device, object, bytes, sha256, recipe,
    render_seconds, decode_seconds, error_class, error, finished_at)
SELECT job, idx, state, shard, attempt, session, device, object, bytes, sha256, recipe, render_seconds, decode_seconds,
    CASE error_class WHEN 'numeric' THEN 'bad_image' ELSE error_class END, error, finished_at
FROM results;
DROP TABLE results;
ALTER TABLE new_results RENAME TO results;
CREATE INDEX results_failed ON results (job, idx) WHERE state = 'failed';

CREATE TRIGGER results_are_never_changed BEFORE UPDATE ON results
BEGIN
    SELECT RAISE(ABORT, 'a result is committed once and for ever');
END;

CREATE TRIGGER results_are_never_deleted BEFORE DELETE ON results
WHEN OLD.state = 'done' OR NOT EXISTS (
    SELECT 1 FROM retried_results AS t WHERE t.job = OLD.job AND t.idx = OLD.idx AND t.attempt = OLD.attempt)
BEGIN
    SELECT RAISE(ABORT, 'a result is committed once and for ever');
END;

-- INSERT OR REPLACE deletes without asking the delete triggers.
CREATE TRIGGER results_are_never_replaced BEFORE INSERT ON results
WHEN EXISTS (SELECT 1 FROM results WHERE job = NEW.job AND idx = NEW.idx)
BEGIN
    SELECT RAISE(ABORT, 'a result is committed once and for ever');
END;

DROP TRIGGER retried_results_are_never_changed;
DROP TRIGGER events_are_never_changed;
UPDATE retried_results SET error_class = 'bad_image' WHERE error_class = 'numeric';
UPDATE image_errors SET error_class = 'bad_image' WHERE error_class = 'numeric';
UPDATE events SET detail = json_set(detail, '$.error_class', 'bad_image') WHERE detail ->> '$.error_class' = 'numeric';
CREATE TRIGGER retried_results_are_never_changed BEFORE UPDATE ON retried_results
BEGIN
    SELECT RAISE(ABORT, 'what was retried is append-only');
END;

CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'events are append-only');
END;

DROP VIEW audit_jobs;
CREATE VIEW audit_jobs AS
SELECT
    id AS job_id, name, owner, model, output, state,
    images, done, failed, images - done - failed AS pending,
    width, height, steps, guidance, bin, decode, negative_prompt, seed, images_per_prompt, name_template,
    client_token, sealed_at AS submitted_at, started_at, finished_at,
    priority, needs,
    (julianday(started_at) - julianday(sealed_at)) * 86400 AS waited_seconds,
    (julianday(finished_at) - julianday(started_at)) * 86400 AS ran_seconds,
    deadline,
    -- In order of age; of no rows the array is empty.
    nullif((SELECT json_group_array(a.id) FROM (
        SELECT n.id FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
        WHERE d.job = jobs.key AND d.any_end = 0 ORDER BY n.key) AS a), '[]') AS after_jobs,
    nullif((SELECT json_group_array(a.id) FROM (
        SELECT n.id FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
        WHERE d.job = jobs.key AND d.any_end = 1 ORDER BY n.key) AS a), '[]') AS after_any_jobs,
    end_reason,
    format, nullif(quality, 0) AS quality, layout, thumbnails, index_base
FROM jobs
WHERE sealed_at IS NOT NULL;

CREATE VIEW audit_images AS
SELECT
    j.id AS job_id,
    i.idx AS image_index,
    coalesce(r.state, 'pending') AS state,
    p.prompt,
    coalesce(p.negative_prompt, j.negative_prompt) AS negative_prompt,
    i.seed,
    g.width, g.height, g.steps, g.guidance, g.bin, g.decode,
    j.model,
    r.recipe ->> '$.weights_sha256' AS weights_sha256,
    j.output,
    i.object,
    r.bytes, r.sha256,
    p.id AS prompt_id, p.line, p.extra,
    s.id AS shard_id, r.attempt,
    w.id AS session_id, w.worker, r.device,
    r.render_seconds, r.decode_seconds,
    r.error_class, r.error,
    i.errors, i.losses,
    r.recipe,
    r.finished_at,
    r.entropy, r.clipped,
    CASE WHEN a.published_at IS NOT NULL THEN printf('train-%06d.tar', a.number) END AS archive,
    -- Without what follows the last dot, and the dot.
    CASE WHEN j.thumbnails = 1 AND r.state = 'done'
        THEN 'thumbnails/' || substr(i.object, 1, length(rtrim(i.object, replace(i.object, '.', ''))) - 1) || '.jpg'
        END AS thumbnail
FROM images AS i
JOIN jobs AS j ON j.key = i.job AND j.sealed_at IS NOT NULL
LEFT JOIN prompts AS p ON p.job = i.job AND p.row_no = i.row_no
LEFT JOIN settings_groups AS g ON g.job = i.job AND g.group_no = i.group_no
LEFT JOIN results AS r ON r.job = i.job AND r.idx = i.idx
LEFT JOIN shards AS s ON s.key = r.shard
LEFT JOIN sessions AS w ON w.key = r.session
LEFT JOIN archives AS a ON a.shard = r.shard AND a.attempt = r.attempt AND r.state = 'done';

CREATE VIEW audit_attempts AS
SELECT
    j.id AS job_id,
    s.id AS shard_id,
    l.attempt,
    s.first_index, s.last_index, s.images,
    w.id AS session_id, w.worker, w.version,
    l.granted_at, l.expires_at, l.ended_at,
    coalesce(l.outcome, 'held') AS outcome,
    l.rendering,
    -- From the images of the shard: between its indices there may be many of other shards. (With BETWEEN the
    -- planner leaves the upper bound out.) An attempt may have rendered what was cut off meanwhile.
    (SELECT count(*) FROM images AS i INDEXED BY images_by_group
        CROSS JOIN results AS r ON r.job = i.job AND r.idx = i.idx
        WHERE i.job = s.job AND i.group_no = s.group_no AND i.idx >= s.first_index AND i.idx <= coalesce(
                (SELECT max(c.last_index) FROM shards AS c WHERE c.cut_from = s.cut_from), s.last_index)
            AND r.shard = s.key AND r.attempt = l.attempt AND r.state = 'done') AS done,
    (SELECT count(*) FROM images AS i INDEXED BY images_by_group
        CROSS JOIN image_errors AS e ON e.job = i.job AND e.idx = i.idx
        WHERE i.job = s.job AND i.group_no = s.group_no AND i.idx >= s.first_index AND i.idx <= coalesce(
                (SELECT max(c.last_index) FROM shards AS c WHERE c.cut_from = s.cut_from), s.last_index)
            AND e.attempt = l.attempt AND (s.cut_from IS NULL OR e.session = l.session)) AS errors,
    CASE WHEN l.ended_at IS NULL THEN NULL ELSE (julianday(l.ended_at) - julianday(l.granted_at)) * 86400 END AS held_seconds
FROM leases AS l
JOIN shards AS s ON s.key = l.shard
JOIN jobs AS j ON j.key = s.job
JOIN sessions AS w ON w.key = l.session;

CREATE VIEW audit_usage AS
SELECT
    j.id AS job_id, j.name, j.owner, j.model,
    w.worker, r.device,
    substr(r.finished_at, 1, 10) AS day,
    count(*) FILTER (WHERE r.state = 'done') AS images,
    count(*) FILTER (WHERE r.state = 'failed') AS failed,
    total(r.render_seconds) AS device_seconds,
    total(r.decode_seconds) AS decode_seconds,
    coalesce(sum(r.bytes), 0) AS bytes
FROM results AS r
JOIN jobs AS j ON j.key = r.job
LEFT JOIN sessions AS w ON w.key = r.session
GROUP BY j.key, w.worker, r.device, day;

CREATE VIEW audit_archives AS
SELECT
    j.id AS job_id, j.output,
    CASE WHEN a.published_at IS NOT NULL THEN printf('train-%06d.tar', a.number) END AS archive,
    a.number, a.images, a.bytes, a.sha256, a.first_index, a.last_index,
    s.id AS shard_id, a.attempt, a.object AS staged, a.committed_at, a.published_at
FROM archives AS a
JOIN jobs AS j ON j.key = a.job
JOIN shards AS s ON s.key = a.shard;
