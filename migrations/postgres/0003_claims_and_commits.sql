-- What is done most often, one round trip each. A call is one transaction, or part of one.
--
-- All transactions lock rows in this order, and rows of one table by key: sessions, jobs, shards, leases. Who closes a
-- session or moves the state of a job takes FOR UPDATE, which waits for the claims under way (FOR KEY SHARE); signs of
-- life and counters move beside claims (FOR NO KEY UPDATE). Each statement of a function sees what was committed before
-- it began, so what is read after a lock is what is true under it.

-- These sessions gave a sign of life. A second more or less is worth no write, and no waiting for another call that saw
-- the same one.
CREATE FUNCTION see_sessions(ids uuid[], moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sessions SET seen_at = moment WHERE key = ANY (ARRAY(
        SELECT w.key FROM sessions AS w
        WHERE w.id = ANY (ids) AND w.closed_at IS NULL AND w.seen_at < moment - interval '1 second'
        FOR NO KEY UPDATE SKIP LOCKED));
END $$;

-- Gives shards to sessions that want one and whose workers were not taken out. A row for each claim that got one, and for each whose session is not open.
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
    width integer, height integer, steps integer, guidance double precision, bin text, decode text)
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
            NULL::integer, NULL::integer, NULL::integer, NULL::double precision, NULL, NULL
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
                FOR KEY SHARE;
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
                    s.width, s.height, s.steps, s.guidance, s.bin, s.decode
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

-- Commits pictures, one at least in each report. A report that breaks a rule is refused whole. A row for each report: why it was refused, or the
-- images that were committed for its session and attempt, by this call, and how things stand after it.
CREATE FUNCTION commit_pictures(
    -- One of each a report.
    report_sessions uuid[], report_shards uuid[], report_attempts integer[],
    -- One of each a picture: the number of its report and the picture.
    reports integer[], indices bigint[], objects text[], sizes bigint[], hashes bytea[], recipes text[],
    devices text[], renders double precision[], decodes double precision[],
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
    _sessions bigint[];
    _refused text[];
BEGIN
    PERFORM see_sessions(report_sessions, moment);
    PERFORM 1 FROM jobs AS j
        WHERE j.key = ANY (ARRAY(SELECT s.job FROM shards AS s WHERE s.id = ANY (report_shards)))
        ORDER BY j.key FOR NO KEY UPDATE;
    PERFORM 1 FROM shards AS s WHERE s.id = ANY (report_shards) ORDER BY s.key FOR NO KEY UPDATE;
    PERFORM 1 FROM leases AS l
        WHERE l.shard = ANY (ARRAY(SELECT s.key FROM shards AS s WHERE s.id = ANY (report_shards)))
            AND l.ended_at IS NULL
        ORDER BY l.shard FOR NO KEY UPDATE;
    SELECT array_agg(coalesce(s.job, 0) ORDER BY r.no), array_agg(coalesce(s.key, 0) ORDER BY r.no),
        array_agg(coalesce(s.group_no, 0) ORDER BY r.no), array_agg(coalesce(s.first_index, 0) ORDER BY r.no),
        array_agg(coalesce(s.last_index, -1) ORDER BY r.no), array_agg(coalesce(w.key, 0) ORDER BY r.no),
        array_agg(CASE WHEN s.key IS NULL THEN 'shard' WHEN r.attempt NOT BETWEEN 1 AND s.attempt THEN 'attempt' END
            ORDER BY r.no)
        INTO _jobs, _shards, _groups, _firsts, _lasts, _sessions, _refused
        FROM unnest(report_sessions, report_shards, report_attempts) WITH ORDINALITY AS r (session, shard, attempt, no)
        LEFT JOIN shards AS s ON s.id = r.shard
        LEFT JOIN sessions AS w ON w.id = r.session;
    RETURN QUERY
        WITH given AS MATERIALIZED (
            SELECT p.*,
                -- Looked up one by one, whatever the planner believes of the size of the tables.
                (SELECT i.object FROM images AS i
                    WHERE i.job = _jobs[p.report] AND i.idx = p.idx AND i.group_no = _groups[p.report]
                        AND i.idx BETWEEN _firsts[p.report] AND _lasts[p.report]) AS assigned
            FROM unnest(reports, indices, objects, sizes, hashes, recipes, devices, renders, decodes) WITH ORDINALITY
                AS p (report, idx, object, bytes, sha256, recipe, device, render_seconds, decode_seconds, no)
            WHERE _refused[p.report] IS NULL),
        wrong AS MATERIALIZED (
            SELECT DISTINCT ON (g.report) g.report, g.idx, g.assigned FROM given AS g
            WHERE g.assigned IS DISTINCT FROM g.object ORDER BY g.report, g.no),
        fresh AS (
            INSERT INTO results (job, idx, state, shard, attempt, session, device, bytes, sha256, recipe,
                render_seconds, decode_seconds, finished_at)
            SELECT _jobs[g.report], g.idx, 'done', _shards[g.report], report_attempts[g.report],
                nullif(_sessions[g.report], 0), g.device, g.bytes, g.sha256, g.recipe::json, g.render_seconds,
                g.decode_seconds, moment
            FROM given AS g
            WHERE NOT EXISTS (SELECT FROM wrong AS x WHERE x.report = g.report)
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
        moved AS (
            UPDATE shards AS s SET remaining = s.remaining - c.images,
                state = CASE WHEN s.remaining = c.images THEN 'done' ELSE s.state END
            FROM (SELECT a.shard, sum(a.images)::integer AS images FROM by_attempt AS a GROUP BY a.shard) AS c
            WHERE s.key = c.shard
            RETURNING s.key, s.remaining = 0 AS done),
        -- As they were before this statement.
        ending AS MATERIALIZED (
            SELECT l.shard, l.attempt, l.session, l.job
            FROM moved AS m JOIN leases AS l ON l.shard = m.key AND l.ended_at IS NULL WHERE m.done),
        -- There is nothing left to do under a lease on a shard that is done, whoever holds it.
        ended AS (
            UPDATE leases AS l SET
                done = l.done + coalesce((SELECT sum(a.images) FROM by_attempt AS a
                    WHERE a.shard = l.shard AND a.attempt = l.attempt), 0),
                ended_at = CASE WHEN m.done THEN coalesce(l.ended_at, moment) ELSE l.ended_at END,
                outcome = CASE WHEN m.done THEN coalesce(l.outcome, 'finished') ELSE l.outcome END
            FROM moved AS m
            WHERE l.shard = m.key AND (l.ended_at IS NULL AND m.done
                OR EXISTS (SELECT FROM by_attempt AS a WHERE a.shard = l.shard AND a.attempt = l.attempt))),
        -- A worker that rendered an image stands as well as any.
        forgiven AS (
            DELETE FROM standings AS t USING generate_subscripts(report_shards, 1) AS n (report), sessions AS w
            WHERE w.key = _sessions[n.report] AND NOT w.embedded AND t.worker = w.worker
                AND _refused[n.report] IS NULL AND NOT EXISTS (SELECT FROM wrong AS x WHERE x.report = n.report)),
        told AS (
            INSERT INTO events (at, kind, job, shard, attempt, session)
            SELECT moment, 'lease_finished', e.job, e.shard, e.attempt, e.session FROM ending AS e ORDER BY e.shard)
        SELECT n.report, _shards[n.report],
            coalesce(_refused[n.report],
                CASE WHEN x.report IS NULL THEN NULL WHEN x.assigned IS NULL THEN 'image' ELSE 'object' END),
            x.idx, x.assigned, a.indices,
            EXISTS (SELECT FROM leases AS l WHERE l.shard = _shards[n.report] AND l.attempt = report_attempts[n.report]
                    AND l.session = _sessions[n.report] AND l.ended_at IS NULL)
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

-- Prolongs sessions and those of the leases that they still hold. The numbers of the leases that were prolonged, and of
-- the sessions that are not known or not open.
CREATE FUNCTION renew_leases(
    renewing uuid[],
    -- One of each a lease: its session, shard and attempt, and the indices that are being rendered, as an array's text.
    lease_sessions uuid[], lease_shards uuid[], lease_attempts integer[], lease_renderings text[],
    moment timestamptz, expiry timestamptz,
    OUT renewed bigint[], OUT unknown bigint[], OUT closed bigint[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM see_sessions(renewing, moment);
    PERFORM 1 FROM leases AS l
        WHERE l.shard = ANY (ARRAY(SELECT s.key FROM shards AS s WHERE s.id = ANY (lease_shards)))
            AND l.ended_at IS NULL
        ORDER BY l.shard FOR NO KEY UPDATE;
    WITH prolonged AS (
        UPDATE leases AS l SET expires_at = expiry, rendering = ARRAY(
            -- Others are not its to name.
            SELECT DISTINCT i.idx FROM unnest(h.rendering::bigint[]) AS i (idx)
            WHERE i.idx BETWEEN s.first_index AND s.last_index ORDER BY i.idx)
        FROM unnest(lease_sessions, lease_shards, lease_attempts, lease_renderings) WITH ORDINALITY
            AS h (session, shard, attempt, rendering, no)
        JOIN sessions AS w ON w.id = h.session AND w.closed_at IS NULL
        JOIN shards AS s ON s.id = h.shard
        WHERE l.shard = s.key AND l.attempt = h.attempt AND l.session = w.key AND l.ended_at IS NULL
        RETURNING h.no)
    SELECT array_agg(p.no) INTO renewed FROM prolonged AS p;
    SELECT array_agg(r.no) FILTER (WHERE w.key IS NULL), array_agg(r.no) FILTER (WHERE w.closed_at IS NOT NULL)
        INTO unknown, closed
        FROM unnest(renewing) WITH ORDINALITY AS r (id, no) LEFT JOIN sessions AS w ON w.id = r.id;
END $$;
