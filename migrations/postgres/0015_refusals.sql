-- Workers that refuse a job for a while: they cannot write to its output, or not load its model. Others go on with it.

CREATE TABLE refusals (
    job bigint NOT NULL REFERENCES jobs (key),
    worker text NOT NULL,
    why text NOT NULL,
    -- Since it was last without one for a long time.
    times integer NOT NULL CHECK (times > 0),
    -- The worker gets nothing of the job before.
    until timestamptz NOT NULL,
    PRIMARY KEY (job, worker)
);
