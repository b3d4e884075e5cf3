-- Who may call the admin API without a browser, and who of the replicas does the work that must be done once.

-- secret_hash is the SHA-256 of 256 random bits; the key itself was shown once and is nowhere.
CREATE TABLE api_keys (
    id           TEXT   NOT NULL PRIMARY KEY,
    name         TEXT   NOT NULL,
    secret_hash  BYTEA  NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT,
    revoked_at   BIGINT,
    created_by   TEXT   NOT NULL
);

-- The fence grows with each new holder: what an earlier one still writes is told from it and refused.
CREATE TABLE leases (
    name     TEXT   NOT NULL PRIMARY KEY,
    owner    TEXT   NOT NULL,
    until_ms BIGINT NOT NULL,
    fence    BIGINT NOT NULL
);
