//! One statement for two drivers.

/// Runs one SQL text on whichever database `$db` is connected to.
///
/// `sql!(fetch_optional in db, "SELECT … WHERE id = $1", id)?` — also `fetch_one`, `fetch_all` (rows by
/// `FromRow`) and
/// `execute` (number of rows), and, in a transaction, `later`: nobody waits for it, and the next statement or the commit tells of its
/// fault (on SQLite they are handed over together). Where the databases differ: `"SQLite text" => "PostgreSQL text"`.
/// The text is a literal, so no value can ever become SQL.
macro_rules! sql {
    (execute in $db:expr, $both:expr $(, $arg:expr)* $(,)?) => {
        sql!(execute in $db, $both => $both $(, $arg)*)
    };
    (execute in $db:expr, $sqlite:expr => $postgres:expr $(, $arg:expr)* $(,)?) => {
        match $crate::store::Db::conn(&mut *$db) {
            $crate::store::Conn::Sqlite(held) => {
                let statement = held.query($sqlite)$(.bind($arg))*;
                held.execute(statement).await
            }
            $crate::store::Conn::Postgres(conn, limit) => {
                let statement = sqlx::query::<sqlx::Postgres>($postgres)$(.bind($arg))*.execute(conn);
                $crate::store::within(limit, statement).await.map(|done| done.rows_affected())
            }
        }
    };
    (later in $writer:expr, $both:expr $(, $arg:expr)* $(,)?) => {
        match <$crate::store::Writer as $crate::store::Db>::conn(&mut *$writer) {
            $crate::store::Conn::Sqlite(held) => {
                let statement = held.query($both)$(.bind($arg))*;
                held.later(statement).await
            }
            $crate::store::Conn::Postgres(conn, limit) => {
                let statement = sqlx::query::<sqlx::Postgres>($both)$(.bind($arg))*.execute(conn);
                $crate::store::within(limit, statement).await.map(|_| ())
            }
        }
    };
    ($fetch:ident in $db:expr, $both:expr $(, $arg:expr)* $(,)?) => {
        sql!($fetch in $db, $both => $both $(, $arg)*)
    };
    ($fetch:ident in $db:expr, $sqlite:expr => $postgres:expr $(, $arg:expr)* $(,)?) => {
        match $crate::store::Db::conn(&mut *$db) {
            $crate::store::Conn::Sqlite(held) => {
                let statement = held.query_as($sqlite)$(.bind($arg))*;
                match held.conn() {
                    Ok(conn) => {
                        let ended = statement.$fetch(conn).await;
                        held.settle(ended)
                    }
                    Err(error) => Err(error),
                }
            }
            $crate::store::Conn::Postgres(conn, limit) => {
                let statement = sqlx::query_as::<sqlx::Postgres, _>($postgres)$(.bind($arg))*.$fetch(conn);
                $crate::store::within(limit, statement).await
            }
        }
    };
}
