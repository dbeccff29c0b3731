//! What tests of the process driver start: a shim, or an instance manager with instances that can be killed as a whole.
//!
//! `runtime-shim host DIR FILE…` runs an instance manager on a bus of its own in `DIR`, starts what the files (each a
//! `wire::placement::Start`) say, prints `up` when all serve, and runs on until it is killed. Deliberately absent:
//! everything else.

use bus::local::Local;
use bus::{Bus, Clock, Next, Sender};
use runtime::driver::process::ProcessDriver;
use runtime::{Settings, StopMode};
use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use wire::health::Switch;
use wire::placement::{Done, Start};
use wire::subject::{IM_SWITCH, im_start};

const ANSWER: Duration = Duration::from_secs(10);

fn main() {
    runtime::shim::maybe_run();
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some("host") {
        std::process::exit(2);
    }
    let Some(directory) = args.next() else { std::process::exit(2) };
    let files: Vec<PathBuf> = args.map(PathBuf::from).collect();
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let done = match built {
        Ok(threads) => threads.block_on(host(Path::new(&directory), &files)),
        Err(why) => Err(why.into()),
    };
    if let Err(why) = done {
        println!("{why}");
        std::process::exit(1);
    }
}

async fn host(directory: &Path, files: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let bus = Bus::new(Local::new(), Sender::new("test", 0), Clock::system());
    let driver = Arc::new(ProcessDriver::new(&directory.join("instances"))?);
    let settings = Settings::new(Some(directory.to_owned()));
    let (stop, mode) = (CancellationToken::new(), StopMode::LeaveInstances);
    let running = runtime::start(settings, bus.clone(), driver, stop, mode).await?;
    let mut switches = bus.subscribe(IM_SWITCH, None).await?;
    let mut down = BTreeSet::new();
    for file in files {
        let start: Start = serde_json::from_slice(&std::fs::read(file)?)?;
        let done: Done = bus.request(&im_start(running.id()), &start, ANSWER).await?;
        if done != Done::Accepted {
            return Err(format!("{done:?}").into());
        }
        down.insert(start.instance);
    }
    while !down.is_empty() {
        let Some(Next::Message(told)) = switches.next().await else { return Err("lost".into()) };
        let Switch { instance, .. } = told.decode()?;
        if instance.state.is_running() {
            down.remove(&instance.id);
        }
    }
    println!("up");
    running.ended().await;
    Ok(())
}
