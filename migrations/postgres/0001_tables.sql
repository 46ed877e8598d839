-- Jobs, their images, and what became of them.
--
-- Tables are joined by small integer keys; people and messages use the uuids. Made for Postgres 15 and later.
--
-- What has a row for each image (images, results) has no foreign keys, and no index that is not needed to claim, to
-- commit or to look something up: both would be paid a million times a job. The transactions that write those rows
-- hold the rows of the job and the shard that they belong to.

-- Every start of a coordinator. One that lives holds the advisory lock (1396788801, key): no clock is compared.
CREATE TABLE coordinators (
    key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT now(),
    -- When it had ended what was left behind by the ones before it.
    recovered_at timestamptz
);

CREATE TABLE jobs (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    -- Null for the remains of a submission that was never sealed: those are purged.
    client_token text,
    name text NOT NULL,
    owner text NOT NULL,
    model text NOT NULL,
    output text NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    steps integer NOT NULL,
    guidance double precision NOT NULL,
    bin text NOT NULL CHECK (bin IN ('auto', 'always', 'never')),
    decode text NOT NULL CHECK (decode IN ('exact', 'blend', 'whole')),
    negative_prompt text NOT NULL,
    seed bigint NOT NULL,
    images_per_prompt integer NOT NULL,
    name_template text NOT NULL,
    priority integer NOT NULL,
    -- What a worker must have: labels, a kind of device, free memory.
    needs jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
    -- Moved in the same transaction as the rows that they count.
    images bigint NOT NULL DEFAULT 0,
    done bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    -- Takes the rows in; when it is gone before the job is sealed, nobody will.
    coordinator integer NOT NULL REFERENCES coordinators (key),
    -- The first image that is not of group 0. Up to there a range of indices is one of group 0.
    mixed_from bigint,
    -- The index of an image alone does not tell its name from the others'.
    named boolean NOT NULL,
    created_at timestamptz NOT NULL,
    -- Nothing is leased, listed or shown before.
    sealed_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    -- Why a complete job has not ended: the newest trouble with its output. Null again at its end.
    output_error text,
    CHECK (done >= 0 AND failed >= 0 AND done + failed <= images),
    -- Texts may be longer than an entry of a tree: hence a hash.
    CONSTRAINT jobs_token_is_used_once EXCLUDE USING hash (client_token WITH =)
    -- Every commit moves the counters: room for the next version on the same page.
) WITH (fillfactor = 50);

CREATE INDEX jobs_open ON jobs (key) WHERE state IN ('pending', 'running') AND sealed_at IS NOT NULL;
CREATE INDEX jobs_begun ON jobs (key) WHERE state IN ('running', 'paused') AND sealed_at IS NOT NULL;
CREATE INDEX jobs_unsealed ON jobs (key) WHERE sealed_at IS NULL;
CREATE INDEX jobs_by_model ON jobs (hashtextextended(model, 0), key);
CREATE INDEX jobs_by_output ON jobs USING hash (output);

-- Owners with a share that is not 1, or whose jobs are held.
CREATE TABLE owners (
    owner text NOT NULL,
    weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    held boolean NOT NULL DEFAULT false,
    CONSTRAINT owners_are_there_once EXCLUDE USING hash (owner WITH =)
);

-- Pass-through columns of the prompt list, in order of appearance.
CREATE TABLE job_columns (
    job bigint NOT NULL REFERENCES jobs (key),
    position integer NOT NULL,
    name text NOT NULL,
    PRIMARY KEY (job, position)
);

CREATE TABLE settings_groups (
    job bigint NOT NULL REFERENCES jobs (key),
    group_no integer NOT NULL,
    width integer NOT NULL CHECK (width BETWEEN 1 AND 16384),
    height integer NOT NULL CHECK (height BETWEEN 1 AND 16384),
    steps integer NOT NULL CHECK (steps >= 1),
    guidance double precision NOT NULL,
    bin text NOT NULL CHECK (bin IN ('auto', 'always', 'never')),
    decode text NOT NULL CHECK (decode IN ('exact', 'blend', 'whole')),
    PRIMARY KEY (job, group_no)
);

-- What a row of the prompt list says stands with its first image; its copies follow it and leave all that null.
CREATE TABLE images (
    job bigint NOT NULL,
    idx bigint NOT NULL,
    seed bigint NOT NULL,
    group_no integer NOT NULL,
    -- 0 for the first image of a row; the row's is at idx - copy.
    copy smallint NOT NULL,
    -- Images of several groups alternate from here on: found by the index of groups.
    mixed boolean NOT NULL,
    -- As in jobs.
    named boolean NOT NULL,
    object text NOT NULL,
    line bigint,
    prompt_id text,
    prompt text,
    -- Null for the job's.
    negative_prompt text,
    -- As it was submitted, to the letter.
    extra json,
    PRIMARY KEY (job, idx),
    CHECK ((copy = 0) = (prompt IS NOT NULL))
);

CREATE INDEX images_by_group ON images (job, group_no, idx) WHERE mixed;
-- Two images of a job never share a name. Where their index is in it they cannot, and need no index here.
CREATE UNIQUE INDEX images_by_object ON images (job, object) WHERE named;

-- What went wrong with images, apart from them: it does with few.
CREATE TABLE image_faults (
    job bigint NOT NULL,
    idx bigint NOT NULL,
    errors integer NOT NULL DEFAULT 0,
    losses integer NOT NULL DEFAULT 0,
    PRIMARY KEY (job, idx)
);

-- All images of one group with an index from first_index to last_index.
CREATE TABLE shards (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    job bigint NOT NULL,
    group_no integer NOT NULL,
    first_index bigint NOT NULL,
    last_index bigint NOT NULL,
    images integer NOT NULL CHECK (images >= 1),
    -- Images of it that have no result. Moved in the transaction that commits one.
    remaining integer NOT NULL,
    state text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'leased', 'done')),
    -- The newest attempt given out; 0 before the first.
    attempt integer NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL,
    FOREIGN KEY (job, group_no) REFERENCES settings_groups (job, group_no),
    CHECK (first_index <= last_index),
    CHECK (remaining BETWEEN 0 AND images),
    CHECK ((state = 'done') = (remaining = 0))
);

-- In order of age: of a job, and of one settings group.
CREATE INDEX shards_ready ON shards (job, key) WHERE state = 'ready';
CREATE INDEX shards_ready_of_group ON shards (job, group_no, key) WHERE state = 'ready';

-- One connection life of a worker.
CREATE TABLE sessions (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    worker text NOT NULL,
    version text NOT NULL,
    devices jsonb NOT NULL,
    labels jsonb NOT NULL,
    -- The worker lives inside its coordinator's own process.
    embedded boolean NOT NULL,
    -- Opened it.
    coordinator integer NOT NULL REFERENCES coordinators (key),
    opened_at timestamptz NOT NULL,
    -- Less than two seconds older than the last sign of life.
    seen_at timestamptz NOT NULL,
    closed_at timestamptz,
    close_reason text
) WITH (fillfactor = 50);

CREATE INDEX sessions_open ON sessions (key) WHERE closed_at IS NULL;

-- How a worker stands, by its lasting name: only those that failed since they last rendered an image.
CREATE TABLE standings (
    worker text NOT NULL,
    failures integer NOT NULL,
    last_failed text,
    exclusions integer NOT NULL,
    excluded_until timestamptz,
    CONSTRAINT standings_are_there_once EXCLUDE USING hash (worker WITH =)
);

-- Every attempt at a shard. One with no end is held now.
CREATE TABLE leases (
    shard bigint NOT NULL REFERENCES shards (key),
    attempt integer NOT NULL CHECK (attempt >= 1),
    session bigint NOT NULL REFERENCES sessions (key),
    -- Of the shard, for the scheduler.
    job bigint NOT NULL,
    images integer NOT NULL,
    granted_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- Indices of the images that were being rendered at the last renewal.
    rendering bigint[] NOT NULL DEFAULT '{}',
    -- Results and errors that came from it.
    done integer NOT NULL DEFAULT 0,
    errors integer NOT NULL DEFAULT 0,
    ended_at timestamptz,
    outcome text CHECK (outcome IN ('finished', 'released', 'lost', 'revoked')),
    PRIMARY KEY (shard, attempt),
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
);

-- A shard is never held twice.
CREATE UNIQUE INDEX leases_held ON leases (shard) WHERE ended_at IS NULL;
CREATE INDEX leases_expiring ON leases (expires_at) WHERE ended_at IS NULL;
CREATE INDEX leases_of_session ON leases (session) WHERE ended_at IS NULL;
CREATE INDEX leases_of_job ON leases (job, granted_at);
CREATE INDEX leases_held_of_job ON leases (job) INCLUDE (images) WHERE ended_at IS NULL;

-- The committed record of an image: at most one, for ever. In parts of 64 jobs, made with the first job of each, so
-- that old jobs can be archived and dropped at once (ALTER TABLE results DETACH PARTITION results_N). The object is
-- that of the image.
CREATE TABLE results (
    job bigint NOT NULL,
    idx bigint NOT NULL,
    shard bigint NOT NULL,
    -- Null when the session is not known to this database.
    session bigint,
    bytes bigint,
    render_seconds double precision,
    decode_seconds double precision,
    finished_at timestamptz NOT NULL,
    attempt integer NOT NULL,
    state text NOT NULL CHECK (state IN ('done', 'failed')),
    device text NOT NULL,
    sha256 bytea CHECK (octet_length(sha256) = 32),
    error_class text CHECK (error_class IN ('prompt', 'size', 'model', 'out_of_memory', 'numeric', 'encode',
        'conflict', 'internal', 'worker_lost')),
    error text,
    -- As the worker wrote it, to the letter.
    recipe json,
    PRIMARY KEY (job, idx),
    CHECK (state <> 'done' OR (bytes IS NOT NULL AND sha256 IS NOT NULL AND recipe IS NOT NULL)),
    CHECK ((state = 'failed') = (error_class IS NOT NULL))
) PARTITION BY RANGE (job);

CREATE INDEX results_failed ON results (job, idx) WHERE state = 'failed';

-- Failures that were taken back, because somebody had their images tried again.
CREATE TABLE retried_results (
    job bigint NOT NULL,
    idx bigint NOT NULL,
    shard bigint NOT NULL,
    attempt integer NOT NULL,
    session bigint,
    device text NOT NULL,
    render_seconds double precision,
    error_class text NOT NULL,
    error text,
    finished_at timestamptz NOT NULL,
    retried_at timestamptz NOT NULL,
    PRIMARY KEY (job, idx, attempt)
);

-- Every error that a worker reported, also of images that were rendered in the end.
CREATE TABLE image_errors (
    job bigint NOT NULL,
    idx bigint NOT NULL,
    -- One error an attempt, so that a report sent twice counts once.
    attempt integer NOT NULL,
    session bigint,
    device text NOT NULL,
    error_class text NOT NULL,
    error text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (job, idx, attempt)
);

-- What happened, in order. Written in the transaction of what it tells of. In parts of one month, made before the
-- month's first event.
CREATE SEQUENCE events_seq;
CREATE TABLE events (
    seq bigint NOT NULL DEFAULT nextval('events_seq'),
    at timestamptz NOT NULL,
    kind text NOT NULL,
    job bigint,
    shard bigint,
    idx bigint,
    attempt integer,
    session bigint,
    detail jsonb NOT NULL DEFAULT '{}',
    -- Who wanted it, and why; null for what the farm does by itself.
    actor text,
    reason text,
    PRIMARY KEY (seq, at)
) PARTITION BY RANGE (at);
ALTER SEQUENCE events_seq OWNED BY events.seq;

CREATE INDEX events_by_job ON events (job, seq);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0];
END $$;

-- A picture stays for ever; a failure may give way once it is written down as retried.
CREATE FUNCTION refuse_to_delete_result() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'failed' AND EXISTS (SELECT FROM retried_results AS t
        WHERE t.job = OLD.job AND t.idx = OLD.idx AND t.attempt = OLD.attempt)
    THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'a result is committed once and for ever';
END $$;

CREATE TRIGGER events_are_never_changed BEFORE UPDATE OR DELETE ON events
    FOR EACH ROW EXECUTE FUNCTION refuse_change('events are append-only');
CREATE TRIGGER events_are_never_emptied BEFORE TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('events are append-only');
CREATE TRIGGER results_are_never_changed BEFORE UPDATE ON results
    FOR EACH ROW EXECUTE FUNCTION refuse_change('a result is committed once and for ever');
CREATE TRIGGER results_are_never_deleted BEFORE DELETE ON results
    FOR EACH ROW EXECUTE FUNCTION refuse_to_delete_result();
CREATE TRIGGER results_are_never_emptied BEFORE TRUNCATE ON results
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('a result is committed once and for ever');
CREATE TRIGGER retried_results_are_never_changed BEFORE UPDATE OR DELETE ON retried_results
    FOR EACH ROW EXECUTE FUNCTION refuse_change('what was retried is append-only');
CREATE TRIGGER retried_results_are_never_emptied BEFORE TRUNCATE ON retried_results
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('what was retried is append-only');

-- Makes a part of a partitioned table, as if by CREATE TABLE .. PARTITION OF, but without keeping others from the
-- table meanwhile. The lock is for two coordinators that come to a new part at the same moment.
CREATE FUNCTION make_part(whole text, part text, low text, high text, refusal text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE relname = part AND relnamespace = current_schema()::regnamespace) THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(1396788802, hashtext(part));
    IF EXISTS (SELECT FROM pg_class WHERE relname = part AND relnamespace = current_schema()::regnamespace) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, whole);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', whole, part, low, high);
    -- Triggers for rows come with the whole; this one does not.
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change(%L)',
        part || '_is_never_emptied', part, refusal);
END $$;

-- The part for the results of this job.
CREATE FUNCTION make_results_part(job bigint) RETURNS void LANGUAGE sql AS $$
    SELECT make_part('results', 'results_' || job / 64, (job / 64 * 64)::text, ((job / 64 + 1) * 64)::text,
        'a result is committed once and for ever')
$$;

-- The part for the events of this moment.
CREATE FUNCTION make_events_part(at timestamptz) RETURNS void LANGUAGE sql AS $$
    SELECT make_part('events', 'events_' || to_char(month, 'YYYY_MM'), month || ' UTC', month + interval '1 month' || ' UTC',
        'events are append-only')
    FROM (SELECT date_trunc('month', $1 AT TIME ZONE 'UTC') AS month) AS m
$$;
