//! The instance manager is killed, and its successor finds everything again: instances, ends, lines, files.
//!
//! Deliberately absent: what routers make of it; they see announcements only.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use common::{HELPER, Im, Place, SERVER, gone, job, said, start};
use runtime::shim::{Started, read_json};
use runtime::{StopMode, proc};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use wire::placement::Start;
use wire::{InstanceId, InstanceState};

/// An instance manager in a process of its own.
struct Host(Child);

impl Host {
    fn start(place: &Place, starts: &[&Start]) -> Self {
        let mut command = Command::new(HELPER);
        command.arg("host").arg(&place.0).stdout(Stdio::piped());
        for start in starts {
            let file = place.0.join(format!("{}.start", start.instance));
            std::fs::write(&file, serde_json::to_vec(start).unwrap()).unwrap();
            command.arg(file);
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn started(place: &Place, id: InstanceId) -> Started {
    let shim = place.0.join("instances").join(id.to_string()).join("shim");
    read_json(&shim.join("started.json")).unwrap()
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Goal: kill -9 of the instance manager: the process serves on, its successor has it, announces it, and knows each line
/// once; those that ended meanwhile, or whose shim was killed, are told with what is known of their end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_found_again() {
    let place = Place::new();
    let counting = format!("(i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done) & {SERVER}");
    let jobs = [
        job(&counting, &[(0, false)]),
        job("trap 'exit 9' USR1; while :; do sleep 0.05; done", &[]),
        job("sleep 1000 & while :; do sleep 0.05; done", &[]),
    ];
    let starts: Vec<Start> = jobs.iter().map(start).collect();
    let host = Host::start(&place, &starts.iter().collect::<Vec<_>>());
    let [serving, ending, orphaned] = [0, 1, 2].map(|at: usize| starts[at].instance);
    let before = started(&place, serving);
    host.kill();
    assert!(
        proc::is_alive(before.pid, before.start)
            && proc::is_alive(before.shim_pid, before.shim_start)
    );
    let end = started(&place, ending);
    kill_process(Pid::from_raw(end.pid).unwrap(), Signal::USR1).unwrap();
    gone("a shim", || proc::is_alive(end.shim_pid, end.shim_start)).await;
    kill(started(&place, orphaned).shim_pid);

    let im = Im::start(&place, StopMode::StopInstances).await;
    let all: wire::announce::EndpointsAll =
        im.bus.request(&wire::subject::im_endpoints_all(im.id), &(), common::ANSWER).await.unwrap();
    assert_eq!(all.endpoints.iter().map(|e| e.instance).collect::<Vec<_>>(), [serving]);
    let seen = im.until_running(serving).await;
    assert_eq!(said(seen.addresses[&0]).await, serving.to_string());
    let ended = im.until_ended(ending).await;
    assert_eq!((ended.exit_code, ended.failed), (Some(9), true), "{ended:?}");
    let ended = im.until_ended(orphaned).await;
    assert_eq!((ended.exit_code, ended.failed), (None, true), "{ended:?}");
    gone("an orphan", || !proc::marked(orphaned).is_empty()).await;

    let next = im.logs(jobs[0].uuid, 1_500).await.len() + 10;
    let lines = im.until_logged(jobs[0].uuid, &next.to_string()).await;
    let numbers: Vec<u64> = lines.iter().filter_map(|line| line.text.parse().ok()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "each line once");
    im.stop(serving).await;
    assert!(im.until_ended(serving).await.asked);
    im.end().await;
    gone("a process", || !place.processes().is_empty()).await;
    assert_eq!(Im::start(&place, StopMode::StopInstances).await.report().await.ended.len(), 3);
}

/// Goal: all tasks of an instance manager vanish at once in the middle of everything; its successor loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_in_the_middle() {
    let place = Place::new();
    let starts: Vec<Start> = (0..6).map(|_| start(&job(SERVER, &[(0, false)]))).collect();
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let threads = threads.worker_threads(1).enable_all().build().unwrap();
    let (place, asked) = threads
        .spawn({
            let starts = starts.clone();
            async move {
                let im = Im::start(&place, StopMode::StopInstances).await;
                for start in &starts {
                    im.ask(start).await;
                }
                im.until_running(starts[0].instance).await;
                im.stop(starts[0].instance).await;
                (place, starts)
            }
        })
        .await
        .unwrap();
    threads.shutdown_background();
    let mut settings = common::settings(&place);
    settings.port_check = std::time::Duration::from_millis(200);
    // The directory is free when the last task of the first is gone.
    gone("the first", || {
        let file = std::fs::File::open(place.0.join("lock")).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
    })
    .await;
    let driver = std::sync::Arc::new(place.driver());
    let im = Im::with(settings, common::bus(), driver, StopMode::StopInstances).await;
    assert!(im.until_ended(asked[0].instance).await.asked, "the stop goes on");
    for start in &asked[1..] {
        let seen = im.until_running(start.instance).await;
        assert_eq!(said(seen.addresses[&0]).await, start.instance.to_string());
        assert_eq!(proc::marked(start.instance).len(), 1, "one process");
    }
    im.end().await;
    gone("a process", || !place.processes().is_empty()).await;
}

/// Goal: left on purpose, found again; a process number that belongs to another now is neither adopted nor killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn left_and_numbers_used_again() {
    let place = Place::new();
    let im = Im::start(&place, StopMode::LeaveInstances).await;
    let (one, two) = (job(SERVER, &[(0, false)]), job("while :; do sleep 0.05; done", &[]));
    let (kept, lost) = (im.run(&one).await, im.run(&two).await);
    im.until_running(kept).await;
    im.until_running(lost).await;
    let id = im.id;
    im.end().await;
    let was = started(&place, lost);
    kill(was.pid);
    gone("a shim", || proc::is_alive(was.shim_pid, was.shim_start)).await;
    let shim = place.0.join("instances").join(lost.to_string()).join("shim");
    std::fs::remove_file(shim.join("exit.json")).unwrap();
    let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = i32::try_from(bystander.id()).unwrap();
    let used_again = Started { shim_pid: pid, pid, ..was };
    runtime::shim::write_json(&shim.join("started.json"), &used_again, false).unwrap();

    let im = Im::start(&place, StopMode::StopInstances).await;
    assert_eq!(im.id, id);
    assert_eq!(im.until_ended(lost).await.exit_code, None);
    assert_eq!(im.until_running(kept).await.state, InstanceState::Running);
    assert!(bystander.try_wait().unwrap().is_none(), "the bystander lives");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    im.end().await;
    gone("a process", || !place.processes().is_empty()).await;
}
