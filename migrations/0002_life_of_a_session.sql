-- What a refresh needs to be right on many replicas, and what a logout elsewhere leaves to be proved.

-- The provider may have ended this session without naming it: the next use must ask.
ALTER TABLE sessions ADD COLUMN must_prove BOOLEAN NOT NULL DEFAULT FALSE;
-- Who refreshes this generation, and until when nobody else may. A new claim has a new owner, which fences off the old one.
ALTER TABLE sessions ADD COLUMN refresh_owner TEXT;
ALTER TABLE sessions ADD COLUMN refresh_until BIGINT;
-- After a failed refresh the session pauses: 1, 2, 4 … 30 s.
ALTER TABLE sessions ADD COLUMN refresh_failures BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN refresh_not_before BIGINT;
-- The refresh token that the current one replaced (SHA-256), and when: an API client that lost the answer may ask again for a moment.
ALTER TABLE sessions ADD COLUMN previous_refresh_hash BYTEA;
ALTER TABLE sessions ADD COLUMN refreshed_at BIGINT;
