//! Several health managers on one simulated bus, in virtual time: who is lost is agreed once, notes are said once.

use super::tests::{Im, failed, im, instance, job, running};
use super::*;
use async_trait::async_trait;
use bus::sim::{Sim, Weather};
use bus::{Clock, Next, Sender};
use std::sync::atomic::{AtomicBool, Ordering};
use store::{Expect, Listing, Record, StoreError, Watch, World, Write};
use wire::health::{ImView, JobView, Look, Lost, View, ViewRequest};
use wire::logs::LogLine;
use wire::{InstanceState, Job, JobId, JobState, subject};

/// A cluster of health managers and instance managers that beat by themselves.
struct Cluster {
    sim: Sim,
    store: Store,
    away: Arc<AtomicBool>,
    stop: CancellationToken,
    clock: Clock,
}

/// A store that is away when told so.
struct Gate {
    inner: Store,
    away: Arc<AtomicBool>,
}

impl Gate {
    fn open(&self) -> Result<(), StoreError> {
        let away = self.away.load(Ordering::SeqCst);
        if away { Err(StoreError::Away("for a test".to_owned())) } else { Ok(()) }
    }
}

#[async_trait]
impl World for Gate {
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        self.open()?;
        self.inner.get(key).await
    }

    async fn list(&self, p: &str, a: Option<&str>, limit: u32) -> Result<Listing, StoreError> {
        self.open()?;
        self.inner.list(p, a, limit).await
    }

    async fn commit(&self, writes: &[Write]) -> Result<u64, StoreError> {
        self.open()?;
        self.inner.commit(writes).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, StoreError> {
        self.open()?;
        self.inner.watch(prefix, after).await
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        self.open()?;
        self.inner.revision().await
    }
}

impl Cluster {
    fn new(seed: u64, weather: Weather) -> Self {
        let away = Arc::new(AtomicBool::new(false));
        let gate = Gate { inner: store::memory::store(), away: Arc::clone(&away) };
        Self {
            sim: Sim::new(seed, weather),
            store: Store::new(Arc::new(gate)),
            away,
            stop: CancellationToken::new(),
            clock: Clock::starting_at(1_000_000_000),
        }
    }

    fn bus(&self, node: &str) -> Bus {
        Bus::new(self.sim.node(node), Sender::new("test", node), self.clock.clone())
    }

    fn hm(&self, node: &str) -> Running {
        let bus = self.bus(node);
        start(Settings::default(), bus, self.store.clone(), self.stop.clone()).unwrap()
    }

    /// An instance manager that beats and reports until its token is cancelled.
    fn im(&self, node: &str, im: Im) -> Beating {
        let im = Arc::new(Mutex::new(im));
        let stop = self.stop.child_token();
        let (bus, of) = (self.bus(node), Arc::clone(&im));
        let life = async move {
            let mut asked = bus.subscribe(subject::IM_REPORT, None).await.unwrap();
            let mut tick = tokio::time::interval(Duration::from_millis(BEAT_MS));
            loop {
                tokio::select! {
                    _ = tick.tick() => {
                        let beat = lock(&of).beat();
                        drop(bus.publish(subject::IM_BEAT, &beat).await);
                    }
                    next = asked.next() => if let Some(Next::Message(message)) = next {
                        let beat = lock(&of).beat();
                        drop(message.reply(&beat).await);
                    }
                }
            }
        };
        let ending = stop.clone();
        tokio::spawn(async move { ending.run_until_cancelled(life).await });
        Beating { im, stop, bus: self.bus(node) }
    }

    async fn record(&self, id: wire::ImId) -> Option<(Agreement, u64)> {
        let record = self.store.get(&format!("ims/{id}")).await.unwrap()?;
        Some((serde_json::from_slice(&record.value).unwrap(), record.version))
    }

    async fn put_job(&self, id: JobId, job: &Job) {
        let value = serde_json::to_vec(job).unwrap().into();
        let put = Write::Put { key: format!("jobs/{id}"), value, expect: Expect::Any };
        self.store.commit(&[put]).await.unwrap();
    }

    /// Everything published on a subject from now on.
    async fn hear<T: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        subject: &str,
    ) -> Arc<Mutex<Vec<T>>> {
        let heard: Arc<Mutex<Vec<T>>> = Arc::default();
        let mut subscription = self.bus("listener").subscribe(subject, None).await.unwrap();
        let to = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Some(next) = subscription.next().await {
                if let Next::Message(message) = next {
                    lock(&to).push(message.decode().unwrap());
                }
            }
        });
        heard
    }
}

struct Beating {
    im: Arc<Mutex<Im>>,
    stop: CancellationToken,
    bus: Bus,
}

impl Beating {
    async fn switch(&self, seen: wire::health::InstanceSeen, ended: Option<wire::health::Ended>) {
        let switch = lock(&self.im).switch(seen, ended);
        self.bus.publish(subject::IM_SWITCH, &switch).await.unwrap();
    }
}

impl Running {
    fn view(&self, of: JobId) -> JobView {
        let request = ViewRequest { jobs: vec![of], ims: false };
        self.seen.seen().view(&request, 0).jobs.remove(&of).unwrap()
    }

    fn ims(&self) -> Vec<ImView> {
        let request = ViewRequest { jobs: Vec::new(), ims: true };
        self.seen.seen().view(&request, 0).ims
    }

    fn lost(&self) -> usize {
        self.ims().iter().filter(|im| im.lost).count()
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Goal: two health managers declare a lost instance manager once: one write, both agree, routers are told every beat;
/// when it comes back, its instances count again and that is written once as well.
#[tokio::test(start_paused = true)]
async fn a_loss_is_agreed_once() {
    for seed in 0..8 {
        let weather = if seed == 0 { Weather::CALM } else { Weather::STORM };
        let cluster = Cluster::new(seed, weather);
        let losses = cluster.hear::<Lost>(subject::HM_LOST).await;
        let mut one = Im::new(im(1), 100);
        one.switch(running(instance(1), job(1), InstanceState::Running), None);
        let one = cluster.im("im1", one);
        let _two = cluster.im("im2", Im::new(im(2), 100));
        let (a, b) = (cluster.hm("hm1"), cluster.hm("hm2"));
        pass(20).await;
        for hm in [&a, &b] {
            assert!(hm.complete() && hm.lost() == 0 && hm.ims().len() == 2, "seed {seed}");
            assert_eq!(hm.view(job(1)).instances.len(), 1);
        }
        assert_eq!(cluster.record(im(1)).await.unwrap().1, 1, "seed {seed}");
        assert!(lock(&losses).is_empty());

        one.stop.cancel();
        pass(22).await;
        for hm in [&a, &b] {
            assert!(hm.complete() && hm.lost() == 1, "seed {seed}");
            assert!(hm.view(job(1)).instances.is_empty());
        }
        let (agreement, version) = cluster.record(im(1)).await.unwrap();
        assert_eq!(
            (agreement.lost, agreement.start_time_ms, version),
            (true, 100, 2),
            "seed {seed}"
        );
        pass(50).await;
        assert_eq!(cluster.record(im(1)).await.unwrap().1, 2, "seed {seed}");
        assert_eq!(cluster.record(im(2)).await.unwrap().1, 1, "seed {seed}");
        let told = lock(&losses).clone();
        assert!(
            told.len() >= 8 && told.iter().all(|lost| lost.im == im(1)),
            "seed {seed}: {told:?}"
        );

        let again = Arc::into_inner(one.im);
        let again =
            again.map_or_else(|| panic!("the old life ended"), |im| im.into_inner().unwrap());
        let _again = cluster.im("im1", again);
        pass(20).await;
        for hm in [&a, &b] {
            assert_eq!((hm.lost(), hm.view(job(1)).instances.len()), (0, 1), "seed {seed}");
        }
        let (agreement, version) = cluster.record(im(1)).await.unwrap();
        assert_eq!((agreement.lost, version), (false, 3), "seed {seed}");
        cluster.stop.cancel();
        a.ended().await;
        b.ended().await;
    }
}

/// Goal: a farewell needs no three beats.
#[tokio::test(start_paused = true)]
async fn a_farewell_is_told_at_once() {
    let cluster = Cluster::new(1, Weather::CALM);
    let one = cluster.im("im1", Im::new(im(1), 100));
    let (a, b) = (cluster.hm("hm1"), cluster.hm("hm2"));
    pass(6).await;
    let losses = cluster.hear::<Lost>(subject::HM_LOST).await;
    one.stop.cancel();
    let mut last = lock(&one.im).beat();
    last.leaving = true;
    one.bus.publish(subject::IM_BEAT, &last).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((a.lost(), b.lost()), (1, 1));
    assert!(lock(&losses).contains(&Lost { im: im(1), start_time_ms: 100 }));
    cluster.stop.cancel();
}

/// Goal: a health manager that is cut off, and knows or does not know it, declares nobody lost; nor does it right after
/// it hears again.
#[tokio::test(start_paused = true)]
async fn who_cannot_hear_declares_nobody() {
    for knows in [true, false] {
        let cluster = Cluster::new(1, Weather::CALM);
        let _ims: Vec<_> =
            (1..4).map(|n| cluster.im(&format!("im{n}"), Im::new(im(n), 100))).collect();
        let hm = cluster.hm("hm1");
        pass(10).await;
        assert!(hm.complete());
        if knows {
            cluster.sim.isolate("hm1");
            pass(120).await;
            assert_eq!(hm.lost(), 0, "away");
            cluster.sim.heal();
        } else {
            // The process stood still; the beats are in its queues, its timers are late.
            let late = hm.seen.now_ms() - 60_000;
            lock(&hm.seen.seen).ims.values_mut().for_each(|im| im.heard_ms = Some(late));
        }
        pass(30).await;
        assert_eq!((hm.lost(), hm.complete()), (0, true), "knows {knows}");
        for number in 1..4 {
            assert_eq!(cluster.record(im(number)).await.unwrap().1, 1);
        }
        cluster.stop.cancel();
        hm.ended().await;
    }
}

/// Goal: a job that crashes three times is noted once, byte for byte, however many health managers saw it; both call it
/// flapping until the window is over.
#[tokio::test(start_paused = true)]
async fn flapping_is_said_once() {
    let cluster = Cluster::new(3, Weather::CALM);
    let notes = cluster.hear::<LogLine>(&subject::log_note(job(1))).await;
    let mut web = Job::named("job::/sandbox/admin::x".parse().unwrap());
    web.state = JobState::Started;
    cluster.put_job(job(1), &web).await;
    let one = cluster.im("im1", Im::new(im(1), 100));
    let (a, b) = (cluster.hm("hm1"), cluster.hm("hm2"));
    pass(6).await;
    for crash in 1..=4 {
        let id = instance(crash);
        one.switch(running(id, job(1), InstanceState::Running), None).await;
        pass(1).await;
        let at_ms = cluster.clock.unix_ms();
        let gone = running(id, job(1), InstanceState::Removed);
        one.switch(gone, Some(failed(id, job(1), at_ms))).await;
        pass(1).await;
        let flaps = crash >= 3;
        assert_eq!((a.view(job(1)).flapping, b.view(job(1)).flapping), (flaps, flaps), "{crash}");
    }
    let said: Vec<_> = lock(&notes).iter().map(LogLine::shown).collect();
    let line = "[system-error] \"job::/sandbox/admin::x\" now considered flapping, having failed 3 times within 5m0s";
    assert_eq!(said, [line]);
    let kept = notes::read(&cluster.store, job(1)).await.unwrap();
    assert_eq!(kept.notes[0].line(job(1)), lock(&notes)[0]);
    assert_eq!(a.view(job(1)).flapping_since_ms, kept.flapping_since_ms);
    assert_eq!(b.view(job(1)).flapping_since_ms, kept.flapping_since_ms);
    pass(320).await;
    assert_eq!((a.view(job(1)).flapping, b.view(job(1)).flapping), (false, false));
    assert_eq!(notes::read(&cluster.store, job(1)).await.unwrap().flapping_since_ms, None);
    assert_eq!(lock(&notes).len(), 1);
    // A third health manager that comes later learns it from the store.
    notes::change(&cluster.store, &cluster.bus("jm"), job(2), |notes| {
        notes.flapping_since_ms = Some(7);
        true
    })
    .await
    .unwrap();
    let late = cluster.hm("hm3");
    pass(1).await;
    assert_eq!(late.view(job(2)).flapping_since_ms, Some(7));
    cluster.stop.cancel();
}

/// Goal: a change is told within ten milliseconds, many changes in few messages, and the answer has it by then.
#[tokio::test(start_paused = true)]
async fn changes_are_told_together() {
    let cluster = Cluster::new(1, Weather::CALM);
    let looks = cluster.hear::<Look>(subject::HM_LOOK).await;
    let one = cluster.im("im1", Im::new(im(1), 100));
    let hm = cluster.hm("hm1");
    pass(6).await;
    lock(&looks).clear();
    for number in 0..200 {
        one.switch(running(instance(number), job(number % 50), InstanceState::Running), None).await;
    }
    // One millisecond in the air each way, at most ten to gather.
    tokio::time::sleep(Duration::from_millis(12)).await;
    let told = lock(&looks).clone();
    assert!(told.len() <= 2, "{}", told.len());
    let jobs: Changed = told.into_iter().flat_map(|look| look.jobs).collect();
    assert_eq!(jobs.len(), 50);
    let request = ViewRequest { jobs: vec![job(0)], ims: true };
    let wait = Duration::from_secs(1);
    let view: View = cluster.bus("jm").request(subject::HM_VIEW, &request, wait).await.unwrap();
    assert_eq!((view.complete, view.jobs[&job(0)].instances.len(), view.ims.len()), (true, 4, 1));
    lock(&looks).clear();
    pass(30).await;
    assert!(lock(&looks).is_empty(), "beats without news wake nobody");
    drop(hm);
    cluster.stop.cancel();
}

/// Goal: while the store is away, questions are answered and nobody is called lost; when it is back, the loss is
/// written. A health manager that starts without a store never calls itself complete.
#[tokio::test(start_paused = true)]
async fn the_store_may_be_away() {
    let cluster = Cluster::new(1, Weather::CALM);
    let one = cluster.im("im1", Im::new(im(1), 100));
    let _two = cluster.im("im2", Im::new(im(2), 100));
    let hm = cluster.hm("hm1");
    pass(6).await;
    cluster.away.store(true, Ordering::SeqCst);
    one.stop.cancel();
    let late = cluster.hm("hm2");
    pass(60).await;
    assert_eq!((hm.lost(), hm.complete(), late.complete()), (0, true, false));
    let nothing = ViewRequest::default();
    let wait = Duration::from_secs(1);
    cluster.bus("jm").request::<_, View>(subject::HM_VIEW, &nothing, wait).await.unwrap();
    cluster.away.store(false, Ordering::SeqCst);
    pass(30).await;
    assert_eq!((hm.lost(), late.lost(), late.complete()), (1, 1, true));
    assert_eq!(cluster.record(im(1)).await.unwrap().1, 2);
    cluster.stop.cancel();
}

/// Goal: an instance manager that only the store knows keeps a new health manager from being complete until it is heard
/// or lost.
#[tokio::test(start_paused = true)]
async fn complete_means_everybody_was_heard() {
    let cluster = Cluster::new(1, Weather::CALM);
    let absent = Agreement {
        record: Im::new(im(9), 100).beat().im,
        lost: false,
        start_time_ms: 100,
        since_ms: 0,
    };
    let value = serde_json::to_vec(&absent).unwrap().into();
    let put = Write::Put { key: format!("ims/{}", im(9)), value, expect: Expect::Absent };
    cluster.store.commit(&[put]).await.unwrap();
    let _one = cluster.im("im1", Im::new(im(1), 100));
    let hm = cluster.hm("hm1");
    pass(14).await;
    assert!(!hm.complete());
    let nothing = ViewRequest::default();
    let wait = Duration::from_secs(1);
    let view: View = cluster.bus("jm").request(subject::HM_VIEW, &nothing, wait).await.unwrap();
    assert!(!view.complete);
    pass(4).await;
    assert_eq!((hm.complete(), hm.lost()), (true, 1));
    cluster.stop.cancel();
}

/// Goal: notes of a removed job go, those of a living one stay.
#[tokio::test(start_paused = true)]
async fn notes_of_removed_jobs_go() {
    let cluster = Cluster::new(1, Weather::CALM);
    let web = Job::named("job::/sandbox/admin::x".parse().unwrap());
    cluster.put_job(job(1), &web).await;
    for of in [job(1), job(2)] {
        notes::say(&cluster.store, &cluster.bus("jm"), of, "no placement").await.unwrap();
    }
    let hm = cluster.hm("hm1");
    pass(700).await;
    assert_eq!(notes::read(&cluster.store, job(1)).await.unwrap().notes[0].text, "no placement");
    assert_eq!(cluster.store.get(&notes::key(job(2))).await.unwrap(), None);
    drop(hm);
    cluster.stop.cancel();
}
