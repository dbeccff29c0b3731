//! The packages of a job as an instance manager needs them.
//!
//! Read from the store once for each version of a job, not for each instance. Deliberately absent: bytes, which
//! instance managers fetch from package managers.

use crate::jobs;
use store::{Store, StoreError};
use wire::placement::StartPackage;
use wire::{Job, Package, PackageState};

/// Where files go when the record does not say.
const INSTALL_PATH_DEFAULT: &str = "/";

/// What the packages of a job are.
#[derive(Debug)]
pub(super) enum Packages {
    /// All of them, in the order of the record.
    Ready(Vec<StartPackage>),
    /// Not yet; a sentence for the user.
    Waiting(String),
}

pub(super) async fn read(store: &Store, job: &Job) -> Result<Packages, StoreError> {
    let mut ready = Vec::with_capacity(job.packages.len());
    for wanted in &job.packages {
        let waiting = |why: String| Ok(Packages::Waiting(why));
        let Some(record) = store.get(&jobs::package_key(wanted.uuid)).await? else {
            return waiting(format!("waiting for package {}, which does not exist", wanted.uuid));
        };
        let package: Package = match serde_json::from_slice(&record.value) {
            Ok(package) => package,
            Err(mistake) => {
                tracing::error!(package = %wanted.uuid, %mistake, "a package's record cannot be read");
                let why = format!("waiting for package {}, which cannot be read", wanted.uuid);
                return waiting(why);
            }
        };
        if package.state != PackageState::Ready {
            let state = package.state.as_str();
            return waiting(format!("waiting for \"{}\", which is {state}", package.fqn));
        }
        let path = wanted.install_path.as_deref().unwrap_or(INSTALL_PATH_DEFAULT);
        ready.push(StartPackage {
            package: package.uuid,
            install_path: path.to_owned(),
            resources: package.resources.iter().map(|r| (r.digest.clone(), r.length)).collect(),
            environment: package.environment,
        });
    }
    Ok(Packages::Ready(ready))
}
