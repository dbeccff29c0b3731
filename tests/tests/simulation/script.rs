//! What happens to a simulated cluster: what users want, what breaks, and when. All of it by one seed.
//!
//! Deliberately absent: what must be true.

use crate::cluster::Cluster;
use crate::edge::id;
use crate::judge;
use bus::sim::Weather;
use rand::RngExt as _;
use services::jobs::{self, Guards};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use wire::job::{Port, Process, RolloutMode, Route, RouteKind};
use wire::{Job, JobId, JobState};

/// Jobs at the same time.
const JOBS_MAX: usize = 6;
/// Copies of one job.
const COPIES_MAX: u32 = 4;
/// Crashes of one version of a job: one more and an update may be given up, as it should be.
const CRASHES_MAX: u32 = 2;
/// Without a fault for so long, what serves must go on serving.
const SOUND: Duration = Duration::from_secs(4);

pub(crate) struct Script {
    /// Crashes by job and restart version.
    crashes: BTreeMap<(JobId, u64), u32>,
    names: u32,
    /// A fault that ends by `heal`.
    cut: bool,
    storm: bool,
    shut: bool,
    flaky: bool,
    last_fault: Instant,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self {
            crashes: BTreeMap::new(),
            names: 0,
            cut: false,
            storm: false,
            shut: false,
            flaky: false,
            last_fault: Instant::now(),
        }
    }

    /// So many things happen.
    pub(crate) async fn play(&mut self, cluster: &mut Cluster, steps: u32) {
        for _ in 0..steps {
            if cluster.rng.random_bool(0.55) {
                self.user(cluster).await;
            } else {
                self.fault(cluster).await;
            }
            let pause = match cluster.rng.random_range(0..10) {
                0..=5 => cluster.rng.random_range(1..600),
                6..=8 => cluster.rng.random_range(600..3_000),
                _ => cluster.rng.random_range(3_000..9_000),
            };
            self.wait(cluster, pause).await;
        }
    }

    /// Time passes; what has become sound meanwhile is protected.
    async fn wait(&mut self, cluster: &Cluster, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let part = left.min(200);
            tokio::time::sleep(Duration::from_millis(part)).await;
            left -= part;
            if !self.cut && self.last_fault.elapsed() > SOUND {
                judge::protect(cluster).await;
            }
        }
    }

    /// All faults end and everybody is back.
    pub(crate) async fn calm(&mut self, cluster: &mut Cluster) {
        cluster.ledger.tell("the weather calms".to_owned());
        cluster.sim.set_weather(Weather::CALM);
        cluster.heal();
        cluster.shop.set_away(false);
        cluster.shop.set_flaky(false);
        (self.cut, self.storm, self.shut, self.flaky) = (false, false, false, false);
        cluster.revive_all().await;
    }

    /// Whoever served may serve no more, and that is nobody's mistake.
    fn unsound(&mut self, cluster: &Cluster) {
        self.last_fault = Instant::now();
        cluster.ledger.lock().protected.clear();
    }

    // === users ===

    async fn user(&mut self, cluster: &mut Cluster) {
        let all = judge::records(cluster).await;
        if all.is_empty() || (all.len() < JOBS_MAX && cluster.rng.random_bool(0.3)) {
            return self.create(cluster).await;
        }
        let old = all[cluster.rng.random_range(0..all.len())].clone();
        let mut new = old.clone();
        let mut restart = false;
        let what = match cluster.rng.random_range(0..12) {
            0 => return self.delete(cluster, &old).await,
            1 | 2 => {
                new.num_instances = cluster.rng.random_range(1..=COPIES_MAX);
                "scale"
            }
            3..=5 => {
                restart = true;
                "restart"
            }
            6 | 7 => {
                let process = new.processes.get_mut("app").expect("each has one");
                process.environment.insert("N".to_owned(), old.version_id.to_string());
                "change"
            }
            8 => {
                new.ports[0].routes[0].weight = f64::from(cluster.rng.random_range(0..100_u32));
                "weigh"
            }
            9 => {
                let mode = if old.rollout.mode == RolloutMode::Rolling {
                    RolloutMode::StopAll
                } else {
                    RolloutMode::Rolling
                };
                new.rollout.mode = mode;
                "turn"
            }
            10 if old.state == JobState::Started => {
                new.state = JobState::Stopped;
                "stop"
            }
            _ => {
                new.state = JobState::Started;
                "start"
            }
        };
        jobs::succeed(&old, &mut new, restart);
        let rolls = new.rollout.mode == RolloutMode::Rolling;
        let soft = matches!(what, "scale" | "weigh")
            || (rolls && matches!(what, "restart" | "change" | "turn"));
        if !soft || new.state != JobState::Started {
            self.unprotect(cluster, &new);
        }
        self.write(cluster, Some(&old), Some(&new), what).await;
    }

    fn unprotect(&self, cluster: &Cluster, job: &Job) {
        let prefix = format!("{}:", job.fqn);
        cluster.ledger.lock().protected.retain(|name, _| !name.starts_with(&prefix));
    }

    async fn create(&mut self, cluster: &mut Cluster) {
        self.names += 1;
        let name = format!("app{}", self.names);
        let mut job = Job::named(format!("job::/sim::{name}").parse().expect("a good name"));
        job.uuid = JobId(id(&mut cluster.rng));
        job.version_id = 1;
        job.restart_version = 1;
        job.state = JobState::Started;
        job.num_instances = cluster.rng.random_range(1..=COPIES_MAX);
        job.rollout.mode =
            if cluster.rng.random_bool(0.7) { RolloutMode::Rolling } else { RolloutMode::StopAll };
        let listens = cluster.rng.random_range(0..200);
        let stubborn = if cluster.rng.random_bool(0.1) { " stubborn" } else { "" };
        let process = Process {
            start_command: format!("listen {listens}{stubborn}"),
            stop_timeout: cluster.rng.random_range(1..=3),
            ..Process::default()
        };
        job.processes.insert("app".to_owned(), process);
        let shared = cluster.rng.random_bool(0.3);
        let endpoint = if shared { "shared.test".to_owned() } else { format!("{name}.test") };
        let route = Route {
            kind: RouteKind::Http,
            endpoint,
            weight: 0.0,
            https_only: false,
            extra: BTreeMap::new(),
        };
        job.ports =
            vec![Port { number: 0, optional: false, routes: vec![route], extra: BTreeMap::new() }];
        if cluster.rng.random_bool(0.3) {
            job.hard_scheduling_tags.insert("fast".to_owned(), cluster.rng.random());
        }
        self.write(cluster, None, Some(&job), "create").await;
    }

    async fn delete(&mut self, cluster: &Cluster, old: &Job) {
        self.unprotect(cluster, old);
        self.write(cluster, Some(old), None, "delete").await;
    }

    /// The transaction that the API would make. Somebody else may have been faster; then nothing is done.
    async fn write(&self, cluster: &Cluster, old: Option<&Job>, new: Option<&Job>, what: &str) {
        let store = cluster.shop.users();
        let mut new = new.cloned();
        if let Some(new) = &mut new {
            jobs::validate(new).expect("what the script wants is possible");
        }
        let mut guards = Guards::default();
        for key in jobs::guard_keys(old, new.as_ref()) {
            guards.note(store.get(&key).await.expect("the users' door is open"));
        }
        let writes = match (old, &new) {
            (None, Some(new)) => jobs::create(new, &guards),
            (Some(old), Some(new)) => jobs::update(old, new, &guards),
            (Some(old), None) => jobs::delete(old, &guards, cluster.now_ms()),
            (None, None) => return,
        };
        let done = store.commit(&writes.expect("no flags conflict here")).await;
        let job = new.as_ref().or(old).expect("one of them is there");
        let (n, mode) = (job.num_instances, job.rollout.mode);
        let version = job.version_id;
        cluster.ledger.tell(format!(
            "user: {what} {} n={n} {mode:?} version {version}: {}",
            job.name,
            done.is_ok()
        ));
    }

    // === faults ===

    async fn fault(&mut self, cluster: &mut Cluster) {
        match cluster.rng.random_range(0..18) {
            0..=2 => self.crash(cluster).await,
            3 => self.toggle_jm(cluster),
            4 => self.toggle_hm(cluster),
            5..=7 => self.toggle_host(cluster).await,
            8 => self.toggle_router(cluster),
            9 | 10 => self.cut(cluster),
            11..=13 => self.mend(cluster),
            14 => self.toggle_storm(cluster),
            15 => {
                self.shut = !self.shut;
                cluster.shop.set_away(self.shut);
                cluster.ledger.tell(format!("the store is away: {}", self.shut));
            }
            16 => {
                self.flaky = !self.flaky;
                cluster.shop.set_flaky(self.flaky);
                cluster.ledger.tell(format!("the store is flaky: {}", self.flaky));
            }
            _ => {
                cluster.revive_all().await;
            }
        }
    }

    async fn crash(&mut self, cluster: &mut Cluster) {
        let host = cluster.rng.random_range(0..cluster.hosts.len());
        let running = cluster.hosts[host].driver.running();
        if running.is_empty() {
            return;
        }
        let victim = running[cluster.rng.random_range(0..running.len())];
        let job = cluster.ledger.lock().instances.get(&victim).map(|known| known.job);
        let all = judge::records(cluster).await;
        let Some(job) = all.iter().find(|one| Some(one.uuid) == job) else { return };
        let count = self.crashes.entry((job.uuid, job.restart_version)).or_default();
        if *count >= CRASHES_MAX {
            return;
        }
        *count += 1;
        self.unprotect(cluster, job);
        cluster.ledger.lock().ended(victim, "crash");
        cluster.hosts[host].driver.crash(victim, 1);
        self.last_fault = Instant::now();
    }

    fn toggle_jm(&self, cluster: &mut Cluster) {
        let index = cluster.rng.random_range(0..cluster.jms.len());
        match cluster.jms[index] {
            Some(_) => cluster.kill_jm(index),
            None => cluster.revive_jm(index),
        }
    }

    fn toggle_hm(&self, cluster: &mut Cluster) {
        let index = cluster.rng.random_range(0..cluster.hms.len());
        match cluster.hms[index] {
            Some(_) => cluster.kill_hm(index),
            None => cluster.revive_hm(index),
        }
    }

    async fn toggle_host(&mut self, cluster: &mut Cluster) {
        let index = cluster.rng.random_range(0..cluster.hosts.len());
        if cluster.hosts[index].node().is_none() {
            return cluster.revive_host(index).await;
        }
        self.unsound(cluster);
        let power = cluster.rng.random_bool(0.3);
        if power {
            cluster.ledger.tell(format!("host {index} loses power"));
        }
        cluster.kill_host(index, power);
    }

    fn toggle_router(&mut self, cluster: &mut Cluster) {
        self.unsound(cluster);
        let index = cluster.rng.random_range(0..cluster.routers.len());
        match cluster.routers[index] {
            Some(_) => cluster.kill_router(index),
            None => cluster.revive_router(index),
        }
    }

    fn cut(&mut self, cluster: &mut Cluster) {
        self.unsound(cluster);
        self.cut = true;
        let nodes = cluster.nodes();
        if nodes.len() < 2 {
            return;
        }
        let a = cluster.rng.random_range(0..nodes.len());
        if cluster.rng.random_bool(0.4) {
            cluster.ledger.tell(format!("{} is isolated", nodes[a]));
            cluster.sim.isolate(&nodes[a]);
            return;
        }
        let b = (a + cluster.rng.random_range(1..nodes.len())) % nodes.len();
        cluster.ledger.tell(format!("{} and {} do not hear each other", nodes[a], nodes[b]));
        cluster.sim.partition(&nodes[a], &nodes[b]);
    }

    fn mend(&mut self, cluster: &Cluster) {
        if self.cut {
            self.unsound(cluster);
            self.cut = false;
            cluster.ledger.tell("all cuts are mended".to_owned());
            cluster.heal();
        }
    }

    fn toggle_storm(&mut self, cluster: &Cluster) {
        self.unsound(cluster);
        self.storm = !self.storm;
        cluster.ledger.tell(format!("storm: {}", self.storm));
        cluster.sim.set_weather(if self.storm { Weather::STORM } else { Weather::CALM });
    }
}
