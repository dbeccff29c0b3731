//! Reading what a newer job manager writes: a route of a kind that this program does not know is left out and counted;
//! the rest of the message counts.
//!
//! Deliberately absent: leniency about anything else. A message without its revision is no message.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;
use serde::de::Deserializer;
use wire::digest::Digest;
use wire::routing::{JobRoutes, RouteTo, RoutesChanged, RoutesPage};
use wire::{Fqn, JobId};

/// Routes left out since the start of the process: a gauge of versions that differ, not of one feed.
static UNKNOWN_ROUTES: AtomicU64 = AtomicU64::new(0);

/// How many routes were left out so far.
pub fn unknown_routes() -> u64 {
    UNKNOWN_ROUTES.load(Ordering::Relaxed)
}

/// Texts in which a route may be of an unknown kind.
pub trait Lenient: Sized {
    /// From JSON.
    fn read(text: &str) -> Result<Self, serde_json::Error>;
}

#[derive(Deserialize)]
struct Job {
    job: JobId,
    fqn: Fqn,
    revision: u64,
    client_acl: String,
    #[serde(deserialize_with = "known")]
    routes: Vec<RouteTo>,
}

impl From<Job> for JobRoutes {
    fn from(job: Job) -> Self {
        let Job { job, fqn, revision, client_acl, routes } = job;
        Self { job, fqn, revision, client_acl, routes }
    }
}

fn known<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<RouteTo>, D::Error> {
    let all = Vec::<serde_json::Value>::deserialize(from)?;
    let mut known = Vec::with_capacity(all.len());
    for one in all {
        match serde_json::from_value(one) {
            Ok(route) => known.push(route),
            Err(mistake) => {
                UNKNOWN_ROUTES.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%mistake, "a route of an unknown kind is left out");
            }
        }
    }
    Ok(known)
}

impl Lenient for RoutesChanged {
    fn read(text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Changed {
            revision: u64,
            previous: u64,
            job: JobId,
            routes: Option<Job>,
        }
        let Changed { revision, previous, job, routes } = serde_json::from_str(text)?;
        Ok(Self { revision, previous, job, routes: routes.map(JobRoutes::from) })
    }
}

impl Lenient for RoutesPage {
    fn read(text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Page {
            revision: u64,
            jobs: Vec<Job>,
            next: Option<JobId>,
            #[serde(default)]
            digest: Option<Digest>,
        }
        let Page { revision, jobs, next, digest } = serde_json::from_str(text)?;
        Ok(Self { revision, jobs: jobs.into_iter().map(JobRoutes::from).collect(), next, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a kind of a newer writer costs its own route and nothing else.
    #[test]
    fn an_unknown_kind_is_left_out() {
        let text = r#"{"revision":7,"previous":6,"job":"00000000-0000-0000-0000-000000000001","routes":{
            "job":"00000000-0000-0000-0000-000000000001","fqn":"job::/a::b","revision":7,"client_acl":"","new":1,"routes":[
            {"port":1,"kind":"udp","endpoint":"1.2.3.4:5","weight":0.0,"https_only":false},
            {"port":2,"kind":"http","endpoint":"x.test","weight":0.0,"https_only":false}]}}"#;
        let before = unknown_routes();
        let change = RoutesChanged::read(text).unwrap();
        let routes = change.routes.unwrap().routes;
        assert_eq!((routes.len(), routes[0].port, unknown_routes() > before), (1, 2, true));
        assert!(RoutesChanged::read(r#"{"revision":7}"#).is_err());
    }
}
