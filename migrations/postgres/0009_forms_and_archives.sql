-- What is written for the images of a job, tars in the layout webdataset, and what a look at a picture gives.

ALTER TABLE jobs
    ADD COLUMN format text NOT NULL DEFAULT 'png' CHECK (format IN ('png', 'jpeg', 'webp', 'webp-lossless')),
    -- Of a lossy format; 0 for the encoder's own.
    ADD COLUMN quality integer NOT NULL DEFAULT 0 CHECK (quality BETWEEN 0 AND 100),
    ADD COLUMN layout text NOT NULL DEFAULT 'files' CHECK (layout IN ('files', 'webdataset')),
    ADD COLUMN thumbnails boolean NOT NULL DEFAULT false,
    -- Images of earlier jobs in the output: names of this one's go on after theirs.
    ADD COLUMN index_base bigint NOT NULL DEFAULT 0 CHECK (index_base >= 0);

-- The tar of a lease whose pictures are committed. A picture is in that of its shard and attempt.
CREATE TABLE archives (
    shard bigint NOT NULL REFERENCES shards (key),
    attempt integer NOT NULL CHECK (attempt >= 1),
    job bigint NOT NULL REFERENCES jobs (key),
    -- Where the worker has put it.
    object text NOT NULL,
    bytes bigint NOT NULL CHECK (bytes >= 0),
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    images integer NOT NULL CHECK (images >= 1),
    -- Of its pictures.
    first_index bigint NOT NULL,
    last_index bigint NOT NULL,
    committed_at timestamptz NOT NULL,
    -- Of its final name. Those of an output have no holes.
    number bigint CHECK (number >= 0),
    -- It has that name.
    published_at timestamptz,
    PRIMARY KEY (shard, attempt),
    CHECK (published_at IS NULL OR number IS NOT NULL)
);

CREATE INDEX archives_of_job ON archives (job, number);
CREATE INDEX archives_to_publish ON archives (job) WHERE published_at IS NULL;

ALTER TABLE results
    -- Of the brightness of its pixels, in bits.
    ADD COLUMN entropy double precision,
    -- Share of its pixels that are black or white in every channel.
    ADD COLUMN clipped double precision;

-- The class `numeric` is `bad_image` now: what is committed keeps its meaning, and nobody else may change it.
ALTER TABLE results DROP CONSTRAINT results_error_class_check;
ALTER TABLE results DISABLE TRIGGER results_are_never_changed;
ALTER TABLE retried_results DISABLE TRIGGER retried_results_are_never_changed;
ALTER TABLE events DISABLE TRIGGER events_are_never_changed;
UPDATE results SET error_class = 'bad_image' WHERE state = 'failed' AND error_class = 'numeric';
UPDATE retried_results SET error_class = 'bad_image' WHERE error_class = 'numeric';
UPDATE image_errors SET error_class = 'bad_image' WHERE error_class = 'numeric';
UPDATE events SET detail = jsonb_set(detail, '{error_class}', '"bad_image"') WHERE detail ->> 'error_class' = 'numeric';
ALTER TABLE results ENABLE TRIGGER results_are_never_changed;
ALTER TABLE retried_results ENABLE TRIGGER retried_results_are_never_changed;
ALTER TABLE events ENABLE TRIGGER events_are_never_changed;
ALTER TABLE results ADD CONSTRAINT results_error_class_check CHECK (error_class IN ('prompt', 'size', 'model',
    'out_of_memory', 'bad_image', 'encode', 'conflict', 'internal', 'worker_lost'));

-- Gives shards to sessions that want one and whose workers were not taken out. A row for each claim that got one, and
-- for each whose session is not open. Of a job whose deadline has passed, or that waits for others, nothing is given. As
-- before, but it tells what is written for the images too.
DROP FUNCTION claim_shards (uuid[], integer[], integer[], uuid[], integer[], timestamptz, timestamptz);
CREATE FUNCTION claim_shards(
    -- One of each a claim: its session, and the number of its list of choices.
    claim_sessions uuid[], claim_lists integer[],
    -- One of each a choice, the best of a list first: the number of its list, the job, a settings group or null.
    choice_lists integer[], choice_jobs uuid[], choice_groups integer[],
    moment timestamptz, expiry timestamptz)
RETURNS TABLE (
    claim integer, known boolean, open boolean,
    shard uuid, attempt integer, whole boolean, started_job boolean,
    job_key bigint, group_no integer, first_index bigint, last_index bigint, mixed_from bigint,
    job uuid, name text, model text, output text, negative_prompt text,
    width integer, height integer, steps integer, guidance double precision, bin text, decode text,
    format text, quality integer, layout text, thumbnails boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _list integer;
    _choice record;
    _job record;
    -- Claims of the list that have nothing yet, and their sessions.
    _waiting integer[];
    _sessions bigint[];
    _ready bigint[];
    _starts boolean;
BEGIN
    PERFORM see_sessions(claim_sessions, moment);
    -- Nobody closes them until this has ended.
    PERFORM 1 FROM sessions AS w WHERE w.id = ANY (claim_sessions) AND w.closed_at IS NULL
        ORDER BY w.key FOR KEY SHARE;
    RETURN QUERY
        SELECT c.no::integer, w.key IS NOT NULL, false, NULL::uuid, NULL::integer, NULL::boolean, NULL::boolean,
            NULL::bigint, NULL::integer, NULL::bigint, NULL::bigint, NULL::bigint, NULL::uuid, NULL, NULL, NULL, NULL,
            NULL::integer, NULL::integer, NULL::integer, NULL::double precision, NULL, NULL,
            NULL, NULL::integer, NULL, NULL::boolean
        FROM unnest(claim_sessions) WITH ORDINALITY AS c (session, no)
        LEFT JOIN sessions AS w ON w.id = c.session
        WHERE w.key IS NULL OR w.closed_at IS NOT NULL;
    FOR _list IN SELECT DISTINCT l.list FROM unnest(claim_lists) AS l (list) ORDER BY l.list LOOP
        SELECT array_agg(c.no ORDER BY c.no), array_agg(w.key ORDER BY c.no) INTO _waiting, _sessions
            FROM unnest(claim_sessions, claim_lists) WITH ORDINALITY AS c (session, list, no)
            JOIN sessions AS w ON w.id = c.session AND w.closed_at IS NULL
            WHERE c.list = _list AND NOT EXISTS (SELECT FROM standings AS t
                WHERE t.worker = w.worker AND t.excluded_until > moment);
        FOR _choice IN
            SELECT c.job, c.group_no FROM unnest(choice_lists, choice_jobs, choice_groups) WITH ORDINALITY
                AS c (list, job, group_no, no)
            WHERE c.list = _list ORDER BY c.no
        LOOP
            EXIT WHEN coalesce(cardinality(_waiting), 0) = 0;
            SELECT j.key, j.state INTO _job FROM jobs AS j
                WHERE j.id = _choice.job AND j.state IN ('pending', 'running') AND j.sealed_at IS NOT NULL
                    AND (j.deadline IS NULL OR j.deadline > moment)
                    -- What it waits for is asked before its first lease only.
                    AND (j.started_at IS NOT NULL OR NOT EXISTS (
                        SELECT FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
                        WHERE d.job = j.key AND n.state <> 'succeeded'
                            AND NOT (d.any_end AND n.state IN ('failed', 'cancelled')) OFFSET 0))
                FOR KEY SHARE OF j;
            CONTINUE WHEN NOT FOUND;
            -- Two statements, for there is an index for each.
            IF _choice.group_no IS NULL THEN
                _ready := ARRAY(
                    SELECT s.key FROM shards AS s
                    WHERE s.job = _job.key AND s.state = 'ready' AND s.not_before <= moment
                    ORDER BY s.key LIMIT cardinality(_waiting) FOR NO KEY UPDATE SKIP LOCKED);
            ELSE
                _ready := ARRAY(
                    SELECT s.key FROM shards AS s
                    WHERE s.job = _job.key AND s.group_no = _choice.group_no AND s.state = 'ready'
                        AND s.not_before <= moment
                    ORDER BY s.key LIMIT cardinality(_waiting) FOR NO KEY UPDATE SKIP LOCKED);
            END IF;
            CONTINUE WHEN cardinality(_ready) = 0;
            _starts := _job.state = 'pending';
            IF _starts THEN
                UPDATE jobs SET state = 'running', started_at = coalesce(started_at, moment)
                    WHERE key = _job.key AND state = 'pending';
                _starts := FOUND;
            END IF;
            RETURN QUERY
                WITH taken AS (
                    UPDATE shards SET state = 'leased', attempt = attempt + 1 WHERE key = ANY (_ready)
                    RETURNING key, id, job, group_no, first_index, last_index, images, remaining, attempt),
                given AS MATERIALIZED (
                    SELECT t.*, (row_number() OVER (ORDER BY t.key))::integer AS no FROM taken AS t),
                leased AS (
                    INSERT INTO leases (shard, attempt, session, job, images, granted_at, expires_at)
                    SELECT g.key, g.attempt, _sessions[g.no], g.job, g.images, moment, expiry FROM given AS g),
                told AS (
                    INSERT INTO events (at, kind, job, shard, attempt, session)
                    SELECT moment, 'lease_granted', g.job, g.key, g.attempt, _sessions[g.no] FROM given AS g
                    ORDER BY g.no)
                SELECT _waiting[g.no], true, true, g.id, g.attempt, g.remaining = g.images, _starts AND g.no = 1,
                    g.job, g.group_no, g.first_index, g.last_index, j.mixed_from,
                    j.id, j.name, j.model, j.output, j.negative_prompt,
                    s.width, s.height, s.steps, s.guidance, s.bin, s.decode,
                    j.format, j.quality, j.layout, j.thumbnails
                FROM given AS g
                JOIN jobs AS j ON j.key = g.job
                JOIN settings_groups AS s ON s.job = g.job AND s.group_no = g.group_no;
            IF _starts THEN
                INSERT INTO events (at, kind, job) VALUES (moment, 'job_started', _job.key);
            END IF;
            _sessions := _sessions[cardinality(_ready) + 1:];
            _waiting := _waiting[cardinality(_ready) + 1:];
        END LOOP;
    END LOOP;
END $$;

-- Commits pictures, one at least in each report. A report that breaks a rule is refused whole. A row for each report:
-- why it was refused, or the images that were committed for its session and attempt, by this call, and how things stand
-- after it. An image of a part that was cut off its shard is taken too, and counted at that part. As before, but with what
-- a look at each picture gave, and pictures come in a tar where their job wants that and nowhere else.
DROP FUNCTION commit_pictures (uuid[], uuid[], integer[], integer[], bigint[], text[], bigint[], bytea[], text[], text[],
    double precision[], double precision[], timestamptz);
CREATE FUNCTION commit_pictures(
    -- One of each a report.
    report_sessions uuid[], report_shards uuid[], report_attempts integer[], report_archived boolean[],
    -- One of each a picture: the number of its report and the picture.
    reports integer[], indices bigint[], objects text[], sizes bigint[], hashes bytea[], recipes text[],
    devices text[], renders double precision[], decodes double precision[],
    entropies double precision[], clips double precision[],
    moment timestamptz)
RETURNS TABLE (
    report integer, shard bigint, refused text, refused_index bigint, assigned text,
    committed bigint[], held boolean, complete boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    -- One of each a report; 0 for what is not known.
    _jobs bigint[];
    _shards bigint[];
    _groups integer[];
    _firsts bigint[];
    _lasts bigint[];
    _roots bigint[];
    _sessions bigint[];
    _refused text[];
BEGIN
    PERFORM see_sessions(report_sessions, moment);
    PERFORM 1 FROM jobs AS j
        WHERE j.key = ANY (ARRAY(SELECT s.job FROM shards AS s WHERE s.id = ANY (report_shards)))
        ORDER BY j.key FOR NO KEY UPDATE;
    -- Who cuts a shard has locked its job too.
    _shards := ARRAY(
        SELECT s.key FROM shards AS s WHERE s.id = ANY (report_shards)
        UNION
        SELECT p.key FROM shards AS s JOIN shards AS p ON p.cut_from = s.cut_from WHERE s.id = ANY (report_shards));
    PERFORM 1 FROM shards AS s WHERE s.key = ANY (_shards) ORDER BY s.key FOR NO KEY UPDATE;
    PERFORM lock_held_leases(_shards);
    SELECT array_agg(coalesce(s.job, 0) ORDER BY r.no), array_agg(coalesce(s.key, 0) ORDER BY r.no),
        array_agg(coalesce(s.group_no, 0) ORDER BY r.no), array_agg(coalesce(s.first_index, 0) ORDER BY r.no),
        array_agg(coalesce(s.last_index, -1) ORDER BY r.no), array_agg(s.cut_from ORDER BY r.no),
        array_agg(coalesce(w.key, 0) ORDER BY r.no),
        array_agg(CASE WHEN s.key IS NULL THEN 'shard'
            WHEN NOT EXISTS (SELECT FROM leases AS l WHERE l.shard = s.key AND l.attempt = r.attempt) THEN 'attempt'
            WHEN r.archived <> (j.layout = 'webdataset') THEN 'archive' END
            ORDER BY r.no)
        INTO _jobs, _shards, _groups, _firsts, _lasts, _roots, _sessions, _refused
        FROM unnest(report_sessions, report_shards, report_attempts, report_archived) WITH ORDINALITY
            AS r (session, shard, attempt, archived, no)
        LEFT JOIN shards AS s ON s.id = r.shard
        LEFT JOIN jobs AS j ON j.key = s.job
        LEFT JOIN sessions AS w ON w.id = r.session;
    RETURN QUERY
        WITH given AS MATERIALIZED (
            SELECT p.*,
                -- Looked up one by one, whatever the planner believes of the size of the tables.
                (SELECT i.object FROM images AS i
                    WHERE i.job = _jobs[p.report] AND i.idx = p.idx AND i.group_no = _groups[p.report]
                        AND (i.idx BETWEEN _firsts[p.report] AND _lasts[p.report]
                            OR EXISTS (SELECT FROM shards AS c WHERE c.cut_from = _roots[p.report]
                                AND i.idx BETWEEN c.first_index AND c.last_index))) AS assigned
            FROM unnest(reports, indices, objects, sizes, hashes, recipes, devices, renders, decodes, entropies, clips)
                WITH ORDINALITY AS p (report, idx, object, bytes, sha256, recipe, device, render_seconds,
                    decode_seconds, entropy, clipped, no)
            WHERE _refused[p.report] IS NULL),
        wrong AS MATERIALIZED (
            SELECT DISTINCT ON (g.report) g.report, g.idx, g.assigned FROM given AS g
            WHERE g.assigned IS DISTINCT FROM g.object ORDER BY g.report, g.no),
        fresh AS (
            INSERT INTO results (job, idx, state, shard, attempt, session, device, bytes, sha256, recipe,
                render_seconds, decode_seconds, finished_at, entropy, clipped)
            SELECT _jobs[g.report], g.idx, 'done', _shards[g.report], report_attempts[g.report],
                nullif(_sessions[g.report], 0), g.device, g.bytes, g.sha256, g.recipe::json, g.render_seconds,
                g.decode_seconds, moment, g.entropy, g.clipped
            FROM given AS g
            WHERE NOT EXISTS (SELECT FROM wrong AS x WHERE x.report = g.report)
                -- A picture that was taken back (0010): its object is not where an attempt of that time put it. Reported
                -- late, it is passed over like one that is known.
                AND NOT EXISTS (SELECT FROM requeued_results AS q WHERE q.job = _jobs[g.report] AND q.idx = g.idx
                    AND q.attempt >= report_attempts[g.report] OFFSET 0)
            ON CONFLICT (job, idx) DO NOTHING
            RETURNING job, idx, shard, attempt, session),
        by_attempt AS MATERIALIZED (
            SELECT f.shard, f.attempt, coalesce(f.session, 0) AS session, count(*)::integer AS images,
                array_agg(f.idx) AS indices
            FROM fresh AS f GROUP BY f.shard, f.attempt, f.session),
        counted AS (
            UPDATE jobs AS j SET done = j.done + c.images
            FROM (SELECT f.job, count(*) AS images FROM fresh AS f GROUP BY f.job) AS c
            WHERE j.key = c.job
            RETURNING j.key, j.done + j.failed = j.images AND j.state IN ('pending', 'running', 'paused') AS complete),
        -- By the shard that has the image now.
        placed AS (
            SELECT a.shard, a.images FROM by_attempt AS a JOIN shards AS s ON s.key = a.shard WHERE s.cut_from IS NULL
            UNION ALL
            SELECT c.key, 1 FROM by_attempt AS a JOIN shards AS s ON s.key = a.shard
            CROSS JOIN LATERAL unnest(a.indices) AS i (idx)
            JOIN shards AS c ON c.cut_from = s.cut_from AND i.idx BETWEEN c.first_index AND c.last_index),
        moved AS (
            UPDATE shards AS s SET remaining = s.remaining - c.images,
                state = CASE WHEN s.remaining = c.images THEN 'done' ELSE s.state END
            FROM (SELECT p.shard, sum(p.images)::integer AS images FROM placed AS p GROUP BY p.shard) AS c
            WHERE s.key = c.shard
            RETURNING s.key, s.attempt, s.remaining = 0 AS done),
        -- As they were before this statement.
        ending AS MATERIALIZED (
            SELECT l.shard, l.attempt, l.session, l.job
            FROM moved AS m CROSS JOIN LATERAL (SELECT h.* FROM leases AS h
                WHERE h.shard = m.key AND h.attempt = m.attempt OFFSET 0) AS l
            WHERE m.done AND l.ended_at IS NULL),
        -- There is nothing left to do under a lease on a shard that is done, whoever holds it.
        ended AS (
            UPDATE leases AS l SET
                done = l.done + coalesce((SELECT sum(a.images) FROM by_attempt AS a
                    WHERE a.shard = l.shard AND a.attempt = l.attempt), 0),
                ended_at = CASE WHEN m.done THEN coalesce(l.ended_at, moment) ELSE l.ended_at END,
                outcome = CASE WHEN m.done THEN coalesce(l.outcome, 'finished') ELSE l.outcome END
            FROM (SELECT x.key, x.done FROM moved AS x
                UNION ALL
                SELECT DISTINCT a.shard, false FROM by_attempt AS a
                WHERE NOT EXISTS (SELECT FROM moved AS x WHERE x.key = a.shard)) AS m
            WHERE l.shard = m.key AND (l.ended_at IS NULL AND m.done
                OR EXISTS (SELECT FROM by_attempt AS a WHERE a.shard = l.shard AND a.attempt = l.attempt))),
        -- A worker that rendered an image stands as well as any.
        forgiven AS (
            DELETE FROM standings AS t USING generate_subscripts(report_shards, 1) AS n (report), sessions AS w
            WHERE w.key = _sessions[n.report] AND NOT w.embedded AND t.worker = w.worker
                AND _refused[n.report] IS NULL AND NOT EXISTS (SELECT FROM wrong AS x WHERE x.report = n.report)
            RETURNING w.key AS session, t.exclusions),
        in_again AS (
            INSERT INTO events (at, kind, session, detail, actor)
            SELECT moment, 'worker_forgiven', f.session, jsonb_build_object('times', f.exclusions), 'coordinator'
            FROM forgiven AS f WHERE f.exclusions > 0),
        told AS (
            INSERT INTO events (at, kind, job, shard, attempt, session)
            SELECT moment, 'lease_finished', e.job, e.shard, e.attempt, e.session FROM ending AS e ORDER BY e.shard)
        SELECT n.report, _shards[n.report],
            coalesce(_refused[n.report],
                CASE WHEN x.report IS NULL THEN NULL WHEN x.assigned IS NULL THEN 'image' ELSE 'object' END),
            x.idx, x.assigned, a.indices,
            EXISTS (SELECT FROM (SELECT l.session, l.ended_at FROM leases AS l
                    WHERE l.shard = _shards[n.report] AND l.attempt = report_attempts[n.report] OFFSET 0) AS l
                    WHERE l.session = _sessions[n.report] AND l.ended_at IS NULL)
                AND NOT EXISTS (SELECT FROM moved AS m WHERE m.key = _shards[n.report] AND m.done),
            coalesce((SELECT c.complete FROM counted AS c WHERE c.key = _jobs[n.report]),
                (SELECT j.done + j.failed = j.images AND j.state IN ('pending', 'running', 'paused')
                    FROM jobs AS j WHERE j.key = _jobs[n.report]),
                false)
        FROM generate_subscripts(report_shards, 1) AS n (report)
        LEFT JOIN wrong AS x ON x.report = n.report
        LEFT JOIN by_attempt AS a ON a.shard = _shards[n.report] AND a.attempt = report_attempts[n.report]
            AND a.session = _sessions[n.report]
        ORDER BY n.report;
END $$;

CREATE OR REPLACE VIEW audit_jobs AS
SELECT
    id AS job_id, name, owner, model, output, state,
    images, done, failed, images - done - failed AS pending,
    width, height, steps, guidance, bin, decode, negative_prompt, seed, images_per_prompt, name_template,
    client_token, sealed_at AS submitted_at, started_at, finished_at,
    priority, needs,
    extract(epoch FROM started_at - sealed_at)::double precision AS waited_seconds,
    extract(epoch FROM finished_at - started_at)::double precision AS ran_seconds,
    deadline,
    (SELECT jsonb_agg(n.id ORDER BY n.key) FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
        WHERE d.job = jobs.key AND NOT d.any_end) AS after_jobs,
    (SELECT jsonb_agg(n.id ORDER BY n.key) FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job
        WHERE d.job = jobs.key AND d.any_end) AS after_any_jobs,
    end_reason,
    format, nullif(quality, 0) AS quality, layout, thumbnails, index_base
FROM jobs
WHERE sealed_at IS NOT NULL;

CREATE OR REPLACE VIEW audit_images AS
SELECT
    j.id AS job_id,
    i.idx AS image_index,
    r.state,
    coalesce(i.prompt, f.prompt) AS prompt,
    coalesce(i.negative_prompt, f.negative_prompt, j.negative_prompt) AS negative_prompt,
    i.seed,
    g.width, g.height, g.steps, g.guidance, g.bin, g.decode,
    j.model,
    r.recipe ->> 'weights_sha256' AS weights_sha256,
    j.output,
    i.object,
    r.bytes, encode(r.sha256, 'hex') AS sha256,
    coalesce(i.prompt_id, f.prompt_id) AS prompt_id,
    coalesce(i.line, f.line) AS line,
    coalesce(i.extra, f.extra) AS extra,
    s.id AS shard_id, r.attempt,
    w.id AS session_id, w.worker, r.device,
    r.render_seconds, r.decode_seconds,
    r.error_class, r.error,
    coalesce(o.errors, 0) AS errors, coalesce(o.losses, 0) AS losses,
    r.recipe,
    r.finished_at,
    r.entropy, r.clipped,
    CASE WHEN a.published_at IS NOT NULL
        THEN 'train-' || lpad(a.number::text, greatest(6, length(a.number::text)), '0') || '.tar' END AS archive,
    CASE WHEN j.thumbnails AND r.state = 'done'
        THEN 'thumbnails/' || regexp_replace(i.object, '\.[^.]*$', '') || '.jpg' END AS thumbnail
FROM results AS r
JOIN images AS i ON i.job = r.job AND i.idx = r.idx
JOIN jobs AS j ON j.key = i.job AND j.sealed_at IS NOT NULL
-- The first image of the same row, for copies.
LEFT JOIN images AS f ON f.job = i.job AND f.idx = CASE WHEN i.copy > 0 THEN i.idx - i.copy END
LEFT JOIN settings_groups AS g ON g.job = i.job AND g.group_no = i.group_no
LEFT JOIN image_faults AS o ON o.job = i.job AND o.idx = i.idx
LEFT JOIN shards AS s ON s.key = r.shard
LEFT JOIN sessions AS w ON w.key = r.session
LEFT JOIN archives AS a ON a.shard = r.shard AND a.attempt = r.attempt AND r.state = 'done'
UNION ALL
SELECT
    j.id,
    i.idx,
    'pending',
    coalesce(i.prompt, f.prompt),
    coalesce(i.negative_prompt, f.negative_prompt, j.negative_prompt),
    i.seed,
    g.width, g.height, g.steps, g.guidance, g.bin, g.decode,
    j.model,
    NULL,
    j.output,
    i.object,
    NULL, NULL,
    coalesce(i.prompt_id, f.prompt_id),
    coalesce(i.line, f.line),
    coalesce(i.extra, f.extra),
    NULL, NULL,
    NULL, NULL, NULL,
    NULL, NULL,
    NULL, NULL,
    coalesce(o.errors, 0), coalesce(o.losses, 0),
    NULL, NULL,
    NULL, NULL, NULL, NULL
FROM images AS i
JOIN jobs AS j ON j.key = i.job AND j.sealed_at IS NOT NULL
-- The first image of the same row, for copies.
LEFT JOIN images AS f ON f.job = i.job AND f.idx = CASE WHEN i.copy > 0 THEN i.idx - i.copy END
LEFT JOIN settings_groups AS g ON g.job = i.job AND g.group_no = i.group_no
LEFT JOIN image_faults AS o ON o.job = i.job AND o.idx = i.idx
WHERE NOT EXISTS (SELECT FROM results AS r WHERE r.job = i.job AND r.idx = i.idx);

CREATE VIEW audit_archives AS
SELECT
    j.id AS job_id, j.output,
    CASE WHEN a.published_at IS NOT NULL
        THEN 'train-' || lpad(a.number::text, greatest(6, length(a.number::text)), '0') || '.tar' END AS archive,
    a.number, a.images, a.bytes, encode(a.sha256, 'hex') AS sha256, a.first_index, a.last_index,
    s.id AS shard_id, a.attempt, a.object AS staged, a.committed_at, a.published_at
FROM archives AS a
JOIN jobs AS j ON j.key = a.job
JOIN shards AS s ON s.key = a.shard;
