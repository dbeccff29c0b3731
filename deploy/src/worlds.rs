//! The bus and the store that a file asks for.
//!
//! Deliberately absent: starting servers; a cluster of many processes finds NATS and PostgreSQL running.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use bus::World;
use conf::cluster::{Database, Nats};
use store::Store;

use crate::failure::Failure;

/// NATS, or a bus inside this process.
pub(crate) async fn bus(nats: Option<&Nats>, name: &str) -> Result<Arc<dyn World>, Failure> {
    let Some(nats) = nats else { return Ok(bus::local::Local::new()) };
    let conf = bus::nats::NatsConf {
        urls: nats.urls.clone(),
        name: name.to_owned(),
        user: nats.user.clone(),
        password: nats.password.clone(),
        token: nats.token.clone(),
        ..bus::nats::NatsConf::default()
    };
    bus::nats::Nats::connect(&conf).await.map_err(|why| {
        Failure::new(format!("cannot reach NATS at {}", nats.urls.join(", ")), why)
            .hint("is nats-server running? its address stands in the section nats of cluster.conf")
    })
}

/// PostgreSQL, or a file.
pub(crate) async fn store(database: &Database) -> Result<Store, Failure> {
    match database {
        Database::File(path) => {
            make_private(path.parent().unwrap_or_else(|| Path::new(".")))?;
            make_private_file(path)?;
            store::sqlite::open(path).await.map_err(|why| {
                Failure::new(format!("cannot open the store in {}", path.display()), why).hint(
                    "one process at a time has a state directory; give another one with --state",
                )
            })
        }
        Database::Postgres(url) => {
            let conf = store::postgres::PostgresConf::default();
            store::postgres::connect(url, conf).await.map_err(|why| {
                Failure::new("cannot use the component database", why)
                    .hint("is PostgreSQL running, and may this user make tables? see component_db in cluster.conf")
            })
        }
    }
}

/// What to do about a state directory that others may look into. Environments of jobs, and with them secrets, are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wider {
    /// It is ours alone: close it.
    Close,
    /// An operator made it: tell.
    Tell,
}

/// The directory of a process: made for its owner alone, or there already.
pub(crate) fn state_dir(dir: &Path, wider: Wider) -> Result<(), Failure> {
    make_private(dir)?;
    let failed = |why| Failure::new("the state directory cannot be used", why);
    let mode = std::fs::metadata(dir).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    match wider {
        Wider::Close => std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
            .map_err(|why| Failure::new("the state directory cannot be made private", why)),
        Wider::Tell => {
            tracing::warn!(
                mode = format!("{mode:03o}"),
                "other users may look into the state directory, and it holds environments of jobs; try: chmod 700 {}",
                dir.display()
            );
            Ok(())
        }
    }
}

/// A directory for its owner alone, and those above it for whomever; one that is there stays as it is.
pub(crate) fn make_private(dir: &Path) -> Result<(), Failure> {
    let made = || {
        if dir.as_os_str().is_empty() || dir.is_dir() {
            return Ok(());
        }
        if let Some(above) = dir.parent() {
            std::fs::create_dir_all(above)?;
        }
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            made => made,
        }
    };
    made().map_err(|why| Failure::new(format!("cannot make the directory {}", dir.display()), why))
}

/// The file of the store; SQLite gives those beside it the same mode.
fn make_private_file(file: &Path) -> Result<(), Failure> {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)
        .map(drop)
        .map_err(|why| Failure::new(format!("cannot open the store in {}", file.display()), why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// Goal: what we make is private and what is above it is not touched; what was there is closed or left, as asked.
    #[test]
    fn state_is_private() {
        let base = std::env::temp_dir().join(format!("apcera-state-{}", std::process::id()));
        let (dir, file) = (base.join("a/b"), base.join("a/b/components.db"));
        state_dir(&dir, Wider::Tell).unwrap();
        assert_eq!(mode(&dir), 0o700);
        assert_ne!(mode(&base.join("a")), 0o700, "somebody else's");
        make_private_file(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        state_dir(&dir, Wider::Tell).unwrap();
        assert_eq!(mode(&dir), 0o755);
        state_dir(&dir, Wider::Close).unwrap();
        assert_eq!(mode(&dir), 0o700);
        assert!(state_dir(&file, Wider::Close).is_err());
        std::fs::remove_dir_all(&base).unwrap();
    }
}
