-- What a logout from elsewhere needs: to be heard once, to win over a login that is being finished, and to reach every process.

-- Logout tokens that were heard: SHA-256 of provider and jti.
-- The unique key gives each of them one effect.
CREATE TABLE seen_logout_tokens (
    token_hash BYTEA  NOT NULL PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
CREATE INDEX seen_logout_tokens_expires_at ON seen_logout_tokens (expires_at);

-- Whose logout was heard lately: SHA-256 of provider, issuer and the sid or sub. A login that was under way then looks here.
CREATE TABLE ended_sids (
    name_hash  BYTEA  NOT NULL PRIMARY KEY,
    ended_at   BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX ended_sids_expires_at ON ended_sids (expires_at);

-- What changed, for other processes on one SQLite file; a ring of the last thousand. PostgreSQL has NOTIFY and leaves it empty.
CREATE TABLE notices (
    body TEXT NOT NULL
);
