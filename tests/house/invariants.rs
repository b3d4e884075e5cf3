//! What must be true of a database at any time (security.md RE-05), whatever was killed, cut or raced just before.

use super::databases::Database;

/// Each counts what there must be none of.
const NONE_OF: [(&str, &str); 9] = [
    (
        "sessions without a user",
        "SELECT count(*) FROM sessions s LEFT JOIN users u ON u.id = s.user_id WHERE u.id IS NULL",
    ),
    (
        "identities with two rows",
        "SELECT count(*) FROM (SELECT 1 FROM users GROUP BY provider, issuer, subject HAVING count(*) > 1) twice",
    ),
    (
        "live sessions of somebody who may not be here",
        "SELECT count(*) FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.revoked_at IS NULL AND \
         (u.status <> 'active' OR NOT u.is_active OR NOT u.has_app_access OR u.deleted_at IS NOT NULL)",
    ),
    (
        "ended sessions that still hold tokens",
        "SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL AND \
         (access_token IS NOT NULL OR refresh_token IS NOT NULL OR id_token IS NOT NULL)",
    ),
    (
        "finished registrations without their user",
        "SELECT count(*) FROM registrations r LEFT JOIN users u ON u.id = r.user_id AND u.subject = r.subject \
         WHERE r.state = 'finished' AND u.id IS NULL",
    ),
    (
        "registrations that came to nothing and have a user",
        "SELECT count(*) FROM registrations r JOIN users u ON u.subject = r.subject AND u.provider = r.provider \
         WHERE r.state IN ('undone', 'failed')",
    ),
    (
        "registrations that are over and still say who it was",
        "SELECT count(*) FROM registrations WHERE state IN ('finished', 'undone', 'failed') AND \
         (username <> '' OR email <> '' OR person <> '{}')",
    ),
    (
        "registrations in no known state",
        "SELECT count(*) FROM registrations WHERE state NOT IN \
         ('pending', 'created', 'undoing', 'finished', 'undone', 'failed')",
    ),
    (
        "finished registrations without an audit row",
        "SELECT count(*) FROM registrations WHERE state = 'finished' AND user_id NOT IN \
         (SELECT user_id FROM audit_log WHERE event = 'registration' AND user_id IS NOT NULL)",
    ),
];

/// Fails with the sentence that is not true, and the number of rows against it.
pub async fn hold(database: &Database) {
    for (what, sql) in NONE_OF {
        assert_eq!(database.number(sql).await, 0, "there are {what}");
    }
}
