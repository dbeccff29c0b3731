//! The job manager: from the write of many jobs to the last accepted start, with a thousand simulated hosts.
//!
//! One task plays all hosts: it decodes a placement once, computes every host's taint with the real formula, and answers
//! with the delay that the formula asks for, cheapest first. Health manager and bus are real, the store is in memory.
//! A placement is one accepted start; its time is from the write of the job to the acceptance. Deliberately absent:
//! processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, Clock, Next, Sender};
use runtime::spec::Load;
use runtime::taint::{Host, delay_us, scores};
use services::jm::leases::SHARDS;
use services::{hm, jm};
use store::{Expect, Store, Write};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire::health::{Beat, ImRecord, InstanceSeen, Switch};
use wire::job::{Process, Resources};
use wire::placement::{Done, Offer, Placement, Start};
use wire::{ImId, InstanceState, Job, JobId, JobState, subject};

use crate::row::{Report, Row};

/// Offers that are sent in one round: more than a job manager can take.
const OFFERS_MAX: usize = 96;
const COPIES: usize = 20;

type Hosts = Arc<Mutex<Vec<Host>>>;

pub(crate) async fn run(report: &mut Report) {
    let name = "job manager, placements on 1,000 simulated hosts";
    if !report.wants(name) {
        return;
    }
    let hosts = report.size(1_000, 20);
    let jobs = report.size(1_000, 5);
    let bus = Bus::new(bus::local::Local::new(), Sender::new("bench", 0), Clock::system());
    let store = store::memory::store();
    let (accepted, mut starts) = mpsc::channel(jobs * COPIES);
    let swarm = Swarm::begin(hosts, &bus, accepted).await;
    let stop = CancellationToken::new();
    let health = hm::start(hm::Settings::default(), bus.clone(), store.clone(), stop.clone())
        .expect("it starts");
    // It listens before it answers.
    health.answering().await;
    swarm.beat(&bus).await;
    let manager = jm::start(jm::Settings::default(), bus.clone(), store.clone(), stop.clone())
        .expect("it starts");
    health.heard_all().await;
    manager.acts_for(SHARDS).await;
    let mut row = Row::begin();
    let written = write_jobs(&store, jobs).await;
    for _ in 0..jobs * COPIES {
        let (job, at): (JobId, Instant) = starts.recv().await.expect("the hosts live");
        row.time(at.duration_since(written[&job]));
        row.count(1);
    }
    report.print(name, &row);
    stop.cancel();
    manager.ended().await;
    health.ended().await;
}

async fn write_jobs(store: &Store, jobs: usize) -> BTreeMap<JobId, Instant> {
    let mut written = BTreeMap::new();
    for number in 0..jobs {
        let fqn = format!("job::/bench::job-{number}").parse().expect("a name");
        let mut job = Job::named(fqn);
        job.uuid = JobId(Uuid::new_v4());
        job.version_id = 1;
        job.state = JobState::Started;
        job.num_instances = u32::try_from(COPIES).expect("a small number");
        let process = Process { start_command: "true".to_owned(), ..Process::default() };
        job.processes.insert("app".to_owned(), process);
        let value = serde_json::to_vec(&job).expect("a record").into();
        let key = format!("jobs/{}", job.uuid);
        written.insert(job.uuid, Instant::now());
        store.commit(&[Write::Put { key, value, expect: Expect::Absent }]).await.expect("memory");
    }
    written
}

struct Swarm {
    hosts: Hosts,
}

impl Swarm {
    async fn begin(count: usize, bus: &Bus, accepted: mpsc::Sender<(JobId, Instant)>) -> Self {
        let total = Resources {
            cpu: 32_000,
            memory: 64 << 30,
            disk: 1 << 40,
            network: 10_000_000_000,
            netmax: 0,
        };
        let host = || Host {
            tags: Default::default(),
            total,
            used: Load::default(),
            copies: BTreeMap::new(),
            ports: Default::default(),
            room: wire::health::INSTANCES_PER_IM_MAX,
        };
        let hosts: Hosts = Arc::new(Mutex::new((0..count).map(|_| host()).collect()));
        let mut bids = bus.subscribe(subject::IM_BID, None).await.expect("the bus is there");
        let for_bids = Arc::clone(&hosts);
        tokio::spawn(async move {
            while let Some(Next::Message(question)) = bids.next().await {
                let ask: Placement = question.decode().expect("a placement");
                tokio::spawn(offer(Arc::clone(&for_bids), ask, question));
            }
        });
        let mut starts =
            bus.subscribe("apcera.v1.im.*.start", None).await.expect("the bus is there");
        let (for_starts, speaker) = (Arc::clone(&hosts), bus.clone());
        tokio::spawn(async move {
            let mut seq = 1_000;
            while let Some(Next::Message(question)) = starts.next().await {
                let start: Start = question.decode().expect("a start");
                let host = host_of(&question.subject);
                note(&mut for_starts.lock().await[host], &start);
                question.reply(&Done::Accepted).await.ok();
                seq += 1;
                speaker.publish(subject::IM_SWITCH, &running(host, &start, seq)).await.ok();
                accepted.send((start.job.uuid, Instant::now())).await.ok();
            }
        });
        Self { hosts }
    }

    async fn beat(&self, bus: &Bus) {
        for host in 0..self.hosts.lock().await.len() {
            let beat = Beat {
                im: record(host),
                seq: 1,
                instances: Vec::new(),
                ended: Vec::new(),
                leaving: false,
            };
            bus.publish(subject::IM_BEAT, &beat).await.expect("the bus is there");
        }
    }
}

async fn offer(hosts: Hosts, ask: Placement, question: bus::Delivery) {
    let mut offers: Vec<Offer> = Vec::new();
    for (number, host) in hosts.lock().await.iter().enumerate() {
        let scores = scores(host, &ask);
        if !scores.is_empty() {
            offers.push(Offer { im: id(number), request: ask.request, scores });
        }
    }
    offers.sort_by(|a, b| a.scores[0].total_cmp(&b.scores[0]));
    offers.truncate(OFFERS_MAX);
    let began = tokio::time::Instant::now();
    for offer in offers {
        let delay = Duration::from_micros(delay_us(offer.scores[0], ask.window_ms));
        tokio::time::sleep_until(began + delay).await;
        if question.reply(&offer).await.is_err() {
            return;
        }
    }
}

fn note(host: &mut Host, start: &Start) {
    host.used.add(&start.job.resources);
    let entry = host.copies.entry(start.job.uuid).or_insert_with(|| (start.job.fqn.clone(), 0));
    entry.1 += 1;
}

fn running(host: usize, start: &Start, seq: u64) -> Switch {
    Switch {
        im: id(host),
        start_time_ms: 1,
        seq,
        instance: InstanceSeen {
            id: start.instance,
            job: start.job.uuid,
            job_version: start.job.version_id,
            state: InstanceState::Running,
            created_ms: start.asked_ms,
            since_ms: start.asked_ms,
            addresses: BTreeMap::new(),
            legs: None,
            usage: None,
        },
        from: Some(InstanceState::Starting),
        ended: None,
    }
}

fn id(host: usize) -> ImId {
    ImId(Uuid::from_u128(host as u128 + 1))
}

fn host_of(subject: &str) -> usize {
    let id: ImId = subject.split('.').nth(3).and_then(|text| text.parse().ok()).expect("an id");
    usize::try_from(id.0.as_u128() - 1).expect("one of ours")
}

fn record(host: usize) -> ImRecord {
    ImRecord {
        uuid: id(host),
        hostname: format!("host-{host}"),
        datacenter: "bench".to_owned(),
        tags: Vec::new(),
        system_tags: Vec::new(),
        num_instances: 0,
        start_time_ms: 1,
        resources_total: Resources::default(),
        resources_provisioned: Resources::default(),
        address: String::new(),
    }
}
