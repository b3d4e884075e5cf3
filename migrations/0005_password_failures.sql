-- Wrong passwords, shared by all replicas and kept over restarts. Keys are keyed hashes: the table tells nobody who tried where.
-- scope: address, identifier, account, overall, or known (a network from which an account signed in well).
CREATE TABLE password_failures (
    key_hash      BYTEA  NOT NULL PRIMARY KEY,
    scope         TEXT   NOT NULL,
    -- When the counted window began.
    since         BIGINT NOT NULL,
    failures      BIGINT NOT NULL,
    -- Failures in a row, whatever the window.
    consecutive   BIGINT NOT NULL,
    blocked_until BIGINT NOT NULL,
    changed_at    BIGINT NOT NULL
);
CREATE INDEX password_failures_changed_at ON password_failures (changed_at);

-- A name that somebody types is found without reading every user.
CREATE INDEX users_username_folded ON users (provider, lower(username));
