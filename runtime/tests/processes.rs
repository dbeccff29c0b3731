//! An instance manager with real processes: lives, ports, environment, logs, ends.
//!
//! Deliberately absent: restarts of the instance manager (`restarts`).

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use common::{Im, Looks, Place, SERVER, gone, job, said, start, states};
use runtime::StopMode;
use std::collections::BTreeMap;
use std::time::Duration;
use wire::job::Job;
use wire::placement::{Done, Offer, Placement, ReversePlacement, Surrender, Update};
use wire::subject::{IM_BID, IM_REVERSE_BID, IM_SWITCH, im_endpoints_all, im_update};

/// A question for `count` places.
fn placement(job: &Job, count: u32) -> Placement {
    Placement {
        request: uuid::Uuid::new_v4(),
        job: job.uuid,
        fqn: job.fqn.clone(),
        count,
        resources: job.resources,
        fixed_ports: Vec::new(),
        hard_tags: Vec::new(),
        soft_tags: Vec::new(),
        attract: Vec::new(),
        repel: Vec::new(),
        window_ms: 200,
    }
}

/// Goal: a host whose state directory cannot be written takes nothing, says why, and offers nothing until it can be
/// written again; what runs there goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_attracts_nothing() {
    let place = Place::new();
    let im = Im::start(&place, StopMode::StopInstances).await;
    let job = job(SERVER, &[(0, false)]);
    let before = im.run(&job).await;
    let address = im.until_running(before).await.addresses[&0];
    // As root nothing is forbidden, so the directory is another one for a while.
    let (records, away) = (place.0.join("records"), place.0.join("away"));
    std::fs::rename(&records, &away).unwrap();
    let refused = im.ask(&start(&job)).await;
    let Done::Refused(why) = &refused else { panic!("{refused:?}") };
    assert!(why.starts_with("its record cannot be kept: "), "{why}");
    let window = Duration::from_millis(500);
    let offer = im.bus.request::<_, Offer>(IM_BID, &placement(&job, 1), window).await;
    assert!(offer.is_err(), "{offer:?}");
    assert_eq!(said(address).await, before.to_string());
    std::fs::rename(&away, &records).unwrap();
    let looks = Looks::begin("offered again");
    loop {
        let offer = im.bus.request::<_, Offer>(IM_BID, &placement(&job, 1), window).await;
        match offer {
            Ok(_) => break,
            Err(why) => looks.again(&why).await,
        }
    }
    assert_eq!(im.ask(&start(&job)).await, Done::Accepted);
    im.end().await;
    gone("a process", || !place.processes().is_empty()).await;
}

/// Goal: the whole ordinary life over the bus: bid, start, serve, update, announce, reverse bid, stop, and nothing stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_bid_to_nothing() {
    let place = Place::new();
    let im = Im::start(&place, StopMode::StopInstances).await;
    let mut switches = im.bus.subscribe(IM_SWITCH, None).await.unwrap();
    let mut job = job(SERVER, &[(0, false)]);
    let ask = placement(&job, 2);
    let offer: Offer = im.bus.request(IM_BID, &ask, common::ANSWER).await.unwrap();
    assert_eq!((offer.im, offer.scores), (im.id, vec![0.0, 20.0]));

    let one = start(&job);
    assert_eq!(im.ask(&one).await, Done::Accepted);
    assert_eq!(im.ask(&one).await, Done::Accepted, "twice the same is one");
    let seen = im.until_running(one.instance).await;
    assert_eq!(said(seen.addresses[&0]).await, one.instance.to_string());
    assert!(seen.legs.is_some_and(|legs| legs.listen > 0));
    let all: wire::announce::EndpointsAll =
        im.bus.request(&im_endpoints_all(im.id), &(), common::ANSWER).await.unwrap();
    assert_eq!((all.seq, all.endpoints.len(), all.endpoints[0].addr), (1, 1, seen.addresses[&0]));

    job.version_id = 2;
    let update = Update { instance: one.instance, job: job.clone() };
    let done: Done = im.bus.request(&im_update(im.id), &update, common::ANSWER).await.unwrap();
    assert_eq!(done, Done::Accepted);
    assert_eq!(im.until_running(one.instance).await.job_version, 2);
    let surplus = ReversePlacement { request: ask.request, job: job.uuid, count: 1 };
    let given: Surrender = im.bus.request(IM_REVERSE_BID, &surplus, common::ANSWER).await.unwrap();
    assert_eq!(given.copies, [(one.instance, 0.0)]);

    assert_eq!(im.stop(one.instance).await, Done::Accepted);
    let (said, ended) = states(&mut switches, one.instance).await;
    assert_eq!(
        said,
        "NEW SETUP STARTING FIRST_RUNNING RUNNING UPDATING RUNNING STOPPING_WAIT STOPPING TEARDOWN REMOVED"
    );
    let ended = ended.unwrap();
    assert_eq!((ended.exit_code, ended.failed, ended.asked), (Some(143), false, true));
    assert!(matches!(im.ask(&one).await, Done::Refused(_)), "what ended does not begin again");
    gone("a process", || !place.processes().is_empty()).await;
    im.end().await;
}

/// Goal: an instance sees exactly its environment, an empty directory and no descriptor of its maker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_instance_sees() {
    let place = Place::new();
    let im = Im::start(&place, StopMode::StopInstances).await;
    let mut job = job(
        "env; echo cwd=$(pwd); echo files=$(ls -A); echo fds=$(readlink /proc/self/fd/*); umask; echo end; exec cat /dev/zero >/dev/null",
        &[(0, true), (7_123, true)],
    );
    let process = job.processes.get_mut("app").unwrap();
    process.environment = BTreeMap::from([("MINE".to_owned(), "a b".to_owned())]);
    let id = im.run(&job).await;
    let lines = im.until_logged(job.uuid, "end").await;
    let seen = im.until_running(id).await;
    let port = seen.addresses[&0].port();
    let root = place.0.join("instances").join(id.to_string()).join("root");
    let root = root.display();
    let mut names: Vec<&str> =
        lines.iter().filter_map(|line| Some(line.text.split_once('=')?.0)).collect();
    names.sort_unstable();
    names.retain(|name| !["cwd", "files", "fds", "PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    assert_eq!(
        names,
        [
            "CNTM_HOST_IP",
            "CNTM_HOST_PORT",
            "CNTM_INSTANCE_UUID",
            "CNTM_JOB_FQN",
            "CNTM_JOB_UUID",
            "CNTM_PROCESS_NAME",
            "HOME",
            "MINE",
            "PATH",
            "PORT",
            "START_PATH"
        ]
    );
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    let has = |text: String| assert!(texts.contains(&text.as_str()), "{text}: {texts:#?}");
    has(format!("PORT={port}"));
    has(format!("cwd={root}"));
    has("files=".to_owned());
    has("MINE=a b".to_owned());
    // Descriptors of whoever started this test may be there; none of the instance manager's is.
    let held = texts.iter().find_map(|text| text.strip_prefix("fds=")).unwrap();
    assert!(held.starts_with("/dev/null pipe:"), "{held}");
    let ours = [
        "socket:",
        "anon_inode:",
        "/shim/",
        "/records/",
        &place.0.join("lock").display().to_string(),
    ];
    assert!(!ours.iter().any(|name| held.contains(name)), "{held}");
    has("0022".to_owned());
    assert_eq!(seen.addresses[&7_123].port(), 7_123);
    im.end().await;
    gone("a process", || !place.processes().is_empty()).await;
}

/// Goal: each way to fail is told as what it was, in the end and in the job's own log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told() {
    let place = Place::new();
    let im = Im::start(&place, StopMode::StopInstances).await;
    let mut raw = job("", &[]);
    raw.processes.get_mut("app").unwrap().start_command_raw = vec!["/no/such/program".into()];
    let mut silent = job("exec cat /dev/zero >/dev/null", &[(0, false)]);
    silent.processes.get_mut("app").unwrap().start_command_timeout = 1;
    let cases = [
        (job("echo oops >&2; exit 3", &[]), Some(3), "ended by itself with status 3"),
        (job("kill -9 $$", &[]), Some(137), "ended by itself with status 137"),
        (job("exit 0", &[]), Some(0), "ended by itself with status 0"),
        (raw, None, "\"/no/such/program\" cannot be started"),
        (job("", &[]), None, "the job has no start command"),
        (silent, Some(143), "nothing listened on its ports ($PORT) within 1 s"),
    ];
    for (job, code, why) in cases {
        let id = im.run(&job).await;
        let ended = im.until_ended(id).await;
        assert!(ended.reason.starts_with(why), "{ended:?}");
        assert_eq!((ended.exit_code, ended.failed, ended.asked), (code, true, false), "{why}");
        let lines = im.until_logged(job.uuid, &format!("instance failed: {}", ended.reason)).await;
        let shown = format!("[system-error][{}] instance failed: {}", id.short(), ended.reason);
        assert_eq!(lines.last().unwrap().shown(), shown);
    }
    assert_eq!(im.report().await.im.resources_provisioned.memory, 0);
    im.end().await;
    gone("a process", || !place.processes().is_empty()).await;
}

/// Goal: orphans, sessions of their own and a deaf ear to TERM do not survive; a stop command is used and bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_survives_a_stop() {
    let place = Place::new();
    let im = Im::start(&place, StopMode::StopInstances).await;
    let mut deaf = job(
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &) ; sleep 1000 & while :; do sleep 1; done",
        &[],
    );
    deaf.processes.get_mut("app").unwrap().stop_timeout = 1;
    let mut polite =
        job("echo $$ > pid; trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done", &[]);
    let process = polite.processes.get_mut("app").unwrap();
    process.stop_command = "kill -USR1 $(cat pid)".to_owned();
    let (one, two) = (im.run(&deaf).await, im.run(&polite).await);
    im.until_running(one).await;
    im.until_logged(polite.uuid, "ready").await;
    gone("a lack of processes", || place.processes().len() < 6).await;
    im.stop(one).await;
    im.stop(two).await;
    let ended = im.until_ended(one).await;
    assert_eq!((ended.exit_code, ended.failed), (Some(137), false), "{ended:?}");
    let ended = im.until_ended(two).await;
    assert_eq!((ended.exit_code, ended.asked, ended.failed), (Some(7), true, false), "{ended:?}");
    gone("a process", || !place.processes().is_empty()).await;
    let left = std::fs::read_dir(place.0.join("instances")).unwrap().count();
    assert_eq!(left, 0, "files stay");
    im.end().await;
}

/// Goal: many lines arrive all, in order and once, also over a change of segments; the ring keeps the newest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_once() {
    const LINES: u64 = 30_000;
    let place = Place::new();
    let im = Im::start(&place, StopMode::StopInstances).await;
    let text = format!(
        "i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i of a log that is long enough to need segments, and more of them than one, because that is the point; done; echo last >&2; exec cat /dev/zero >/dev/null"
    );
    let job = job(&text, &[]);
    let mut lines = im.bus.subscribe(&wire::subject::log_all(job.uuid), None).await.unwrap();
    let id = im.run(&job).await;
    let (mut next, mut lost) = (1, false);
    let read = async {
        loop {
            let Some(bus::Next::Message(delivery)) = lines.next().await else {
                lost = true;
                continue;
            };
            let line: wire::logs::LogLine = delivery.decode().unwrap();
            assert_eq!(line.instance, Some(id));
            if line.stream == wire::logs::LogStream::Stderr {
                assert_eq!((line.seq, line.text.as_str()), (1, "last"));
                return;
            }
            assert!(line.seq >= next, "doubled {line:?}");
            assert!(line.text.starts_with(&format!("line {} of", line.seq)), "{line:?}");
            next = line.seq + 1;
        }
    };
    tokio::time::timeout(common::LONG, read).await.expect("the last line");
    assert_eq!(next, LINES + 1, "the last line was {next}, bus lost some: {lost}");
    let ring = im.until_logged(job.uuid, "last").await;
    assert_eq!(ring.len(), 1_500);
    let usage = |beat: &wire::health::Beat| beat.instances.iter().any(|one| one.usage.is_some());
    assert!(!usage(&im.report().await), "no sample is due yet");
    im.end().await;
    gone("a process", || !place.processes().is_empty()).await;
}

/// Goal: what an instance uses is measured, and a port that stops listening ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_and_deafness() {
    let place = Place::new();
    let mut settings = common::settings(&place);
    settings.usage_period = Duration::from_millis(200);
    settings.port_check = Duration::from_millis(100);
    let driver = std::sync::Arc::new(place.driver());
    let im = Im::with(settings, common::bus(), driver, StopMode::StopInstances).await;
    let busy = job("echo 12345 > file; while :; do :; done", &[]);
    let deaf = job(
        r#"exec python3 -c '
import os, socket, time
s = socket.socket(); s.bind(("127.0.0.1", int(os.environ["PORT"]))); s.listen(64)
c, _ = s.accept(); c, _ = s.accept(); s.close(); time.sleep(1000)'"#,
        &[(0, false)],
    );
    let (one, two) = (im.run(&busy).await, im.run(&deaf).await);
    im.until("measured", |beat| {
        let usage = beat.instances.iter().find(|i| i.id == one).and_then(|i| i.usage);
        usage.is_some_and(|u| u.cpu > 10_000_000 && u.memory > 100_000 && u.disk >= 6)
    })
    .await;
    let ended = im.until_ended(two).await;
    assert!(ended.failed && ended.reason.starts_with("nothing accepts"), "{ended:?}");
    im.end().await;
    gone("a process", || !place.processes().is_empty()).await;
}
