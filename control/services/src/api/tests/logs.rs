//! Logs: pages, notes, and a follower who misses and doubles nothing.

use super::fixture::{Cluster, answer};
use futures_util::StreamExt as _;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::sync::{Arc, Mutex};
use store::{Expect, Write};
use wire::logs::{LogLine, LogPage, LogRequest, LogStream};
use wire::{ImId, InstanceId, JobId, subject};

const INSTANCE: InstanceId = InstanceId(uuid::Uuid::from_u128(0xa243_4d21 << 96));

fn line(job: JobId, seq: u64) -> LogLine {
    LogLine {
        job,
        instance: Some(INSTANCE),
        stream: LogStream::Stdout,
        seq,
        at_ms: 1_000 + seq,
        text: format!("line {seq}"),
    }
}

/// An instance manager that keeps what was written.
async fn keeper(cluster: &Cluster, written: &Arc<Mutex<Vec<LogLine>>>) {
    let written = Arc::clone(written);
    answer(&cluster.bus, subject::IM_LOGS, None, &cluster.stop, move |asked: LogRequest| {
        let all = written.lock().unwrap();
        let newest = all.iter().skip(all.len().saturating_sub(asked.lines));
        Some(LogPage { im: ImId(uuid::Uuid::nil()), lines: newest.cloned().collect() })
    })
    .await;
}

#[tokio::test]
async fn the_newest_lines_come_with_the_notes() {
    let cluster = Cluster::new().await;
    let made = cluster.job("web", &[]).await;
    let id: JobId = made["uuid"].as_str().unwrap().parse().unwrap();
    let path = format!("/v1/jobs/{id}/logs");
    assert_eq!(cluster.get(&path).await.text, "", "nobody has a line");
    let written = Arc::new(Mutex::new((1..=40).map(|seq| line(id, seq)).collect()));
    keeper(&cluster, &written).await;
    let health =
        json!({ "notes": [{ "seq": 1, "at_ms": 1_039, "text": "now considered flapping" }] });
    let key = format!("job-health/{id}");
    let value = serde_json::to_vec(&health).unwrap().into();
    cluster.store.commit(&[Write::Put { key, value, expect: Expect::Any }]).await.unwrap();
    let ims = Write::Put { key: "ims/x".to_owned(), value: "{}".into(), expect: Expect::Any };
    cluster.store.commit(&[ims]).await.unwrap();
    let read = async |query: &str| {
        let text = cluster.get(&format!("{path}{query}")).await.text;
        let lines = text.lines().map(|line| serde_json::from_str::<LogLine>(line).unwrap().shown());
        lines.collect::<Vec<_>>()
    };
    assert_eq!(
        read("?lines=3").await,
        [
            "[system-error] now considered flapping",
            "[stdout][a2434d21] line 39",
            "[stdout][a2434d21] line 40"
        ]
    );
    assert_eq!(read("").await.len(), 20);
    assert!(
        cluster
            .get(&format!("{path}?lines=1501"))
            .await
            .error()
            .starts_with("400 invalid: 1501 lines")
    );
    assert_eq!(
        cluster.get("/v1/jobs/3c640b1e-52f1-4f6e-9b0e-6a4c1ad5f0a1/logs").await.status,
        StatusCode::NOT_FOUND
    );
}

/// Goal: lines arrive while the follower begins and while it follows, some are lost on the bus, some come twice: it shows
/// each once, in order, from the newest that it asked for.
#[tokio::test]
async fn a_follower_misses_and_doubles_nothing() {
    const LINES: u64 = 600;
    let cluster = Cluster::new().await;
    let made = cluster.job("web", &[]).await;
    let id: JobId = made["uuid"].as_str().unwrap().parse().unwrap();
    let written = Arc::new(Mutex::new((1..=50).map(|seq| line(id, seq)).collect::<Vec<_>>()));
    keeper(&cluster, &written).await;
    let ims = Write::Put { key: "ims/x".to_owned(), value: "{}".into(), expect: Expect::Any };
    cluster.store.commit(&[ims]).await.unwrap();
    let (bus, kept) = (cluster.bus.clone(), Arc::clone(&written));
    let subject = subject::log(id, INSTANCE, LogStream::Stdout);
    let writer = tokio::spawn(async move {
        for seq in 51..=LINES {
            kept.lock().unwrap().push(line(id, seq));
            // Every seventh is lost, every fifth doubled; the last is neither.
            let copies = if seq == LINES {
                1
            } else {
                usize::from(seq % 7 != 0) + usize::from(seq % 5 == 0)
            };
            for _ in 0..copies {
                bus.publish(&subject, &line(id, seq)).await.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_micros(300)).await;
        }
    });
    let path = format!("/v1/jobs/{id}/logs?follow=true&lines=10");
    let response = cluster.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let mut bytes = response.bytes_stream();
    let (mut rest, mut seqs) = (Vec::new(), Vec::new());
    while seqs.last() != Some(&LINES) {
        let wait = tokio::time::timeout(std::time::Duration::from_secs(10), bytes.next());
        rest.extend_from_slice(&wait.await.expect("the last line comes").unwrap().unwrap());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let text: Vec<u8> = rest.drain(..=end).collect();
            if text.len() > 1 {
                seqs.push(serde_json::from_slice::<LogLine>(&text).unwrap().seq);
            }
        }
    }
    writer.await.unwrap();
    let first = seqs[0];
    assert!(first >= 41, "ten lines, not all: {first}");
    assert_eq!(seqs, (first..=LINES).collect::<Vec<_>>());
}
