//! What is true in a simulated cluster, and what its members would say about it. Nothing here looks inside the feed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use route::{ClientAcl, Desired, DesiredJob, Endpoint, Weight};
use uuid::Uuid;
use wire::announce::{AnnounceBeat, Announcement, EndpointChange, EndpointUp, EndpointsAll};
use wire::digest::Digest;
use wire::job::RouteKind;
use wire::routing::{JobRoutes, RouteTo, RoutesBeat, RoutesChanged, RoutesPage};
use wire::{ImId, InstanceId, JobId};

pub(super) const PAGE_JOBS: usize = 3;

/// splitmix64: the same seed, the same life.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn id(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }
}

/// One moment of the store.
pub(super) type Jobs = BTreeMap<JobId, JobRoutes>;

#[derive(Clone, Default)]
pub(super) struct Store {
    pub(super) revision: u64,
    pub(super) jobs: Jobs,
}

impl Store {
    pub(super) fn write(
        &mut self,
        rng: &mut Rng,
        job: JobId,
        routes: Option<JobRoutes>,
    ) -> RoutesChanged {
        let previous = self.revision;
        // Other keys are written too.
        self.revision += 1 + rng.below(3);
        let revision = self.revision;
        let routes = routes.map(|routes| JobRoutes { revision, ..routes });
        match &routes {
            Some(routes) => drop(self.jobs.insert(job, routes.clone())),
            None => drop(self.jobs.remove(&job)),
        }
        RoutesChanged { revision, previous, job, routes }
    }

    pub(super) fn beat(&self) -> RoutesBeat {
        let bytes: Vec<_> = self.jobs.values().map(JobRoutes::digest_bytes).collect();
        RoutesBeat { revision: self.revision, digest: Digest::of(bytes.iter().map(Vec::as_slice)) }
    }

    pub(super) fn page(&self, after: Option<JobId>) -> RoutesPage {
        let all = self.jobs.values().filter(|routes| after.is_none_or(|after| routes.job > after));
        let mut jobs: Vec<_> = all.take(PAGE_JOBS + 1).cloned().collect();
        let more = jobs.len() > PAGE_JOBS;
        jobs.truncate(PAGE_JOBS);
        let next = jobs.last().map(|routes| routes.job).filter(|_| more);
        RoutesPage { revision: self.revision, jobs, next, digest: Some(self.beat().digest) }
    }
}

#[derive(Clone)]
pub(super) struct Manager {
    pub(super) id: ImId,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) up: BTreeSet<EndpointUp>,
}

impl Manager {
    pub(super) fn new(id: ImId, epoch: u64) -> Self {
        Self { id, epoch, seq: 0, up: BTreeSet::new() }
    }

    pub(super) fn change(&mut self, changes: Vec<EndpointChange>) -> Announcement {
        for change in &changes {
            match change {
                EndpointChange::Up(up) => drop(self.up.insert(up.clone())),
                EndpointChange::Down(gone) => self.up.retain(|up| up.instance != *gone),
            }
        }
        self.seq += 1;
        Announcement {
            im: self.id,
            epoch: self.epoch,
            seq: self.seq,
            changes,
            digest: self.digest(),
        }
    }

    pub(super) fn digest(&self) -> Digest {
        let bytes: Vec<_> = self.up.iter().map(EndpointUp::digest_bytes).collect();
        Digest::of(bytes.iter().map(Vec::as_slice))
    }

    pub(super) fn beat(&self) -> AnnounceBeat {
        AnnounceBeat { im: self.id, epoch: self.epoch, seq: self.seq, digest: self.digest() }
    }

    pub(super) fn all(&self) -> EndpointsAll {
        EndpointsAll {
            im: self.id,
            epoch: self.epoch,
            seq: self.seq,
            endpoints: self.up.iter().cloned().collect(),
        }
    }
}

pub(super) fn to(port: u16, endpoint: &str, weight: f64) -> RouteTo {
    RouteTo {
        port,
        kind: RouteKind::Http,
        endpoint: endpoint.to_owned(),
        weight,
        https_only: false,
    }
}

pub(super) fn routes(job: JobId, name: &str, revision: u64, routes: Vec<RouteTo>) -> JobRoutes {
    let fqn = format!("job::/t::{name}").parse().unwrap();
    JobRoutes { job, fqn, revision, client_acl: String::new(), routes }
}

pub(super) fn up(instance: InstanceId, job: JobId, port: u16, addr: SocketAddr) -> EndpointUp {
    EndpointUp { instance, job, port, addr }
}

/// What the table should be, written down naively and without the feed's own code. Names are unique here.
pub(super) fn expected<'a>(jobs: &Jobs, managers: impl Iterator<Item = &'a Manager>) -> Desired {
    let mut desired = Desired::default();
    let ups: Vec<EndpointUp> = managers.flat_map(|manager| manager.up.iter().cloned()).collect();
    let mut flags: BTreeMap<Endpoint, (u64, bool)> = BTreeMap::new();
    for job in jobs.values() {
        for route in &job.routes {
            let Ok(endpoint) = format!("http://{}", route.endpoint).parse::<Endpoint>() else {
                continue;
            };
            let name = format!("{}:{}", job.fqn, route.port);
            let instances = ups.iter().filter(|up| up.job == job.job && up.port == route.port);
            let instances = instances.map(|up| up.addr).collect();
            let client_acl: ClientAcl = match job.client_acl.parse() {
                Ok(acl) => acl,
                Err(_) => "deny 0.0.0.0/0, deny ::/0".parse().unwrap(),
            };
            desired.jobs.insert(name.clone(), DesiredJob { client_acl, instances });
            let weight = Weight::from_percent(route.weight).unwrap();
            let at = desired.routes.entry(endpoint.clone()).or_default();
            at.targets.entry(name).or_insert(weight);
            let flag = flags.entry(endpoint.clone()).or_insert((job.revision, route.https_only));
            if job.revision < flag.0 {
                *flag = (job.revision, route.https_only);
            }
            at.https_only = flags[&endpoint].1;
        }
    }
    desired
}
