-- What the stories of workers are read by.

CREATE INDEX events_by_session ON events (session, seq) WHERE session IS NOT NULL;
CREATE INDEX sessions_by_worker ON sessions (worker);
