//! Weather: messages lost, doubled, late and in any order; answers late, old or missing; managers that die and return;
//! routers that restart from their file. Then calm.
//!
//! The judge knows the truth and what was delivered, and looks only at the table. Replay one life with
//! `SEED=17 cargo test -p feed any_weather`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use router::hub::Hub;
use wire::announce::{Announcement, Drain, EndpointChange, EndpointUp};
use wire::health::Lost;
use wire::routing::RoutesChanged;
use wire::{ImId, InstanceId, JobId};

use super::truth::{Manager, Rng, Store, expected, routes, to, up};
use crate::applied::Applied;
use crate::state::{Ask, Event, State};

const LIVES: u64 = 60;
const STEPS: u64 = 160;
/// Faults end here; within this time all must be right.
const CALM_MS: u64 = 2_000;
const BEAT_MS: u64 = 1_000;

/// An event on its way to the router.
enum Mail {
    Changed(RoutesChanged),
    RoutesBeat(wire::routing::RoutesBeat),
    Announced(Announcement),
    AnnounceBeat(wire::announce::AnnounceBeat),
    Drain(Drain),
    Lost(Lost),
    Page(u64, Option<wire::routing::RoutesPage>),
    Endpoints(crate::ims::Ask, Option<wire::announce::EndpointsAll>),
}

struct World {
    rng: Rng,
    now: u64,
    calm: bool,
    store: Store,
    /// What lagging job managers still believe.
    history: Vec<Store>,
    managers: BTreeMap<ImId, Manager>,
    dead: BTreeMap<ImId, u64>,
    names: u64,
    hosts: u64,
    mail: Vec<(u64, u64, Mail)>,
    mails: u64,
    router: State,
    applied: Applied,
    hub: Arc<Hub>,
    // What the judge knows.
    gone: HashMap<SocketAddr, InstanceId>,
    withdrawn: HashSet<SocketAddr>,
    delivered: HashMap<JobId, u64>,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = 1_000_000;
        Self {
            rng: Rng(seed),
            now,
            calm: false,
            store: Store::default(),
            history: vec![Store::default()],
            managers: BTreeMap::new(),
            dead: BTreeMap::new(),
            names: 0,
            hosts: 0,
            mail: Vec::new(),
            mails: 0,
            router: State::new(now),
            applied: Applied::default(),
            hub: Hub::new(1, router::settings::Settings::default()).unwrap(),
            gone: HashMap::new(),
            withdrawn: HashSet::new(),
            delivered: HashMap::new(),
            seed,
        }
    }

    // === what happens in the cluster ===

    fn step(&mut self) {
        match self.rng.below(100) {
            0..25 => self.write_job(),
            25..30 => self.remove_job(),
            30..60 => self.start_instance(),
            60..75 => self.stop_instance(),
            75..78 => self.new_manager(),
            78..81 => self.restart_manager(),
            81..83 => self.kill_manager(),
            83..85 => self.restart_router(),
            85..95 => self.beats(),
            _ => {}
        }
        let pass = self.rng.below(120);
        self.pass(pass);
    }

    fn write_job(&mut self) {
        let known: Vec<JobId> = self.store.jobs.keys().copied().collect();
        let (job, name) = if known.is_empty() || self.rng.chance(25) {
            self.names += 1;
            // A name that a removed job had may be given again, to another job.
            let taken: Vec<String> =
                self.store.jobs.values().map(|job| job.fqn.local().to_owned()).collect();
            let again = format!("j{}", self.rng.below(self.names));
            let name = if taken.contains(&again) { format!("j{}", self.names) } else { again };
            (JobId(self.rng.id()), name)
        } else {
            let at = usize::try_from(self.rng.below(known.len() as u64)).unwrap();
            (known[at], self.store.jobs[&known[at]].fqn.local().to_owned())
        };
        let count = 1 + self.rng.below(4);
        let list = (0..count).map(|_| {
            let port = u16::try_from(self.rng.below(3)).unwrap();
            let host = self.rng.below(6);
            let weight = [0.0, 0.0, 30.0, 45.5, -10.0][usize::try_from(self.rng.below(5)).unwrap()];
            let mut route = to(port, &format!("h{host}.test"), weight);
            route.https_only = host == 0 && self.rng.chance(50);
            if self.rng.chance(3) {
                route.endpoint = "not a host".to_owned();
            }
            route
        });
        let list = list.collect();
        let mut routes = routes(job, &name, 0, list);
        routes.client_acl = match self.rng.below(10) {
            0 => "deny 10.0.0.0/8".to_owned(),
            1 => "allow country DE".to_owned(),
            _ => String::new(),
        };
        let change = self.store.write(&mut self.rng, job, Some(routes));
        self.changed(change);
    }

    fn remove_job(&mut self) {
        let known: Vec<JobId> = self.store.jobs.keys().copied().collect();
        if known.is_empty() {
            return;
        }
        let at = usize::try_from(self.rng.below(known.len() as u64)).unwrap();
        let change = self.store.write(&mut self.rng, known[at], None);
        self.changed(change);
    }

    fn changed(&mut self, change: RoutesChanged) {
        self.history.push(self.store.clone());
        if self.history.len() > 6 {
            self.history.remove(0);
        }
        // Two job managers say it.
        for _ in 0..2 {
            self.send(Mail::Changed(change.clone()));
        }
    }

    fn a_manager(&mut self) -> Option<ImId> {
        let all: Vec<ImId> = self.managers.keys().copied().collect();
        (!all.is_empty()).then(|| all[usize::try_from(self.rng.below(all.len() as u64)).unwrap()])
    }

    fn start_instance(&mut self) {
        let Some(im) = self.a_manager() else { return self.new_manager() };
        let jobs: Vec<JobId> = self.store.jobs.keys().copied().collect();
        if jobs.is_empty() {
            return;
        }
        let job = jobs[usize::try_from(self.rng.below(jobs.len() as u64)).unwrap()];
        let instance = InstanceId(self.rng.id());
        let ports = 1 + self.rng.below(2);
        let changes = (0..ports).map(|_| {
            self.hosts += 1;
            let [_, _, a, b] = u32::try_from(self.hosts).unwrap().to_be_bytes();
            let port = u16::try_from(self.rng.below(3)).unwrap();
            EndpointChange::Up(up(instance, job, port, ([10, 0, a, b], 80).into()))
        });
        let changes = changes.collect();
        let told = self.managers.get_mut(&im).unwrap().change(changes);
        self.send(Mail::Announced(told));
    }

    fn stop_instance(&mut self) {
        let Some(im) = self.a_manager() else { return };
        let manager = &self.managers[&im];
        let all: Vec<EndpointUp> = manager.up.iter().cloned().collect();
        if all.is_empty() {
            return;
        }
        let one = all[usize::try_from(self.rng.below(all.len() as u64)).unwrap()].instance;
        let endpoints: Vec<EndpointUp> = all.into_iter().filter(|up| up.instance == one).collect();
        for up in &endpoints {
            self.gone.insert(up.addr, one);
        }
        let manager = self.managers.get_mut(&im).unwrap();
        let told = manager.change(vec![EndpointChange::Down(one)]);
        let (epoch, seq) = (told.epoch, told.seq);
        self.send(Mail::Announced(told));
        if self.rng.chance(60) {
            self.send(Mail::Drain(Drain { im, epoch, seq, endpoints, timeout_ms: 1_000 }));
        }
    }

    fn new_manager(&mut self) {
        let id = ImId(self.rng.id());
        self.managers.insert(id, Manager::new(id, self.now));
    }

    /// The process is new; some of its instances survived.
    fn restart_manager(&mut self) {
        let Some(im) = self.a_manager() else { return };
        let (rng, now) = (&mut self.rng, self.now);
        let manager = self.managers.get_mut(&im).unwrap();
        let lost: HashSet<InstanceId> =
            manager.up.iter().map(|up| up.instance).filter(|_| rng.chance(50)).collect();
        manager.up.retain(|up| !lost.contains(&up.instance));
        (manager.epoch, manager.seq) = (now, 0);
        if rng.chance(50) {
            let told = manager.change(Vec::new());
            self.send(Mail::Announced(told));
        }
    }

    fn kill_manager(&mut self) {
        let Some(im) = self.a_manager() else { return };
        let manager = self.managers.remove(&im).unwrap();
        self.dead.insert(im, manager.epoch);
    }

    fn restart_router(&mut self) {
        let (head, verified) = (self.router.jobs.head(), self.router.jobs.verified_ms());
        let jobs = self.router.jobs.saved().into_iter().map(|one| (*one).clone()).collect();
        let gone = self.router.jobs.saved_gone();
        let ims = self.router.ims.saved();
        let mut state = State::new(self.now);
        state.jobs.restore(head, verified, jobs, gone, &mut state.join);
        for one in ims {
            state.ims.restore(one, &mut state.join, self.now);
        }
        let touched = state.join.take_touched();
        self.hub = Hub::new(1, router::settings::Settings::default()).unwrap();
        self.applied = Applied::default();
        let before = self.router.join.desired();
        self.router = state;
        self.applied.commit(&self.router.join, touched, &self.hub);
        assert_eq!(self.router.join.desired(), before, "seed {}: a restart changed it", self.seed);
        // Questions of the former life are answered to nobody.
        self.mail.retain(|(_, _, mail)| !matches!(mail, Mail::Page(..) | Mail::Endpoints(..)));
    }

    fn beats(&mut self) {
        self.send(Mail::RoutesBeat(self.store.beat()));
        if self.rng.chance(20) && !self.calm {
            let old = self.a_view().beat();
            self.send(Mail::RoutesBeat(old));
        }
        let beats: Vec<_> = self.managers.values().map(Manager::beat).collect();
        beats.into_iter().for_each(|beat| self.send(Mail::AnnounceBeat(beat)));
        let lost: Vec<_> = self.dead.iter().map(|(im, epoch)| (*im, *epoch)).collect();
        for (im, start_time_ms) in lost {
            self.send(Mail::Lost(Lost { im, start_time_ms }));
        }
    }

    /// What some job manager believes.
    fn a_view(&mut self) -> Store {
        let at = usize::try_from(self.rng.below(self.history.len() as u64)).unwrap();
        if self.calm { self.store.clone() } else { self.history[at].clone() }
    }

    // === the way to the router ===

    fn send(&mut self, mail: Mail) {
        let answer = matches!(mail, Mail::Page(..) | Mail::Endpoints(..));
        if self.calm {
            let at = self.now + self.rng.below(5);
            return self.put(at, mail);
        }
        let late = if self.rng.chance(30) { self.rng.below(900) } else { self.rng.below(20) };
        let at = self.now + late;
        match (answer, self.rng.below(10)) {
            // An answer that is lost is a time-out of whoever asked.
            (true, 0..3) => {
                let nothing = match mail {
                    Mail::Page(ask, _) => Mail::Page(ask, None),
                    Mail::Endpoints(ask, _) => Mail::Endpoints(ask, None),
                    other => other,
                };
                self.put(self.now + 800, nothing);
            }
            (true, _) => self.put(at, mail),
            (false, 0..2) => {}
            (false, 2..4) => {
                let again = self.now + self.rng.below(1_500);
                if let Some(copy) = copy(&mail) {
                    self.put(again, copy);
                }
                self.put(at, mail);
            }
            (false, _) => self.put(at, mail),
        }
    }

    fn put(&mut self, at: u64, mail: Mail) {
        self.mails += 1;
        self.mail.push((at, self.mails, mail));
    }

    /// Time passes; what is due arrives, in the order of its time.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            let next = self.mail.iter().enumerate().min_by_key(|(_, (at, n, _))| (*at, *n));
            let due = next.map(|(place, (at, ..))| (place, *at)).filter(|(_, at)| *at <= end);
            let wake = self.router.wake_ms().map(|at| at.max(self.now)).filter(|at| *at <= end);
            match (due, wake) {
                (Some((place, at)), wake) if wake.is_none_or(|wake| at <= wake) => {
                    self.now = at.max(self.now);
                    let (_, _, mail) = self.mail.swap_remove(place);
                    self.deliver(mail);
                }
                (_, Some(wake)) => {
                    self.now = wake;
                    self.feed(Event::Tick);
                }
                (_, None) => break,
            }
        }
        self.now = end;
    }

    fn deliver(&mut self, mail: Mail) {
        match mail {
            Mail::Changed(change) => {
                let newest = self.delivered.entry(change.job).or_default();
                *newest = change.revision.max(*newest);
                self.feed(Event::Changed(change));
            }
            Mail::RoutesBeat(beat) => self.feed(Event::RoutesBeat(beat)),
            Mail::Announced(told) => {
                for change in &told.changes {
                    if let EndpointChange::Down(gone) = change {
                        self.withdraw(*gone);
                    }
                }
                self.feed(Event::Announced(told));
            }
            Mail::AnnounceBeat(beat) => self.feed(Event::AnnounceBeat(beat)),
            Mail::Drain(drain) => {
                drain.endpoints.iter().for_each(|up| self.withdraw(up.instance));
                self.feed(Event::Drain(&drain));
            }
            Mail::Lost(lost) => self.feed(Event::Lost(lost)),
            Mail::Page(ask, page) => self.feed(Event::Page { ask, page }),
            Mail::Endpoints(ask, all) => self.feed(Event::Endpoints { ask, all }),
        }
    }

    fn withdraw(&mut self, instance: InstanceId) {
        let gone = self.gone.iter().filter(|(_, of)| **of == instance);
        self.withdrawn.extend(gone.map(|(addr, _)| *addr));
    }

    fn feed(&mut self, event: Event<'_>) {
        let effects = self.router.apply(event, self.now);
        let version = self.applied.commit(&self.router.join, effects.touched, &self.hub);
        for ask in effects.asks {
            match ask {
                Ask::Page(ask) => {
                    let page = self.a_view().page(ask.after);
                    self.send(Mail::Page(ask.ask, Some(page)));
                }
                Ask::Endpoints(ask) => {
                    let all = self.managers.get(&ask.im).map(Manager::all);
                    self.send(Mail::Endpoints(ask, all));
                }
            }
        }
        if version.is_some() {
            self.judge();
        }
    }

    // === the judge ===

    /// Holds at every moment.
    fn judge(&self) {
        let seed = self.seed;
        let table = self.hub.table().desired();
        for job in table.jobs.values() {
            for addr in &job.instances {
                assert!(!self.withdrawn.contains(addr), "seed {seed}: {addr} came back");
            }
        }
        for (job, revision) in &self.delivered {
            let shown = self.router.jobs.routes(*job).map(|routes| routes.revision);
            assert!(shown.is_none_or(|shown| shown >= *revision), "seed {seed}: {job} went back");
        }
        assert_eq!(table, self.router.join.desired(), "seed {seed}: changes differ from the whole");
    }

    /// Holds when the weather has been calm for long enough.
    fn judge_calm(&self) {
        let seed = self.seed;
        let truth = expected(&self.store.jobs, self.managers.values());
        assert_eq!(self.hub.table().desired(), truth, "seed {seed}: not the truth");
    }
}

fn copy(mail: &Mail) -> Option<Mail> {
    Some(match mail {
        Mail::Changed(change) => Mail::Changed(change.clone()),
        Mail::RoutesBeat(beat) => Mail::RoutesBeat(beat.clone()),
        Mail::Announced(told) => Mail::Announced(told.clone()),
        Mail::AnnounceBeat(beat) => Mail::AnnounceBeat(beat.clone()),
        Mail::Drain(drain) => Mail::Drain(drain.clone()),
        Mail::Lost(lost) => Mail::Lost(lost.clone()),
        Mail::Page(..) | Mail::Endpoints(..) => return None,
    })
}

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..LIVES,
    }
}

/// Goal: whatever the weather, nothing withdrawn comes back, changes made one by one are the whole, and two seconds after
/// the faults end the table is what the truth says.
#[test]
fn any_weather_ends_in_the_truth() {
    for seed in seeds() {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        // The dead are found by their health managers, which takes longer than the weather.
        world.calm = true;
        let mut waited = 0;
        while !world.dead.is_empty() && waited < 4 * BEAT_MS {
            world.beats();
            world.pass(BEAT_MS);
            waited += BEAT_MS;
        }
        world.calm = false;
        for _ in 0..STEPS / 4 {
            world.step_of_the_living();
        }
        world.calm = true;
        let phase = world.rng.below(BEAT_MS);
        world.pass(phase);
        world.beats();
        world.pass(BEAT_MS);
        if phase + 2 * BEAT_MS <= CALM_MS {
            world.beats();
        }
        world.pass(CALM_MS - BEAT_MS - phase);
        world.judge_calm();
    }
}

impl World {
    fn step_of_the_living(&mut self) {
        match self.rng.below(10) {
            0..3 => self.write_job(),
            3 => self.remove_job(),
            4..7 => self.start_instance(),
            7 | 8 => self.stop_instance(),
            _ => self.restart_manager(),
        }
        let pass = self.rng.below(60);
        self.pass(pass);
    }
}
