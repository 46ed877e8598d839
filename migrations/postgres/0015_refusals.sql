-- Workers that refuse a job for a while: they cannot write to its output, or not load its model. Others go on with it.
-- The job is no foreign key: that would lock its row after those of its shards, against the order of all others.

CREATE TABLE refusals (
    job bigint NOT NULL,
    worker text NOT NULL,
    why text NOT NULL,
    -- Since it was last without one for a long time.
    times integer NOT NULL CHECK (times > 0),
    -- The worker gets nothing of the job before.
    until timestamptz NOT NULL,
    PRIMARY KEY (job, worker)
);
