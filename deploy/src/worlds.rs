//! The bus and the store that a file asks for.
//!
//! Deliberately absent: starting servers; a cluster of many processes finds NATS and PostgreSQL running.

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
            make_dir(path.parent().unwrap_or_else(|| Path::new(".")))?;
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

/// A directory and those above it.
pub(crate) fn make_dir(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)
        .map_err(|why| Failure::new(format!("cannot make the directory {}", dir.display()), why))
}
