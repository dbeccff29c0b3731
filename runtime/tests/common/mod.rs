//! An instance manager with real processes in a directory of its own, and questions to it.
//!
//! Deliberately absent: assertions.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test program uses a part")]

use bus::local::Local;
use bus::{Bus, Clock, Next, Sender, Subscription};
use runtime::driver::Driver;
use runtime::driver::process::ProcessDriver;
use runtime::settings::PORTS_DEFAULT;
use runtime::{Running, Settings, StopMode, proc};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire::health::{Beat, Ended, InstanceSeen, Switch};
use wire::job::{Job, Port, Process};
use wire::logs::{LogLine, LogPage, LogRequest};
use wire::placement::{Done, Start, Stop};
use wire::subject::{IM_LOGS, IM_REPORT, im_start, im_stop};
use wire::{ImId, InstanceId, InstanceState, JobId};

/// The program of this crate that is a shim, and can host an instance manager.
pub const HELPER: &str = env!("CARGO_BIN_EXE_runtime-shim");
pub const ANSWER: Duration = Duration::from_secs(10);
/// For anything that is to happen; a loaded machine is slow.
pub const LONG: Duration = Duration::from_secs(30);
/// Between two looks at what nobody tells.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A server in few words: accepts on `$PORT`, answers the instance's id.
pub const SERVER: &str = r#"exec python3 -c '
import os, socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(os.environ["PORT"]))); s.listen(64)
print("listening", flush=True)
while True:
    c, _ = s.accept(); c.sendall(os.environ["CNTM_INSTANCE_UUID"].encode()); c.close()
'"#;

/// A directory that goes with the test, and with it every process that was begun there.
pub struct Place(pub PathBuf, RangeInclusive<u16>);

impl Place {
    pub fn new() -> Self {
        let place = std::env::temp_dir().join(format!("runtime-test-{}", Uuid::new_v4()));
        std::fs::create_dir_all(&place).unwrap();
        Self(place, ports())
    }

    pub fn driver(&self) -> ProcessDriver {
        ProcessDriver::with_shim(&self.0.join("instances"), Path::new(HELPER)).unwrap()
    }

    /// Processes of any instance or shim of this place.
    pub fn processes(&self) -> Vec<i32> {
        let mark = self.0.to_string_lossy().into_owned();
        let of = |pid: i32, file: &str| {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(&mark)
        };
        let alive = proc::all().into_iter().filter(|stat| !stat.zombie);
        alive
            .map(|stat| stat.pid)
            .filter(|pid| of(*pid, "cmdline") || of(*pid, "environ"))
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Whatever a failed test left: by number, and only what carries this directory's name.
        for pid in self.processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Numbers of its own for each instance manager of this program, as `Settings::ports` asks: one that was found free would
/// otherwise be taken by another test before the process of this one listens.
fn ports() -> RangeInclusive<u16> {
    const EACH: u16 = 100;
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let (first, last) = (*PORTS_DEFAULT.start(), *PORTS_DEFAULT.end());
    // Not the same ones in every program, either.
    let count = std::process::id() + u32::from(COUNT.fetch_add(1, Ordering::Relaxed));
    let slice = u16::try_from(count % u32::from((last - first) / EACH)).unwrap();
    first + slice * EACH..=first + slice * EACH + EACH - 1
}

pub fn bus() -> Bus {
    Bus::new(Local::new(), Sender::new("test", 0), Clock::system())
}

pub fn settings(place: &Place) -> Settings {
    Settings { ports: place.1.clone(), ..Settings::new(Some(place.0.clone())) }
}

/// One that runs.
pub struct Im {
    pub bus: Bus,
    pub id: ImId,
    pub stop: CancellationToken,
    pub running: Running,
}

impl Im {
    pub async fn start(place: &Place, mode: StopMode) -> Self {
        Self::with(settings(place), bus(), Arc::new(place.driver()), mode).await
    }

    pub async fn with(
        settings: Settings,
        bus: Bus,
        driver: Arc<dyn Driver>,
        mode: StopMode,
    ) -> Self {
        let stop = CancellationToken::new();
        let running =
            runtime::start(settings, bus.clone(), driver, stop.clone(), mode).await.unwrap();
        Self { bus, id: running.id(), stop, running }
    }

    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(LONG, self.running.ended()).await.expect("ends");
    }

    pub async fn ask(&self, start: &Start) -> Done {
        self.bus.request(&im_start(self.id), start, ANSWER).await.unwrap()
    }

    pub async fn run(&self, job: &Job) -> InstanceId {
        let start = start(job);
        assert_eq!(self.ask(&start).await, Done::Accepted);
        start.instance
    }

    pub async fn stop(&self, instance: InstanceId) -> Done {
        let stop = Stop { instance, reason: "test".to_owned() };
        self.bus.request(&im_stop(self.id), &stop, ANSWER).await.unwrap()
    }

    pub async fn report(&self) -> Beat {
        self.bus.request(IM_REPORT, &(), ANSWER).await.unwrap()
    }

    /// Not everything in a report is told when it changes: legs and usage are not.
    pub async fn until(&self, what: &str, mut look: impl FnMut(&Beat) -> bool) -> Beat {
        let looks = Looks::begin(what);
        loop {
            let beat = self.report().await;
            if look(&beat) {
                return beat;
            }
            looks.again(&beat).await;
        }
    }

    pub async fn until_running(&self, instance: InstanceId) -> InstanceSeen {
        let running = |beat: &Beat| {
            beat.instances.iter().any(|i| i.id == instance && i.state == InstanceState::Running)
        };
        let beat = self.until("running", running).await;
        beat.instances.into_iter().find(|one| one.id == instance).unwrap()
    }

    pub async fn until_ended(&self, instance: InstanceId) -> Ended {
        let beat =
            self.until("ended", |beat| beat.ended.iter().any(|end| end.id == instance)).await;
        beat.ended.into_iter().find(|end| end.id == instance).unwrap()
    }

    pub async fn logs(&self, job: JobId, lines: usize) -> Vec<LogLine> {
        let until = bus::Until { count: 1, deadline: Duration::from_millis(500) };
        let pages: Vec<LogPage> =
            self.bus.gather(IM_LOGS, &LogRequest { job, lines }, until).await.unwrap();
        pages.into_iter().flat_map(|page| page.lines).collect()
    }

    pub async fn until_logged(&self, job: JobId, text: &str) -> Vec<LogLine> {
        let what = format!("logged {text}");
        let looks = Looks::begin(&what);
        loop {
            let lines = self.logs(job, 1_500).await;
            if lines.iter().any(|line| line.text == text) {
                return lines;
            }
            looks.again(&lines).await;
        }
    }
}

pub fn job(command: &str, ports: &[(u16, bool)]) -> Job {
    let mut job = Job::named("job::/test::one".parse().unwrap());
    job.uuid = JobId(Uuid::new_v4());
    job.version_id = 1;
    let process = Process { start_command: command.to_owned(), ..Process::default() };
    job.processes.insert("app".to_owned(), process);
    let port = |(number, optional): &(u16, bool)| Port {
        number: *number,
        optional: *optional,
        routes: Vec::new(),
        extra: wire::job::Extra::new(),
    };
    job.ports = ports.iter().map(port).collect();
    job
}

pub fn start(job: &Job) -> Start {
    let instance = InstanceId(Uuid::new_v4());
    Start { instance, job: job.clone(), packages: Vec::new(), asked_ms: 0 }
}

/// States of one instance as they were told, until it is removed.
pub async fn states(switches: &mut Subscription, instance: InstanceId) -> (String, Option<Ended>) {
    let mut said = Vec::new();
    let all = async {
        loop {
            let Some(Next::Message(delivery)) = switches.next().await else { panic!("lost") };
            let switch: Switch = delivery.decode().unwrap();
            if switch.instance.id == instance {
                said.push(switch.instance.state.to_string());
                if switch.instance.state == InstanceState::Removed {
                    return switch.ended;
                }
            }
        }
    };
    let ended = tokio::time::timeout(LONG, all).await.expect("removed");
    (said.join(" "), ended)
}

pub async fn gone(what: &str, mut still: impl FnMut() -> bool) {
    let looks = Looks::begin(what);
    while still() {
        looks.again(&"still there").await;
    }
}

/// Looks at what nobody tells, another process above all, again and again until it is as it should be.
pub struct Looks<'a> {
    what: &'a str,
    deadline: tokio::time::Instant,
}

impl<'a> Looks<'a> {
    pub fn begin(what: &'a str) -> Self {
        Self { what, deadline: tokio::time::Instant::now() + LONG }
    }

    /// Waits for the next look; `instead` is what the last one saw.
    pub async fn again<T: std::fmt::Debug + ?Sized>(&self, instead: &T) {
        let Self { what, deadline } = self;
        assert!(tokio::time::Instant::now() < *deadline, "never {what}: {instead:#?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What a server at this address says.
pub async fn said(addr: std::net::SocketAddr) -> String {
    use tokio::io::AsyncReadExt;
    let mut text = String::new();
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    stream.read_to_string(&mut text).await.unwrap();
    text
}
