//! The wanted state and how it changes: jobs and instances come and go, weights shift, routes appear and vanish.
//!
//! In a fair life every route keeps a job with an instance, so that nobody has a reason to go unserved.
//! Deliberately absent: the judge's memory of what was wanted; see `tables.rs`.

use std::net::SocketAddr;

use route::{Desired, DesiredRoute, Endpoint, Weight};

use super::chance::Chance;
use super::scripts::HOSTS;
use super::tables::{DEEP, http};

const JOBS: usize = 3;
const PER_JOB: usize = 4;
const TCP_JOB: &str = "tcp";

/// All instances of HTTP jobs that there can be.
pub(crate) fn instances() -> impl Iterator<Item = SocketAddr> {
    (0..JOBS * PER_JOB).map(|at| instance(at / PER_JOB, at % PER_JOB))
}

/// All instances of the TCP job.
pub(crate) fn tcp_instances() -> impl Iterator<Item = SocketAddr> {
    (0..3).map(|at| SocketAddr::from(([10, 2, 0, at], 5432)))
}

/// Addresses of TCP routes. The hub tries to bind them, so they are the machine's own.
pub(crate) fn tcp_doors() -> [SocketAddr; 2] {
    [17_401, 17_402].map(|port| SocketAddr::from(([127, 0, 77, 1], port)))
}

/// An address at which nobody ever answers.
pub(crate) fn black_hole() -> SocketAddr {
    SocketAddr::from(([10, 9, 9, 9], 80))
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    SocketAddr::from(([10, 9, 9, 8], 80))
}

fn instance(job: usize, at: usize) -> SocketAddr {
    let (job, at) = (u8::try_from(job).expect("few"), u8::try_from(at).expect("few"));
    SocketAddr::from(([10, 1, job, at], 8080))
}

fn job_name(at: usize) -> String {
    format!("job{at}")
}

/// See the module head.
pub(crate) struct Wishes {
    fair: bool,
    committed: Desired,
    wanted: Desired,
}

impl Wishes {
    pub(crate) fn new(fair: bool) -> Self {
        let mut wishes = Self { fair, committed: Desired::default(), wanted: Desired::default() };
        wishes.settle();
        // To begin with, the second address is free for a route that comes later.
        wishes.wanted.routes.remove(&Endpoint::Tcp(tcp_doors()[1]));
        wishes
    }

    /// What was committed last, and what is wanted now.
    pub(crate) fn take(&mut self) -> (Desired, Desired) {
        let before = std::mem::replace(&mut self.committed, self.wanted.clone());
        (before, self.wanted.clone())
    }

    pub(crate) fn has_tcp(&self, addr: SocketAddr) -> bool {
        self.wanted.routes.contains_key(&Endpoint::Tcp(addr))
    }

    /// Host and prefix of every HTTP route.
    pub(crate) fn http_routes(&self) -> Vec<(String, &'static str)> {
        let all =
            HOSTS.iter().flat_map(|host| [((*host).to_owned(), ""), ((*host).to_owned(), DEEP)]);
        all.filter(|(host, prefix)| self.wanted.routes.contains_key(&http(host, prefix))).collect()
    }

    /// The state of the beginning and of the end: all is there, and nothing that does not serve.
    pub(crate) fn settle(&mut self) {
        self.wanted = Desired::default();
        for job in 0..JOBS {
            let all = (0..PER_JOB).map(|at| instance(job, at)).collect();
            self.wanted.jobs.entry(job_name(job)).or_default().instances = all;
        }
        self.wanted.jobs.entry(TCP_JOB.to_owned()).or_default().instances =
            tcp_instances().collect();
        for (at, host) in HOSTS.iter().enumerate() {
            self.put(http(host, ""), &job_name(at % JOBS), Weight::AUTO);
            self.put(http(host, ""), &job_name((at + 1) % JOBS), Weight::AUTO);
        }
        self.put(http(HOSTS[0], DEEP), &job_name(2), Weight::AUTO);
        for addr in tcp_doors() {
            self.put(Endpoint::Tcp(addr), TCP_JOB, Weight::AUTO);
        }
    }

    fn put(&mut self, endpoint: Endpoint, job: &str, weight: Weight) {
        let route = self.wanted.routes.entry(endpoint).or_default();
        route.targets.insert(job.to_owned(), weight);
    }

    /// One to three random changes, made whole by one commit.
    pub(crate) fn change(&mut self, chance: &mut Chance) {
        for _ in 0..chance.between(1, 3) {
            match chance.below(10) {
                0..=3 => self.change_instances(chance),
                4..=6 => self.change_targets(chance),
                7 => self.change_deep(chance),
                8 => self.change_tcp(chance),
                _ => self.change_hosts(chance),
            }
        }
    }

    fn change_instances(&mut self, chance: &mut Chance) {
        let job = chance.below(JOBS);
        let mut addr = instance(job, chance.below(PER_JOB));
        if !self.fair && chance.percent(15) {
            addr = *chance.pick(&[black_hole(), nobody()]);
        }
        let fair = self.fair;
        let instances = &mut self.wanted.jobs.entry(job_name(job)).or_default().instances;
        if !instances.remove(&addr) || fair && instances.is_empty() {
            instances.insert(addr);
        }
    }

    fn change_targets(&mut self, chance: &mut Chance) {
        let host = *chance.pick(&HOSTS);
        let job = job_name(chance.below(JOBS));
        let Some(route) = self.wanted.routes.get_mut(&http(host, "")) else { return };
        let before = route.clone();
        if route.targets.contains_key(&job) && chance.percent(40) {
            route.targets.remove(&job);
        } else {
            let weight = *chance.pick(&[0, 0, 1, 10, 50, -10]) * 100;
            let weight = Weight::from_hundredths(weight).expect("a weight");
            route.targets.insert(job, weight);
        }
        let active = |route: &DesiredRoute| route.targets.values().any(|weight| weight.is_active());
        if self.fair && !active(route) {
            *route = before;
        }
        self.wanted.routes.retain(|_, route| !route.targets.is_empty());
    }

    /// A longer prefix comes and goes: either way somebody serves.
    fn change_deep(&mut self, chance: &mut Chance) {
        let endpoint = http(chance.pick::<&str>(&HOSTS), DEEP);
        if self.wanted.routes.remove(&endpoint).is_none() {
            self.put(endpoint, &job_name(chance.below(JOBS)), Weight::AUTO);
        }
    }

    fn change_hosts(&mut self, chance: &mut Chance) {
        let endpoint = http(chance.pick::<&str>(&HOSTS), "");
        if !self.wanted.routes.contains_key(&endpoint) {
            self.put(endpoint, &job_name(chance.below(JOBS)), Weight::AUTO);
        } else if !self.fair {
            self.wanted.routes.remove(&endpoint);
        }
    }

    fn change_tcp(&mut self, chance: &mut Chance) {
        let addr = *chance.pick(&tcp_doors());
        if !self.has_tcp(addr) {
            self.put(Endpoint::Tcp(addr), TCP_JOB, Weight::AUTO);
        } else if !self.fair {
            self.wanted.routes.remove(&Endpoint::Tcp(addr));
        }
        let one = tcp_instances().nth(chance.below(3)).expect("three");
        let instances = &mut self.wanted.jobs.entry(TCP_JOB.to_owned()).or_default().instances;
        if !instances.remove(&one) || instances.is_empty() {
            instances.insert(one);
        }
    }
}
