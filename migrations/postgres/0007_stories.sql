-- What the stories of workers are read by.

CREATE INDEX events_by_session ON events (session, seq) WHERE session IS NOT NULL;
-- Names may be longer than an entry of a tree: hence a hash.
CREATE INDEX sessions_by_worker ON sessions USING hash (worker);
