-- What a login writes: nothing reads by changed_at, and a session that lives has no place among those that were ended.
DROP INDEX sessions_changed_at;
DROP INDEX sessions_revoked_at;
CREATE INDEX sessions_revoked_at ON sessions (revoked_at) WHERE revoked_at IS NOT NULL;
