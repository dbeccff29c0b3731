//! What must be true, found out from the outside: the store's records, what the drivers run, what the cores serve.
//!
//! Deliberately absent: any look inside a service.

use crate::cluster::Cluster;
use crate::edge::CORES;
use crate::ledger::tags_allow;
use route::{ClientAcl, Desired, DesiredJob, Weight};
use services::jobs;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use wire::job::RolloutMode;
use wire::{InstanceId, Job, JobId, JobState};

/// When the weather is calm and everybody is back, all is as wanted within this time.
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(30);
/// The tables are the truth so long after the last real change.
pub(crate) const TABLES_MAX: Duration = Duration::from_secs(2);
/// And nothing moves any more for so long.
pub(crate) const QUIET: Duration = Duration::from_secs(12);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// What runs of one job: instances, and where.
type Running = BTreeMap<JobId, BTreeSet<InstanceId>>;

/// The records of all jobs.
pub(crate) async fn records(cluster: &Cluster) -> Vec<Job> {
    let (records, _) = cluster.shop.users().all(jobs::JOBS).await.expect("the users' door is open");
    records.iter().map(|record| jobs::decode(record).expect("it was written by us")).collect()
}

fn running(cluster: &Cluster) -> Running {
    let ledger = cluster.ledger.lock();
    let mut all = Running::new();
    for host in &cluster.hosts {
        for id in host.driver.running() {
            if let Some(known) = ledger.instances.get(&id) {
                all.entry(known.job).or_default().insert(id);
            }
        }
    }
    all
}

/// What is not as it should be; empty = all is well.
fn unsettled(cluster: &Cluster, jobs: &[Job]) -> Vec<String> {
    let mut running = running(cluster);
    let ledger = cluster.ledger.lock();
    let mut wrong = Vec::new();
    for job in jobs {
        let here = running.remove(&job.uuid).unwrap_or_default();
        let wanted = if job.state == JobState::Started { job.num_instances as usize } else { 0 };
        let state = job.state.as_str();
        if here.len() != wanted {
            wrong.push(format!("{} ({state}): {} run, wanted are {wanted}", job.name, here.len()));
        }
        for id in here {
            let known = &ledger.instances[&id];
            let short = id.short();
            if known.version != job.version_id {
                wrong.push(format!(
                    "{}: {short} has version {}, not {}",
                    job.name, known.version, job.version_id
                ));
            }
            if !tags_allow(&known.hard_tags, &cluster.hosts[known.host].tags) {
                wrong.push(format!("{}: {short} must not be on host {}", job.name, known.host));
            }
        }
    }
    for (job, ids) in running {
        wrong.push(format!("{} instances of job {} run, which is gone", ids.len(), job.short()));
    }
    wrong
}

/// The table that every router should have.
fn truth(cluster: &Cluster, jobs: &[Job]) -> Desired {
    let running = running(cluster);
    let ledger = cluster.ledger.lock();
    let mut desired = Desired::default();
    for job in jobs {
        for (port, route) in job.routes() {
            let name = format!("{}:{}", job.fqn, port.number);
            let ids = running.get(&job.uuid).into_iter().flatten();
            let instances = ids.filter_map(|id| ledger.instances[id].addr).collect();
            let client_acl: ClientAcl = job.client_acl.parse().expect("validated");
            desired.jobs.insert(name.clone(), DesiredJob { client_acl, instances });
            let endpoint = format!("http://{}", route.endpoint).parse().expect("validated");
            let weight = Weight::from_percent(route.weight).expect("validated");
            desired.routes.entry(endpoint).or_default().targets.insert(name, weight);
        }
    }
    desired
}

/// Routers whose table is not the truth, and how.
fn astray(cluster: &Cluster, jobs: &[Job]) -> Vec<String> {
    let truth = truth(cluster, jobs);
    let mut wrong = Vec::new();
    for edge in cluster.routers.iter().flatten() {
        let has = edge.hub.table().desired();
        if has == truth {
            continue;
        }
        for (name, job) in &truth.jobs {
            if has.jobs.get(name) != Some(job) {
                let got = has.jobs.get(name).map(|job| &job.instances);
                wrong.push(format!("{}: {name} has {got:?}, not {:?}", edge.node, job.instances));
            }
        }
        let extra: Vec<_> =
            has.jobs.keys().filter(|name| !truth.jobs.contains_key(*name)).collect();
        wrong.push(format!(
            "{}: too much: {extra:?}; routes equal: {}",
            edge.node,
            has.routes == truth.routes
        ));
    }
    wrong
}

/// Jobs with rolling updates that are sound now must not be without an instance on any core from here on.
pub(crate) async fn protect(cluster: &Cluster) {
    // Instances whose manager is dead are soon given up, also those that serve.
    if cluster.hosts.iter().any(|host| host.node().is_none()) {
        return;
    }
    let jobs = records(cluster).await;
    let wrong = unsettled(cluster, &jobs);
    let cores: BTreeSet<_> = cluster
        .routers
        .iter()
        .flatten()
        .flat_map(|edge| (0..CORES).map(|core| (edge.node.clone(), core)))
        .collect();
    for job in jobs {
        let rolling = job.rollout.mode == RolloutMode::Rolling && job.state == JobState::Started;
        let sound = !wrong.iter().any(|line| line.starts_with(&job.name));
        let Some((port, _)) = job.routes().next() else { continue };
        let name = format!("{}:{}", job.fqn, port.number);
        let full = cluster.edges.counts(&name).iter().all(|count| *count > 0);
        if rolling && sound && full && job.num_instances > 0 {
            cluster.ledger.lock().protected.insert(name, cores.clone());
        }
    }
}

/// Waits until all is as wanted and stays so; accuses where it does not. How long it took.
pub(crate) async fn settle(cluster: &Cluster) -> Duration {
    let calm = Instant::now();
    let mut last_wrong = calm;
    let took = loop {
        let jobs = records(cluster).await;
        let wrong = unsettled(cluster, &jobs);
        if !wrong.is_empty() {
            last_wrong = Instant::now();
        }
        // While instances come and go the tables must change; they are looked at when that is over, or nothing else is left.
        let over = calm.elapsed() > SETTLE_MAX;
        let astray = if wrong.is_empty() || over { astray(cluster, &jobs) } else { Vec::new() };
        if wrong.is_empty() && astray.is_empty() {
            break calm.elapsed();
        }
        if over {
            let all: Vec<_> = wrong.into_iter().chain(astray).collect();
            cluster
                .ledger
                .lock()
                .accuse(format!("not settled after {SETTLE_MAX:?}: {}", all.join("; ")));
            return calm.elapsed();
        }
        if last_wrong.elapsed() > TABLES_MAX {
            let what = format!("tables are wrong after {TABLES_MAX:?}: {}", astray.join("; "));
            cluster.ledger.lock().accuse(what);
            return calm.elapsed();
        }
        tokio::time::sleep(LOOK).await;
    };
    cluster.ledger.tell(format!("settled after {took:?}"));
    let before = counts(cluster);
    let quiet = Instant::now();
    while quiet.elapsed() < QUIET {
        tokio::time::sleep(LOOK * 10).await;
        let jobs = records(cluster).await;
        let (wrong, astray) = (unsettled(cluster, &jobs), astray(cluster, &jobs));
        if counts(cluster) != before || !wrong.is_empty() || !astray.is_empty() {
            let what = format!("was settled and moved: {} {}", wrong.join("; "), astray.join("; "));
            cluster.ledger.lock().accuse(what);
            break;
        }
    }
    took
}

fn counts(cluster: &Cluster) -> (u64, u64) {
    let ledger = cluster.ledger.lock();
    (ledger.starts, ledger.stops)
}
