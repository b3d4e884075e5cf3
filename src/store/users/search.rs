//! Users as an administrator looks for them.

use super::{UserRow, user_columns};
use crate::domain::User;
use crate::store::{Db, StoreError};

/// Users whose id, usertag, e-mail, username or display name holds `text` (everybody for an empty one), the newest first. Small and capital
/// letters count alike, which on SQLite holds for ASCII alone.
///
/// # Errors
/// The database's.
pub async fn search(db: &mut impl Db, text: &str, limit: u32) -> Result<Vec<User>, StoreError> {
    let rows: Vec<UserRow> = sql!(fetch_all in db,
        concat!("SELECT ", user_columns!(), " FROM users u WHERE $1 = '%%' \
            OR lower(u.id) LIKE $1 ESCAPE '!' OR u.usertag LIKE $1 ESCAPE '!' \
            OR u.email_folded LIKE $1 ESCAPE '!' OR lower(u.username) LIKE $1 ESCAPE '!' \
            OR lower(u.display_name) LIKE $1 ESCAPE '!' ORDER BY u.created_at DESC, u.id LIMIT $2"),
        pattern(text), i64::from(limit))?;
    Ok(rows.into_iter().map(User::from).collect())
}

/// What is typed is text to find, not a pattern.
fn pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.to_lowercase().chars().filter(|c| *c != '\0') {
        if matches!(c, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}
