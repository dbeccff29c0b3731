//! Packages from a package manager into an instance: fetched once, checked, laid out.
//!
//! Deliberately absent: the real package manager; a few lines stand for it.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use common::{Im, Place, gone, job, start};
use flate2::{Compression, write::GzEncoder};
use runtime::StopMode;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;
use wire::PackageId;
use wire::api::PmLocation;
use wire::placement::StartPackage;
use wire::subject::PM_LOCATE;

fn package(text: &str) -> (Vec<u8>, StartPackage) {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o755);
    builder.append_data(&mut header, "bin/hello", text.as_bytes()).unwrap();
    let bytes = builder.into_inner().unwrap().finish().unwrap();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    let package = StartPackage {
        package: PackageId(Uuid::new_v4()),
        install_path: "/app".to_owned(),
        resources: vec![(digest, bytes.len() as u64)],
        environment: BTreeMap::from([("PATH".to_owned(), "bin:$PATH".to_owned())]),
    };
    (bytes, package)
}

/// Serves `bytes` for whatever is asked, and says where; counts.
async fn serve(bus: &bus::Bus, bytes: Vec<u8>, count: Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut asked = bus.subscribe(PM_LOCATE, None).await.unwrap();
    tokio::spawn(async move {
        while let Some(bus::Next::Message(question)) = asked.next().await {
            let here = PmLocation { url: url.clone(), resource_bytes_max: 1 << 30 };
            question.reply(&here).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let mut head = [0; 1_024];
            let read = stream.read(&mut head).await.unwrap();
            assert!(head[..read].starts_with(b"GET /v1/resources/"));
            stream.write_all(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\n").await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
}

/// Goal: a package manager with rotten content costs a try, not a start; what is there is not fetched again, also after
/// a restart; a content that nobody has is a failure that names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetched_once_and_checked() {
    let place = Place::new();
    let (bytes, package) = package("#!/bin/sh\necho hello from $START_PATH\n");
    let mut rotten = bytes.clone();
    rotten[20] ^= 1;
    let im = Im::start(&place, StopMode::StopInstances).await;
    let (bad, good) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    serve(&im.bus, rotten, Arc::clone(&bad)).await;
    serve(&im.bus, bytes, Arc::clone(&good)).await;
    let job = job("hello; exec sleep 1000", &[]);
    let starts: Vec<_> = (0..3)
        .map(|_| wire::placement::Start { packages: vec![package.clone()], ..start(&job) })
        .collect();
    for start in &starts {
        im.ask(start).await;
    }
    for start in &starts {
        im.until_running(start.instance).await;
        let app = place.0.join("instances").join(start.instance.to_string()).join("root/app");
        im.until_logged(job.uuid, &format!("hello from {}", app.display())).await;
    }
    assert_eq!(good.load(Ordering::Relaxed), 1);
    im.end().await;

    let im = Im::start(&place, StopMode::StopInstances).await;
    let again = wire::placement::Start { packages: vec![package.clone()], ..start(&job) };
    im.ask(&again).await;
    im.until_running(again.instance).await;
    let mut missing = package;
    let none = "0".repeat(64);
    missing.resources[0].0 = format!("sha256:{none}");
    let never = wire::placement::Start { packages: vec![missing], ..start(&job) };
    im.ask(&never).await;
    let ended = im.until_ended(never.instance).await;
    let why = format!("package content {none} cannot be fetched: no package manager answers");
    assert_eq!((ended.reason, ended.failed), (why, true));
    im.end().await;
    gone("a process", || !place.processes().is_empty()).await;
}
