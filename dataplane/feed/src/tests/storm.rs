//! The whole feed on the simulated bus: a storm, a router that is cut off, then calm. Virtual time, one thread, no cores.

use std::sync::Arc;
use std::time::Duration;

use bus::sim::{Sim, Weather};
use bus::{Bus, Clock, Sender};
use router::hub::Hub;
use tokio_util::sync::CancellationToken;
use wire::announce::EndpointChange;
use wire::{InstanceId, JobId, RouterId};

use super::live::{Script, id};
use super::truth::{Rng, expected, to, up};
use crate::Settings;

const STORMS: u64 = 12;
const CHANGES: u64 = 60;

/// Goal: through any storm, and cut off for a while, the table is the truth two seconds after it ends.
#[tokio::test(start_paused = true)]
async fn two_seconds_after_the_storm() {
    for seed in 0..STORMS {
        let sim = Sim::new(seed, Weather::STORM);
        let script = Script::on(sim.node("script")).await;
        let hub = Hub::new(1, router::settings::Settings::default()).unwrap();
        let bus = Bus::new(sim.node("router"), Sender::new("router", 1), Clock::system());
        let stop = CancellationToken::new();
        let settings =
            Settings { router: RouterId(id(1)), hostname: String::new(), table_file: None };
        let feed = crate::start(settings, bus, Arc::clone(&hub), stop.clone()).unwrap();
        let beating = Arc::clone(&script);
        let beats = tokio::spawn(async move {
            loop {
                beating.beats().await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let mut rng = Rng(seed);
        for n in 0..CHANGES {
            change(&script, &mut rng, n).await;
            if n == CHANGES / 3 {
                sim.isolate("router");
            }
            if n == CHANGES / 2 {
                sim.heal();
            }
            tokio::time::sleep(Duration::from_millis(rng.below(200))).await;
        }
        sim.set_weather(Weather::CALM);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let truth = {
            let (store, manager) = (script.store.lock().unwrap(), script.manager.lock().unwrap());
            expected(&store.jobs, std::iter::once(&*manager))
        };
        assert_eq!(hub.table().desired(), truth, "seed {seed}");
        assert!(feed.numbers().jobs.resyncs > 0 && feed.is_ready(), "seed {seed}");
        beats.abort();
        stop.cancel();
        feed.ended().await;
    }
}

async fn change(script: &Script, rng: &mut Rng, n: u64) {
    let job = u128::from(rng.below(6));
    match rng.below(5) {
        0 => {
            script.job(job, &format!("j{job}"), Vec::new()).await;
        }
        1 | 2 => {
            let host = format!("h{}.test", rng.below(4));
            script.job(job, &format!("j{job}"), vec![to(0, &host, 0.0)]).await;
        }
        3 => {
            let addr = ([10, 0, 0, u8::try_from(n).unwrap()], 80).into();
            let one = up(InstanceId(id(u128::from(n) + 1_000)), JobId(id(job)), 0, addr);
            script.announce(vec![EndpointChange::Up(one)]).await;
        }
        _ => {
            let one = script.manager.lock().unwrap().up.first().map(|up| up.instance);
            if let Some(one) = one {
                script.announce(vec![EndpointChange::Down(one)]).await;
            }
        }
    }
}
