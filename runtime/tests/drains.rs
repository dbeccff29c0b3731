//! The instance manager among routers, on virtual time: what is told before a process is, and how long is waited.
//!
//! Deliberately absent: real processes and real routers.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use bus::{Bus, Clock, Next, Sender};
use common::{Im, job, start, states};
use runtime::driver::memory::MemoryDriver;
use runtime::{Settings, StopMode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use uuid::Uuid;
use wire::announce::{Announcement, Drain, Drained, EndpointChange};
use wire::health::Beat;
use wire::placement::{Done, Update};
use wire::routing::{Await, Awaited, RouterBeat};
use wire::subject::{
    IM_BEAT, IM_ENDPOINTS, IM_SWITCH, ROUTER_AWAIT, ROUTER_BEAT, ROUTER_DRAIN, im_update,
};
use wire::{InstanceState, RouterId};

struct World {
    bus: Bus,
    driver: Arc<MemoryDriver>,
    im: Im,
}

async fn world() -> World {
    let bus = Bus::new(
        bus::local::Local::new(),
        Sender::new("test", 0),
        Clock::starting_at(1_700_000_000_000),
    );
    let driver = Arc::new(MemoryDriver::new(bus.clock().clone()));
    let settings = Settings { seed: Some(3), ..Settings::new(None) };
    let im = Im::with(settings, bus.clone(), driver.clone(), StopMode::StopInstances).await;
    World { bus, driver, im }
}

/// A router that beats, and answers; idle only when told.
async fn router(bus: &Bus, number: u128, idle: Arc<AtomicBool>) {
    let router = RouterId(Uuid::from_u128(number));
    let mut drains = bus.subscribe(ROUTER_DRAIN, None).await.unwrap();
    let mut awaits = bus.subscribe(ROUTER_AWAIT, None).await.unwrap();
    let beat = RouterBeat {
        router,
        hostname: String::new(),
        revision: 0,
        cores: 2,
        table_version: 0,
        routes: 0,
        endpoints: 0,
        listeners: Vec::new(),
        leaving: false,
        ims: Vec::new(),
    };
    bus.publish(ROUTER_BEAT, &beat).await.unwrap();
    let bus = bus.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = ticks.tick() => bus.publish(ROUTER_BEAT, &beat).await.unwrap(),
                Some(Next::Message(question)) = drains.next() => {
                    let drain: Drain = question.decode().unwrap();
                    let idle = Arc::clone(&idle);
                    tokio::spawn(async move {
                        let done = idle.load(Ordering::Relaxed);
                        if !done {
                            tokio::time::sleep(Duration::from_millis(drain.timeout_ms)).await;
                        }
                        let answer = Drained { router, cores: 2, cores_total: 2, idle: done, ms: 0 };
                        question.reply(&answer).await.unwrap();
                    });
                }
                Some(Next::Message(question)) = awaits.next() => {
                    let _: Await = question.decode().unwrap();
                    question.reply(&Awaited { router, cores: 2, cores_total: 2, ms: 1 }).await.unwrap();
                }
            }
        }
    });
}

/// Goal: withdrawn first, and no signal before the last router is idle; the leg until all routers had it is told.
#[tokio::test(start_paused = true)]
async fn no_signal_before_the_last_router() {
    let World { bus, driver, im } = world().await;
    let (quick, slow) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    router(&bus, 1, quick).await;
    router(&bus, 2, Arc::clone(&slow)).await;
    let mut said = bus.subscribe(IM_ENDPOINTS, None).await.unwrap();
    let mut job = job("listen 30", &[(0, false)]);
    job.ports[0].routes =
        vec![serde_json::from_str(r#"{"type":"http","endpoint":"a.example.com"}"#).unwrap()];
    let id = im.run(&job).await;
    im.until("routed", |beat| {
        beat.instances.iter().any(|one| one.legs.is_some_and(|legs| legs.routed.is_some()))
    })
    .await;
    im.stop(id).await;
    im.stop(id).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(driver.running(), [id], "TERM came while a router was busy");
    assert_eq!(im.report().await.instances[0].state, InstanceState::StoppingWait);
    let update = Update { instance: id, job: wire::job::Job { version_id: 9, ..job.clone() } };
    let done: Done = bus.request(&im_update(im.id), &update, common::ANSWER).await.unwrap();
    assert_eq!(done, Done::Refused("it ends: STOPPING_WAIT".to_owned()));
    slow.store(true, Ordering::Relaxed);
    let ended = im.until_ended(id).await;
    assert_eq!((ended.exit_code, ended.failed), (Some(143), false));
    let mut changes = Vec::new();
    for _ in 0..2 {
        let Some(Next::Message(delivery)) = said.next().await else { panic!("lost") };
        let said: Announcement = delivery.decode().unwrap();
        changes
            .push((said.seq, matches!(said.changes[0], EndpointChange::Down(down) if down == id)));
    }
    assert_eq!(changes, [(1, false), (2, true)]);
    im.end().await;
}

/// Goal: a router that never gets idle holds a stop for its time-out, no longer; no router holds it not at all.
#[tokio::test(start_paused = true)]
async fn waits_are_bounded() {
    let World { bus, driver, im } = world().await;
    // By then a router would have been heard, were there one.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let job = job("listen", &[(0, false)]);
    let id = im.run(&job).await;
    im.until_running(id).await;
    let before = tokio::time::Instant::now();
    im.stop(id).await;
    im.until_ended(id).await;
    assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());

    router(&bus, 1, Arc::default()).await;
    let id = im.run(&job).await;
    im.until_running(id).await;
    let before = tokio::time::Instant::now();
    im.stop(id).await;
    im.until_ended(id).await;
    let took = before.elapsed();
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(6), "{took:?}");
    assert!(driver.running().is_empty());
    im.end().await;
}

/// Goal: told to stop, it takes nothing new, ends all that runs, stubborn ones by KILL, and says farewell last.
#[tokio::test(start_paused = true)]
async fn an_orderly_end() {
    let World { bus, driver, im } = world().await;
    let mut beats = bus.subscribe(IM_BEAT, None).await.unwrap();
    let mut switches = bus.subscribe(IM_SWITCH, None).await.unwrap();
    let stubborn = im.run(&job("stubborn", &[])).await;
    let starting = im.run(&job("deaf", &[(0, false)])).await;
    im.until_running(stubborn).await;
    im.stop.cancel();
    let refused = async {
        loop {
            if let Done::Refused(why) = im.ask(&start(&job("", &[]))).await {
                return why;
            }
        }
    };
    assert_eq!(refused.await, "this instance manager stops");
    let (said, ended) = states(&mut switches, stubborn).await;
    assert!(said.ends_with("STOPPING_WAIT STOPPING TEARDOWN REMOVED"), "{said}");
    assert_eq!(ended.unwrap().exit_code, Some(137));
    im.end().await;
    assert!(driver.running().is_empty());
    let mut last: Option<Beat> = None;
    while let Ok(Some(Next::Message(delivery))) =
        tokio::time::timeout(Duration::from_millis(1), beats.next()).await
    {
        last = Some(delivery.decode().unwrap());
    }
    let last = last.unwrap();
    assert!(last.leaving && last.instances.is_empty());
    assert!(last.ended.iter().any(|end| end.id == starting && end.asked));
}

/// Goal: a port that falls silent ends a running instance as failed, one that never answers a starting one.
#[tokio::test(start_paused = true)]
async fn deaf_ports() {
    let World { driver, im, .. } = world().await;
    let (late, never) = (
        im.run(&job("listen 500", &[(0, false)])).await,
        im.run(&job("deaf", &[(0, false)])).await,
    );
    im.until_running(late).await;
    driver.deafen(late);
    let ended = im.until_ended(never).await;
    assert_eq!((ended.failed, ended.ran_ms), (true, 0), "{ended:?}");
    let ended = im.until("ended", |beat| beat.ended.len() == 2 || beat.instances.is_empty()).await;
    let ended = ended.ended.iter().find(|end| end.id == late).unwrap();
    assert!(ended.failed && ended.ran_ms > 25_000, "{ended:?}");
    im.end().await;
}
