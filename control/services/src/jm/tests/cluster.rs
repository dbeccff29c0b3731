//! The whole job manager with a health manager and fake instance managers, in virtual time.

use super::fake::{Fake, Fate};
use super::job;
use crate::hm::{self, notes};
use crate::jm::leases::{SHARDS, SKEW_MS, TTL_MS};
use crate::jm::{self, Running, Settings};
use crate::jobs::{self, Guards};
use bus::{Bus, Clock, Next, Sender};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::{Listing, Record, Store, StoreError, Watch, Write};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire::job::{JobPackage, RestartMode, RolloutMode, Route, RouteKind};
use wire::routing::{RoutesBeat, RoutesChanged, RoutesPage, RoutesPageRequest};
use wire::{Job, JobId, JobState, Package, PackageId, PackageState, subject};

struct Cluster {
    bus: Bus,
    store: Store,
    ims: Vec<Fake>,
    jms: Vec<(Running, CancellationToken)>,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Cluster {
    /// Scores of the instance managers; one job manager.
    async fn new(scores: &[f64]) -> Self {
        Self::with_tags(scores, &[]).await
    }

    async fn with_tags(scores: &[f64], tags: &[&str]) -> Self {
        Self::over(store::memory::store(), scores, tags).await
    }

    async fn over(store: Store, scores: &[f64], tags: &[&str]) -> Self {
        let clock = Clock::starting_at(1_700_000_000_000);
        let bus = Bus::new(bus::local::Local::new(), Sender::new("test", "test"), clock);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let ims: Vec<_> =
            (1..).zip(scores).map(|(n, score)| Fake::new(&bus, n, *score, tags)).collect();
        for im in &ims {
            tasks.spawn(im.clone().run());
        }
        let speaker = bus.speaking_as(Sender::new("hm", "1"));
        let hm = hm::start(hm::Settings::default(), speaker, store.clone(), stop.clone()).unwrap();
        tasks.spawn(hm.ended());
        let mut cluster = Self { bus, store, ims, jms: Vec::new(), stop, _tasks: tasks };
        cluster.add_jm("1");
        cluster
    }

    fn add_jm(&mut self, id: &str) {
        let stop = self.stop.child_token();
        // Ids come from the seed: no two may have the same.
        let seed = id.parse().ok();
        let settings = Settings { seed, ..Settings::default() };
        let bus = self.bus.speaking_as(Sender::new("jm", id));
        let running = jm::start(settings, bus, self.store.clone(), stop.clone()).unwrap();
        self.jms.push((running, stop));
    }

    async fn create(&self, job: &Job) {
        let mut job = job.clone();
        jobs::validate(&mut job).unwrap();
        self.store.commit(&jobs::create(&job, &Guards::default()).unwrap()).await.unwrap();
    }

    async fn read(&self, job: JobId) -> Job {
        jobs::decode(&self.store.get(&jobs::job_key(job)).await.unwrap().unwrap()).unwrap()
    }

    async fn update(&self, job: JobId, restart: bool, change: impl Fn(&mut Job)) -> u64 {
        let old = self.read(job).await;
        let mut new = old.clone();
        change(&mut new);
        jobs::succeed(&old, &mut new, restart);
        self.store.commit(&jobs::update(&old, &new, &Guards::default()).unwrap()).await.unwrap()
    }

    /// Live instances of a job, by instance manager.
    fn live(&self, job: JobId) -> Vec<usize> {
        self.ims.iter().map(|im| im.live(job).len()).collect()
    }

    fn versions(&self, job: JobId) -> Vec<u64> {
        let mut versions: Vec<_> = self.ims.iter().flat_map(|im| im.live(job)).collect();
        versions.sort_unstable();
        versions
    }

    fn serving(&self, job: JobId) -> usize {
        self.ims.iter().map(|im| im.serving(job)).sum()
    }

    /// Looks every 2 ms of virtual time until `is` holds; how long that took. `always` must hold at each look.
    async fn until(
        &self,
        what: &str,
        limit: Duration,
        is: impl Fn(&Self) -> bool,
        always: impl Fn(&Self) -> bool,
    ) -> Duration {
        let start = tokio::time::Instant::now();
        while !is(self) {
            assert!(always(self), "{what}: a bound was broken after {:?}", start.elapsed());
            assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        start.elapsed()
    }

    async fn soon(&self, what: &str, is: impl Fn(&Self) -> bool) -> Duration {
        self.until(what, Duration::from_secs(20), is, |_| true).await
    }

    /// Waits until the job's notes hold a text, and gives them.
    async fn noted(&self, job: JobId, text: &str, limit: Duration) -> Vec<String> {
        let start = tokio::time::Instant::now();
        loop {
            let notes = notes::read(&self.store, job).await.unwrap().notes;
            let notes: Vec<_> = notes.into_iter().map(|note| note.text).collect();
            if notes.iter().any(|note| note.contains(text)) {
                return notes;
            }
            assert!(start.elapsed() < limit, "{text} is not among {notes:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn state(&self, job: JobId, state: JobState, limit: Duration) {
        let start = tokio::time::Instant::now();
        while self.read(job).await.state != state {
            assert!(start.elapsed() < limit, "not {} within {limit:?}", state.as_str());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Nothing happens for this long.
    async fn quiet(&self, job: JobId, time: Duration) {
        let (live, starts) = (self.live(job), self.starts());
        tokio::time::sleep(time).await;
        assert_eq!((self.live(job), self.starts()), (live, starts));
    }

    fn starts(&self) -> usize {
        self.ims.iter().map(Fake::starts).sum()
    }
}

/// A store that can be away.
struct Flaky(Store, Arc<AtomicBool>);

impl Flaky {
    fn there(&self) -> Result<&Store, StoreError> {
        if self.1.load(Ordering::Relaxed) {
            return Err(StoreError::Away("a test".to_owned()));
        }
        Ok(&self.0)
    }
}

#[async_trait::async_trait]
impl store::World for Flaky {
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        self.there()?.get(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Listing, StoreError> {
        self.there()?.list(prefix, after, limit).await
    }

    async fn commit(&self, writes: &[Write]) -> Result<u64, StoreError> {
        self.there()?.commit(writes).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, StoreError> {
        self.there()?.watch(prefix, after).await
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        self.there()?.revision().await
    }
}

/// Goal: while the store is away nobody may act; what failed meanwhile is replaced when it is back, without a hint.
#[tokio::test(start_paused = true)]
async fn a_store_that_was_away_is_made_up_for() {
    let away = Arc::new(AtomicBool::new(false));
    let store = Store::new(Arc::new(Flaky(store::memory::store(), Arc::clone(&away))));
    let cluster = Cluster::over(store, &[0.0], &[]).await;
    cluster.ims[0].fate(id(1), Fate::Ends(15_000, true));
    cluster.create(&job(1, 2, RolloutMode::StopAll)).await;
    cluster.soon("two run", |c| c.serving(id(1)) == 2).await;
    cluster.ims[0].fate(id(1), Fate::Runs);
    away.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((cluster.serving(id(1)), cluster.starts()), (0, 2));
    assert!(cluster.jms[0].0.shards().is_empty());
    away.store(false, Ordering::Relaxed);
    let took = cluster.soon("replaced", |c| c.serving(id(1)) == 2).await;
    assert!(took < Duration::from_secs(6), "{took:?}");
}

fn id(n: u128) -> JobId {
    JobId(Uuid::from_u128(n))
}

/// Goal: three copies go where they cost least, soon, and then nothing more happens; more are placed, fewer are given
/// up, a stopped and a deleted job leave nothing.
#[tokio::test(start_paused = true)]
async fn an_app_of_three_is_placed_by_the_lowest_score() {
    let cluster = Cluster::new(&[0.0, 30.0, 90.0]).await;
    cluster.create(&job(1, 3, RolloutMode::StopAll)).await;
    let took = cluster.soon("three run", |c| c.serving(id(1)) == 3).await;
    assert_eq!(cluster.live(id(1)), [2, 1, 0]);
    assert!(took < Duration::from_secs(3), "{took:?}");
    cluster.quiet(id(1), Duration::from_secs(120)).await;
    cluster.update(id(1), false, |job| job.num_instances = 6).await;
    let took = cluster.soon("six run", |c| c.serving(id(1)) == 6).await;
    assert!(took < Duration::from_millis(400), "{took:?}");
    cluster.soon("all know the version", |c| c.versions(id(1)) == [2; 6]).await;
    cluster.update(id(1), false, |job| job.num_instances = 2).await;
    cluster.soon("two are left", |c| c.versions(id(1)).len() == 2).await;
    cluster.quiet(id(1), Duration::from_secs(60)).await;
    cluster.update(id(1), false, |job| job.state = JobState::Stopped).await;
    cluster.soon("stopped", |c| c.versions(id(1)).is_empty()).await;
    cluster.create(&job(2, 2, RolloutMode::StopAll)).await;
    cluster.soon("another runs", |c| c.serving(id(2)) == 2).await;
    let now_ms = cluster.bus.clock().unix_ms();
    let gone = jobs::delete(&cluster.read(id(2)).await, &Guards::default(), now_ms).unwrap();
    cluster.store.commit(&gone).await.unwrap();
    cluster.soon("deleted", |c| c.versions(id(2)).is_empty()).await;
    tokio::time::sleep(Duration::from_millis(jm::DELETED_KEPT_MS + 120_000)).await;
    assert_eq!(cluster.store.get(&jobs::deleted_key(id(2))).await.unwrap(), None);
}

/// Goal: a tag that nobody has keeps the job waiting, is told once with the reason, and is no matter any more when
/// somebody has it.
#[tokio::test(start_paused = true)]
async fn nobody_with_the_tag_is_told_once() {
    let cluster = Cluster::with_tags(&[0.0], &["ssd"]).await;
    let mut wanted = job(1, 1, RolloutMode::StopAll);
    wanted.hard_scheduling_tags.insert("gpu".to_owned(), true);
    cluster.create(&wanted).await;
    let mut log = cluster.bus.subscribe(&subject::log_note(id(1)), None).await.unwrap();
    let text = "no placement: no instance manager has the tag \"gpu\"";
    cluster.noted(id(1), text, Duration::from_secs(40)).await;
    let Some(Next::Message(line)) = log.next().await else { panic!("no line") };
    let line: wire::logs::LogLine = line.decode().unwrap();
    assert_eq!(line.shown(), format!("[system-error] {text}"));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(cluster.noted(id(1), text, Duration::ZERO).await.len(), 1);
    cluster
        .update(id(1), false, |job| job.hard_scheduling_tags = [("ssd".to_owned(), true)].into())
        .await;
    cluster.soon("placed", |c| c.serving(id(1)) == 1).await;
}

/// Goal: a rolling update replaces every instance, never has more than one beyond the wanted number, and never fewer
/// serving.
#[tokio::test(start_paused = true)]
async fn a_rolling_update_never_serves_less() {
    let cluster = Cluster::new(&[0.0, 5.0, 10.0]).await;
    cluster.create(&job(1, 4, RolloutMode::Rolling)).await;
    cluster.soon("four run", |c| c.serving(id(1)) == 4).await;
    cluster.update(id(1), true, |_| ()).await;
    let bounds = |c: &Cluster| c.versions(id(1)).len() <= 5 && c.serving(id(1)) >= 4;
    let limit = Duration::from_secs(20);
    cluster.until("all are new", limit, |c| c.versions(id(1)) == [2; 4], bounds).await;
    cluster.quiet(id(1), Duration::from_secs(60)).await;
}

/// Goal: a rolling update to something broken is given up; the old ones serve on; a better version then gets through.
#[tokio::test(start_paused = true)]
async fn a_broken_rolling_update_leaves_the_old_ones() {
    let cluster = Cluster::new(&[0.0, 5.0]).await;
    cluster.create(&job(1, 2, RolloutMode::Rolling)).await;
    cluster.soon("two run", |c| c.serving(id(1)) == 2).await;
    cluster.ims.iter().for_each(|im| im.fate(id(1), Fate::Ends(0, true)));
    // A process that ends as soon as it runs may be taken for a successor; the next one must not be.
    cluster.update(id(1), false, |job| job.resources.cpu = 1).await;
    cluster.noted(id(1), "is given up", Duration::from_secs(60)).await;
    assert!(cluster.versions(id(1)).contains(&1), "{:?}", cluster.versions(id(1)));
    cluster.ims.iter().for_each(|im| im.fate(id(1), Fate::Runs));
    cluster.update(id(1), false, |job| job.resources.cpu = 2).await;
    cluster
        .soon("the better one runs", |c| c.versions(id(1)) == [3, 3] && c.serving(id(1)) == 2)
        .await;
}

/// Goal: a stop-all update never mixes versions and never has more than wanted.
#[tokio::test(start_paused = true)]
async fn a_stop_all_update_does_not_mix() {
    let cluster = Cluster::new(&[0.0, 5.0]).await;
    cluster.create(&job(1, 3, RolloutMode::StopAll)).await;
    cluster.soon("three run", |c| c.serving(id(1)) == 3).await;
    cluster.update(id(1), true, |_| ()).await;
    let bounds = |c: &Cluster| {
        let versions = c.versions(id(1));
        versions.len() <= 3 && versions.first() == versions.last()
    };
    let done = |c: &Cluster| c.versions(id(1)) == [2; 3] && c.serving(id(1)) == 3;
    let took = cluster.until("all are new", Duration::from_secs(20), done, bounds).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Goal: an instance manager that falls silent is replaced; when it comes back with its instances, the surplus goes.
#[tokio::test(start_paused = true)]
async fn a_partition_ends_in_the_wanted_number() {
    let cluster = Cluster::new(&[0.0, 5.0]).await;
    cluster.create(&job(1, 4, RolloutMode::StopAll)).await;
    cluster.soon("four run", |c| c.serving(id(1)) == 4).await;
    assert_eq!(cluster.live(id(1)), [2, 2]);
    cluster.ims[0].away(true);
    let limit = Duration::from_secs(40);
    cluster.until("replaced", limit, |c| c.ims[1].serving(id(1)) == 4, |_| true).await;
    assert_eq!(cluster.live(id(1)), [2, 4]);
    cluster.ims[0].away(false);
    cluster.soon("no surplus", |c| c.versions(id(1)).len() == 4).await;
    cluster.quiet(id(1), Duration::from_secs(120)).await;
}

/// Goal: a job that fails again and again waits longer each time, flaps, and is errored after its attempts; started
/// again it begins anew.
#[tokio::test(start_paused = true)]
async fn a_job_that_only_fails_is_errored() {
    let cluster = Cluster::new(&[0.0]).await;
    let mut wanted = job(1, 1, RolloutMode::StopAll);
    wanted.restart.maximum_attempts = 4;
    cluster.ims[0].fate(id(1), Fate::Ends(10, true));
    cluster.create(&wanted).await;
    cluster.state(id(1), JobState::Errored, Duration::from_secs(30)).await;
    assert_eq!(cluster.starts(), 4);
    let said = cluster.noted(id(1), "is errored", Duration::from_secs(5)).await;
    let flaps =
        "\"job::/sandbox/admin::app1\" now considered flapping, having failed 3 times within 5m0s";
    assert!(said.iter().any(|note| note == flaps), "{said:?}");
    cluster.quiet(id(1), Duration::from_secs(120)).await;
    cluster.ims[0].fate(id(1), Fate::Runs);
    cluster.update(id(1), false, |job| job.state = JobState::Started).await;
    cluster.soon("runs again", |c| c.serving(id(1)) == 1).await;
}

/// Goal: a job that is not to be restarted runs each copy once, and is finished.
#[tokio::test(start_paused = true)]
async fn a_job_that_runs_to_its_end_is_finished() {
    let cluster = Cluster::new(&[0.0, 5.0]).await;
    let mut wanted = job(1, 3, RolloutMode::StopAll);
    wanted.restart.restart_mode = RestartMode::No;
    cluster.ims.iter().for_each(|im| im.fate(id(1), Fate::Ends(500, false)));
    cluster.create(&wanted).await;
    cluster.state(id(1), JobState::Finished, Duration::from_secs(20)).await;
    cluster.quiet(id(1), Duration::from_secs(120)).await;
    assert_eq!(cluster.starts(), 3);
}

/// Goal: a job waits for its package, says so once, and starts when the package is there.
#[tokio::test(start_paused = true)]
async fn a_job_waits_for_its_package() {
    let cluster = Cluster::new(&[0.0]).await;
    let mut wanted = job(1, 1, RolloutMode::StopAll);
    let uuid = PackageId(Uuid::from_u128(77));
    wanted.packages.push(JobPackage {
        uuid,
        install_path: None,
        state: None,
        source: None,
        extra: std::collections::BTreeMap::new(),
    });
    let mut package: Package = serde_json::from_str(r#"{"fqn":"package::/a::files"}"#).unwrap();
    (package.uuid, package.state) = (uuid, PackageState::Uploading);
    let put = |package: &Package| Write::Put {
        key: jobs::package_key(uuid),
        value: serde_json::to_vec(package).unwrap().into(),
        expect: store::Expect::Any,
    };
    cluster.store.commit(&[put(&package)]).await.unwrap();
    cluster.create(&wanted).await;
    let text = "waiting for \"package::/a::files\", which is uploading";
    cluster.noted(id(1), text, Duration::from_secs(5)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.noted(id(1), text, Duration::ZERO).await.len(), 1);
    package.state = PackageState::Ready;
    cluster.store.commit(&[put(&package)]).await.unwrap();
    cluster.soon("runs", |c| c.serving(id(1)) == 1).await;
}

/// Goal: two job managers share the shards; when one is killed in the middle of its work, the other takes over after
/// the leases end, and no instance is placed twice.
#[tokio::test(start_paused = true)]
async fn a_killed_job_manager_is_replaced_without_double_placement() {
    /// More than one round.
    const COPIES: u8 = 100;
    let mut cluster = Cluster::new(&[0.0, 5.0, 10.0]).await;
    cluster.add_jm("2");
    let shared = |c: &Cluster| c.jms.iter().all(|(jm, _)| jm.shards().len() == SHARDS / 2);
    cluster.soon("the shards are shared", shared).await;
    // One job in each shard.
    let all: Vec<_> =
        (0..SHARDS as u128).map(|shard| JobId(Uuid::from_u128(shard << 120 | 1))).collect();
    for (n, id) in (1..).zip(&all) {
        let mut wanted = job(n, COPIES.into(), RolloutMode::StopAll);
        wanted.uuid = *id;
        cluster.create(&wanted).await;
    }
    cluster.soon("some have started", |c| c.starts() > 0).await;
    assert!(cluster.starts() < usize::from(COPIES) * SHARDS, "the work is not done yet");
    let orphaned = cluster.jms[0].0.shards();
    drop(cluster.jms.remove(0));
    let bounds = |c: &Cluster| all.iter().all(|job| c.versions(*job).len() <= COPIES.into());
    let done = |c: &Cluster| all.iter().all(|job| c.serving(*job) == usize::from(COPIES));
    let took = cluster.until("all run", Duration::from_secs(20), done, bounds).await;
    assert!(took < Duration::from_millis(2 * TTL_MS), "{took:?}");
    assert_eq!(cluster.jms[0].0.shards().len(), SHARDS);
    assert_eq!(orphaned.len(), SHARDS / 2);
    for job in &all {
        cluster.quiet(*job, Duration::from_secs(20)).await;
    }
    assert_eq!(cluster.starts(), usize::from(COPIES) * SHARDS, "something was started twice");
}

/// Goal: wherever in its period a job manager is killed, its shards are held again when its leases end, not a period of
/// the other one later.
#[tokio::test(start_paused = true)]
async fn shards_wait_for_the_end_of_the_lease_only() {
    for phase in 0..5 {
        let mut cluster = Cluster::new(&[0.0]).await;
        tokio::time::sleep(Duration::from_millis(10_000 + 300 * phase)).await;
        cluster.add_jm("2");
        let shared = |c: &Cluster| c.jms.iter().all(|(jm, _)| jm.shards().len() == SHARDS / 2);
        cluster.soon("the shards are shared", shared).await;
        tokio::time::sleep(Duration::from_millis(10_000 + 700 * phase)).await;
        drop(cluster.jms.remove(0));
        let all = |c: &Cluster| c.jms[0].0.shards().len() == SHARDS;
        let limit = Duration::from_secs(20);
        let took = cluster.until("the other holds all", limit, all, |_| true).await;
        let most = Duration::from_millis(TTL_MS + SKEW_MS + 100);
        assert!(took <= most, "{took:?} in phase {phase}");
    }
}

/// Goal: an orderly stop gives the leases back, so that another one begins at once.
#[tokio::test(start_paused = true)]
async fn an_orderly_stop_gives_the_leases_back() {
    let mut cluster = Cluster::new(&[0.0]).await;
    cluster.soon("one holds all", |c| c.jms[0].0.shards().len() == SHARDS).await;
    let (running, stop) = cluster.jms.remove(0);
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), running.ended()).await.unwrap();
    assert!(cluster.store.list("leases/", None, 10).await.unwrap().records.is_empty());
    cluster.add_jm("2");
    let took = cluster.soon("the other holds all", |c| c.jms[0].0.shards().len() == SHARDS).await;
    assert!(took < Duration::from_millis(100), "{took:?}");
}

/// Goal: a job manager that looks for a place which nobody offers ends at once, and begins nothing.
#[tokio::test(start_paused = true)]
async fn an_end_does_not_wait_for_offers() {
    let mut cluster = Cluster::with_tags(&[0.0], &["ssd"]).await;
    let mut asked = cluster.bus.subscribe(subject::IM_BID, None).await.unwrap();
    let mut wanted = job(1, 1, RolloutMode::StopAll);
    wanted.hard_scheduling_tags.insert("gpu".to_owned(), true);
    cluster.create(&wanted).await;
    assert!(matches!(asked.next().await, Some(Next::Message(_))));
    let (running, stop) = cluster.jms.remove(0);
    let asked_to_end = tokio::time::Instant::now();
    stop.cancel();
    running.ended().await;
    assert!(asked_to_end.elapsed() < Duration::from_millis(50), "{:?}", asked_to_end.elapsed());
    assert_eq!(cluster.starts(), 0);
}

/// Goal: routers hear of each change at once, with the revision of its write and the one before; the beat's digest and
/// the pages agree with it.
#[tokio::test(start_paused = true)]
async fn routes_are_published() {
    let cluster = Cluster::new(&[0.0]).await;
    let mut changes = cluster.bus.subscribe(subject::ROUTES_CHANGED, None).await.unwrap();
    let mut beats = cluster.bus.subscribe(subject::ROUTES_BEAT, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut wanted = job(1, 1, RolloutMode::StopAll);
    wanted.ports[0].routes.push(Route {
        kind: RouteKind::Http,
        endpoint: "a.example.com".to_owned(),
        weight: 0.0,
        https_only: false,
        extra: std::collections::BTreeMap::new(),
    });
    cluster.create(&wanted).await;
    let revision = cluster.update(id(1), false, |job| job.ports[0].routes[0].weight = 30.0).await;
    let mut previous = 0;
    for weight in [0.0, 30.0] {
        let Some(Next::Message(message)) = changes.next().await else { panic!("no change") };
        let changed: RoutesChanged = message.decode().unwrap();
        assert_eq!(changed.routes.unwrap().routes[0].weight, weight);
        assert!(changed.previous >= previous && changed.previous < changed.revision);
        previous = changed.revision;
    }
    assert_eq!(previous, revision);
    let page: RoutesPage = cluster
        .bus
        .request(subject::ROUTES_PAGE, &RoutesPageRequest::default(), Duration::from_secs(1))
        .await
        .unwrap();
    let digest = wire::digest::Digest::of([page.jobs[0].digest_bytes().as_slice()]);
    assert_eq!((page.revision, page.next), (revision, None));
    loop {
        let Some(Next::Message(message)) = beats.next().await else { panic!("no beat") };
        let beat: RoutesBeat = message.decode().unwrap();
        if beat.revision == revision {
            assert_eq!(beat.digest, digest);
            break;
        }
    }
}
