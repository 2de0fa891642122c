//! What must survive a restart → one redb file, and the private keys of the CA beside it (mode 0600).
//!
//! A file that cannot be read is never replaced in silence: opening fails, names the file and says what to do.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Grows when the layout changes; a newer file than the program is refused.
const VERSION: u32 = 1;
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// One table of the state file; values are JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// `<pool>/<name>` → index.
    Address,
    /// Workload id → its registration.
    Workload,
    /// `<kind>/<namespace>/<name>` → the text that was applied over the API.
    Resource,
    /// `<kind>/<namespace>/<name>` → the version from a source that was accepted last.
    Accepted,
    /// Join tokens by id.
    Token,
    /// Public state of the certificate authority.
    Authority,
}

impl Table {
    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Table::Address => "address",
            Table::Workload => "workload",
            Table::Resource => "resource",
            Table::Accepted => "accepted",
            Table::Token => "token",
            Table::Authority => "authority",
        })
    }

    const ALL: [Table; 6] = [
        Table::Address,
        Table::Workload,
        Table::Resource,
        Table::Accepted,
        Table::Token,
        Table::Authority,
    ];
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot use the state directory {}: {cause}", path.display())]
    Directory {
        path: PathBuf,
        cause: std::io::Error,
    },
    #[error(
        "the state file {} is in use by another control plane: stop that one or give --state another directory",
        .0.display()
    )]
    Busy(PathBuf),
    #[error(
        "the state file {} cannot be read: {cause}. It holds addresses, registered workloads, join tokens and the CA's certificates. \
         Restore it from a copy, or move it away together with ca.key to start with a new CA (workloads then have to join again)",
        path.display()
    )]
    Corrupt { path: PathBuf, cause: String },
    #[error(
        "{} holds the CA's private keys and cannot be used: {cause}",
        path.display()
    )]
    Secret { path: PathBuf, cause: String },
    #[error(
        "the state file {} was written by a newer ripstop (layout {found}, this one knows {VERSION}): use that version, or another --state directory",
        path.display()
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("cannot write the state file {}: {cause}; check the disk and its permissions", path.display())]
    Write { path: PathBuf, cause: String },
}

/// The open state directory. All methods block on the disk: call them off the async threads.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    path: PathBuf,
    database: Database,
}

impl State {
    pub const FILE: &'static str = "state.redb";

    /// Creates the directory (0700) and the file as needed.
    pub fn open(directory: &Path) -> Result<State, StateError> {
        let at = |cause| StateError::Directory {
            path: directory.to_owned(),
            cause,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(at)?;
        let path = directory.join(State::FILE);
        // Created by us so that the mode is right from the first byte; redb takes an empty file for a new one.
        if !path.exists() {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(at)?;
        }
        let database = open_database(&path)?;
        let state = State {
            directory: directory.to_owned(),
            path,
            database,
        };
        state.check_version()?;
        Ok(state)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Of the tables.
    pub fn file(&self) -> &Path {
        &self.path
    }

    fn corrupt(&self, cause: impl ToString) -> StateError {
        StateError::Corrupt {
            path: self.path.clone(),
            cause: cause.to_string(),
        }
    }

    fn failed(&self, cause: impl ToString) -> StateError {
        StateError::Write {
            path: self.path.clone(),
            cause: cause.to_string(),
        }
    }

    fn check_version(&self) -> Result<(), StateError> {
        let write = self.database.begin_write().map_err(|e| self.corrupt(e))?;
        {
            let mut meta = write.open_table(META).map_err(|e| self.corrupt(e))?;
            let found = meta
                .get("version")
                .map_err(|e| self.corrupt(e))?
                .map(|v| serde_json::from_slice::<u32>(v.value()))
                .transpose()
                .map_err(|e| self.corrupt(e))?;
            match found {
                Some(found) if found > VERSION => {
                    return Err(StateError::Newer {
                        path: self.path.clone(),
                        found,
                    });
                }
                Some(_) => {}
                None => {
                    let version = serde_json::to_vec(&VERSION).map_err(|e| self.failed(e))?;
                    meta.insert("version", version.as_slice())
                        .map_err(|e| self.failed(e))?;
                }
            }
            for table in Table::ALL {
                write
                    .open_table(table.definition())
                    .map_err(|e| self.corrupt(e))?;
            }
        }
        write.commit().map_err(|e| self.failed(e))
    }

    /// Every entry of a table, in key order.
    pub fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, StateError> {
        let read = self.database.begin_read().map_err(|e| self.corrupt(e))?;
        let opened = read
            .open_table(table.definition())
            .map_err(|e| self.corrupt(e))?;
        let mut entries = Vec::new();
        for entry in opened.iter().map_err(|e| self.corrupt(e))? {
            let (key, value) = entry.map_err(|e| self.corrupt(e))?;
            let value = serde_json::from_slice(value.value())
                .map_err(|e| self.corrupt(format!("{table:?} `{}`: {e}", key.value())))?;
            entries.push((key.value().to_owned(), value));
        }
        Ok(entries)
    }

    /// Durable when it returns.
    pub fn put<T: Serialize>(&self, table: Table, key: &str, value: &T) -> Result<(), StateError> {
        self.edit(table, [(key, value)], [])
    }

    pub fn delete(&self, table: Table, key: &str) -> Result<(), StateError> {
        self.edit::<()>(table, [], [key])
    }

    /// All of it or nothing; durable when it returns.
    pub fn edit<'e, T: Serialize + 'e>(
        &self,
        table: Table,
        puts: impl IntoIterator<Item = (&'e str, &'e T)>,
        deletes: impl IntoIterator<Item = &'e str>,
    ) -> Result<(), StateError> {
        let write = self.database.begin_write().map_err(|e| self.failed(e))?;
        {
            let mut opened = write
                .open_table(table.definition())
                .map_err(|e| self.failed(e))?;
            for (key, value) in puts {
                let bytes = serde_json::to_vec(value).map_err(|e| self.failed(e))?;
                opened
                    .insert(key, bytes.as_slice())
                    .map_err(|e| self.failed(e))?;
            }
            for key in deletes {
                opened.remove(key).map_err(|e| self.failed(e))?;
            }
        }
        write.commit().map_err(|e| self.failed(e))
    }

    /// A private file of the directory (mode 0600), written whole or not at all.
    pub fn write_secret(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.directory.join(name);
        let failed = |cause: std::io::Error| StateError::Write {
            path: path.clone(),
            cause: cause.to_string(),
        };
        let fresh = self.directory.join(format!(".{name}.new"));
        // A left-over of a crash may have any mode: start from nothing.
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(failed)?;
        file.write_all(content).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&fresh, &path).map_err(failed)
    }

    /// `None` when there is no such file. A file that others may read is refused.
    pub fn read_secret(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.directory.join(name);
        let unusable = |cause: String| StateError::Secret {
            path: path.clone(),
            cause,
        };
        let metadata = match fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| unusable(e.to_string()))?,
        };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(unusable(format!(
                "its mode is {mode:o}, others can read it. If nobody did, run `chmod 600 {}`; \
                 else move it away together with {} to start with a new CA (workloads then have to join again)",
                path.display(),
                State::FILE,
            )));
        }
        fs::read(&path)
            .map(Some)
            .map_err(|e| unusable(e.to_string()))
    }

    /// Whether there is one, readable or not.
    pub fn has_secret(&self, name: &str) -> Result<bool, StateError> {
        let path = self.directory.join(name);
        path.try_exists().map_err(|e| StateError::Secret {
            path,
            cause: e.to_string(),
        })
    }
}

/// redb answers most damage with an error and some with a panic (it trusts page contents once the header checks out);
/// both become the one clear error.
fn open_database(path: &Path) -> Result<Database, StateError> {
    let corrupt = |cause: String| StateError::Corrupt {
        path: path.to_owned(),
        cause,
    };
    match std::panic::catch_unwind(|| Database::create(path)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(StateError::Busy(path.to_owned())),
        Ok(Err(e)) => Err(corrupt(e.to_string())),
        Err(_) => Err(corrupt("its pages are damaged".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        state.put(Table::Address, "vip/a", &7u32).unwrap();
        state.put(Table::Address, "vip/b", &8u32).unwrap();
        state.delete(Table::Address, "vip/b").unwrap();
        drop(state);
        let state = State::open(dir.path()).unwrap();
        assert_eq!(
            state.all::<u32>(Table::Address).unwrap(),
            [("vip/a".to_owned(), 7)]
        );
    }

    #[test]
    fn a_corrupt_file_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(State::FILE);
        fs::write(&path, b"not a database, but somebody's bytes").unwrap();
        let error = State::open(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StateError::Corrupt { .. }), "{text}");
        assert!(
            text.contains("state.redb") && text.contains("move it away"),
            "{text}"
        );
        assert_eq!(
            fs::read(&path).unwrap(),
            b"not a database, but somebody's bytes"
        );
    }

    #[test]
    fn two_openers_are_told_apart_from_damage() {
        let dir = tempfile::tempdir().unwrap();
        let _first = State::open(dir.path()).unwrap();
        assert!(matches!(State::open(dir.path()), Err(StateError::Busy(_))));
    }

    #[test]
    fn secrets_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        assert_eq!(state.read_secret("ca.key").unwrap(), None);
        state.write_secret("ca.key", b"k").unwrap();
        assert_eq!(state.read_secret("ca.key").unwrap().unwrap(), b"k");
        let path = dir.path().join("ca.key");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let text = state.read_secret("ca.key").unwrap_err().to_string();
        assert!(
            text.contains("chmod 600") && !text.contains("addresses"),
            "{text}"
        );
    }
}
