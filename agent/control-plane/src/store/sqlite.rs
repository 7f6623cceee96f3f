//! SQLite as the backend: one table, write-ahead log.

use std::path::Path;

use rusqlite::{Connection, params};

use super::{Backend, Contents, Error, Row};

/// `user_version` of the database.
const FORMAT: i64 = 1;

#[derive(Debug)]
pub(super) struct Sqlite {
    connection: Connection,
    path: String,
    synced: Option<bool>,
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let fail = |step| {
            let path = name.clone();
            move |source| Error::Sqlite { path, step, source }
        };
        // The file holds secrets; SQLite gives its -wal and -shm the mode of the file.
        if let Some(error) = private_file(path).err() {
            let source = rusqlite::Error::ToSqlConversionFailure(Box::new(error));
            return Err(fail("making it private")(source));
        }
        let connection = Connection::open(path).map_err(fail("opening"))?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(fail("turning on the write-ahead log"))?;
        // No other process shares the database, so none needs the lock in between.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(fail("locking"))?;
        let found: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(fail("reading its format"))?;
        if found > FORMAT {
            return Err(Error::Format { path: name, found, known: FORMAT });
        }
        connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE;
                 CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, revision INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
                 CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
                 PRAGMA user_version = {FORMAT};
                 COMMIT;"
            ))
            .map_err(fail("making its tables (is another control plane using it?)"))?;
        Ok(Self { connection, path: name, synced: None })
    }

    fn error(&self, step: &'static str) -> impl Fn(rusqlite::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Sqlite { path: path.clone(), step, source }
    }

    fn set_sync(&mut self, sync: bool) -> Result<(), Error> {
        if self.synced != Some(sync) {
            let mode = if sync { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", mode).map_err(self.error("setting synchronous"))?;
            self.synced = Some(sync);
        }
        Ok(())
    }
}

impl Backend for Sqlite {
    fn load(&mut self) -> Result<Contents, Error> {
        let mut objects = Vec::new();
        let fail = self.error("reading objects");
        let mut statement = self.connection.prepare("SELECT key, revision, value FROM objects").map_err(&fail)?;
        let mut rows = statement.query([]).map_err(&fail)?;
        while let Some(row) = rows.next().map_err(&fail)? {
            let key: String = row.get(0).map_err(&fail)?;
            let revision: i64 = row.get(1).map_err(&fail)?;
            let bytes = row.get_ref(2).map_err(&fail)?.as_bytes().map_err(|e| fail(e.into()))?;
            let value = serde_json::from_slice(bytes).map_err(|source| Error::Damaged {
                path: self.path.clone(),
                key: key.clone(),
                source,
            })?;
            objects.push((key, revision.unsigned_abs(), value));
        }
        let ceiling: i64 = self
            .connection
            .query_row("SELECT coalesce(max(value), 0) FROM meta WHERE name = 'ceiling'", [], |row| row.get(0))
            .map_err(self.error("reading the revision"))?;
        Ok(Contents { objects, ceiling: ceiling.unsigned_abs() })
    }

    fn commit(&mut self, rows: &[Row], ceiling: Option<u64>, sync: bool) -> Result<(), Error> {
        self.set_sync(sync)?;
        let fail = self.error("writing");
        let transaction = self.connection.transaction().map_err(&fail)?;
        {
            let mut put = transaction
                .prepare("INSERT OR REPLACE INTO objects (key, revision, value) VALUES (?1, ?2, ?3)")
                .map_err(&fail)?;
            let mut delete = transaction.prepare("DELETE FROM objects WHERE key = ?1").map_err(&fail)?;
            for row in rows {
                match &row.value {
                    Some(value) => {
                        let bytes = value.to_string().into_bytes();
                        put.execute(params![row.key, row.revision.cast_signed(), bytes]).map_err(&fail)?
                    }
                    None => delete.execute(params![row.key]).map_err(&fail)?,
                };
            }
            if let Some(ceiling) = ceiling {
                let sql = "INSERT OR REPLACE INTO meta (name, value) VALUES ('ceiling', ?1)";
                transaction.execute(sql, params![ceiling.cast_signed()]).map_err(&fail)?;
            }
        }
        transaction.commit().map_err(&fail)
    }
}

fn private_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}
