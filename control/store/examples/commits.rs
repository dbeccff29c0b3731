//! Prints commits per second: `commits FILE` on SQLite, `commits postgres` on a PostgreSQL that it starts.

use std::time::Duration;

/// How long each number is measured.
const SPAN: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<(), store::StoreError> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "commits.db".into());
    let server = (target == "postgres")
        .then(|| tests::Postgres::start("commits").expect("PostgreSQL is installed"));
    let store = match &server {
        Some(server) => {
            let conf = store::postgres::PostgresConf::default();
            store::postgres::connect(&server.url(), conf).await?
        }
        None => store::sqlite::open(std::path::Path::new(&target)).await?,
    };
    for writers in [1, 16, 64] {
        let found = store::measure::commits(&store, writers, SPAN).await?;
        println!(
            "{writers:>3} writers  {:>8.0} commits/s  p50 {:>9.3?}  p99 {:>9.3?}",
            found.per_second, found.p50, found.p99
        );
    }
    Ok(())
}
