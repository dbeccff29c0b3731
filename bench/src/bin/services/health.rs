//! The health manager: beats of a thousand hosts with a hundred instances each, over the bus, JSON included.
//!
//! Deliberately absent: losses and returns; they are rare.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus::{Bus, Clock, Sender};
use services::hm;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire::health::{Beat, ImRecord, InstanceSeen, View, ViewRequest};
use wire::{ImId, InstanceId, InstanceState, JobId, subject};

use crate::row::{Report, Row};

const JOBS: u128 = 1_000;

pub(crate) async fn run(report: &mut Report) {
    let name = "health manager, beats of 100 instances";
    if !report.wants(name) {
        return;
    }
    let bus = Bus::new(bus::local::Local::new(), Sender::new("hm", 0), Clock::system());
    let store = store::memory::store();
    let stop = CancellationToken::new();
    let running =
        hm::start(hm::Settings::default(), bus.clone(), store, stop.clone()).expect("it starts");
    let hosts = report.size(1_000, 20) as u128;
    // It listens before it answers.
    running.answering().await;
    // The first round makes the hosts known, the second is measured.
    for (round, measured) in [(1, false), (2, true)] {
        let mut row = Row::begin();
        for host in 0..hosts {
            let since = Instant::now();
            bus.publish(subject::IM_BEAT, &beat(host, round)).await.expect("the bus is there");
            if measured {
                row.time(since.elapsed());
            }
        }
        row.count(u64::try_from(hosts).unwrap_or(u64::MAX));
        until_seen(&bus, hosts - 1, round).await;
        if measured {
            report.print(name, &row);
        }
    }
    stop.cancel();
    running.ended().await;
}

/// Asks until the view shows the last host's job at this round.
async fn until_seen(bus: &Bus, host: u128, round: u64) {
    let job = beat(host, round).instances[0].job;
    let id = beat(host, round).instances[0].id;
    loop {
        let request = ViewRequest { jobs: vec![job], ims: false };
        let view: View = bus
            .request(subject::HM_VIEW, &request, Duration::from_secs(30))
            .await
            .expect("the health manager answers");
        let seen = view.jobs.get(&job).is_some_and(|view| {
            view.instances.iter().any(|on| on.seen.id == id && on.seen.since_ms == round)
        });
        if seen {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn beat(host: u128, round: u64) -> Beat {
    let instances = (0..100_u128)
        .map(|n| InstanceSeen {
            id: InstanceId(Uuid::from_u128(host * 1_000 + n + 1)),
            job: JobId(Uuid::from_u128((1 << 64) + (host * 100 + n) % JOBS)),
            job_version: 1,
            state: InstanceState::Running,
            created_ms: 1,
            since_ms: round,
            addresses: BTreeMap::new(),
            legs: None,
            usage: None,
        })
        .collect();
    Beat {
        im: ImRecord {
            uuid: ImId(Uuid::from_u128((2 << 64) + host)),
            hostname: format!("host-{host}"),
            datacenter: "bench".to_owned(),
            tags: Vec::new(),
            system_tags: Vec::new(),
            num_instances: 100,
            start_time_ms: 1,
            resources_total: wire::job::Resources::default(),
            resources_provisioned: wire::job::Resources::default(),
            address: String::new(),
        },
        seq: round,
        instances,
        ended: Vec::new(),
        leaving: false,
    }
}
