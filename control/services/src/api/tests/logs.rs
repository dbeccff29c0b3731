//! Logs: pages, notes, and a follower who misses and doubles nothing.

use super::fixture::{Cluster, answer};
use bus::{Bus, Next, Subscription};
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

/// Writes numbered lines: each is kept, then told on the bus, where some are lost and some come twice.
struct Writer {
    bus: Bus,
    job: JobId,
    kept: Mutex<Vec<LogLine>>,
}

impl Writer {
    /// The last line; it is neither lost nor doubled.
    const LINES: u64 = 600;

    /// So many lines more, or as many as are left.
    async fn write(&self, count: usize) {
        for _ in 0..count {
            let line = {
                let mut kept = self.kept.lock().unwrap();
                let seq = kept.len() as u64 + 1;
                if seq > Self::LINES {
                    return;
                }
                kept.push(line(self.job, seq));
                line(self.job, seq)
            };
            // Every seventh is lost, every fifth doubled.
            let copies = match line.seq {
                Self::LINES => 1,
                seq => usize::from(seq % 7 != 0) + usize::from(seq % 5 == 0),
            };
            let subject = subject::log(self.job, INSTANCE, LogStream::Stdout);
            for _ in 0..copies {
                self.bus.publish(&subject, &line).await.unwrap();
            }
        }
    }

    /// Answers questions for pages, and writes meanwhile.
    async fn keep(self: Arc<Self>, mut questions: Subscription) {
        while let Some(Next::Message(question)) = questions.next().await {
            let asked: LogRequest = question.decode().unwrap();
            // These are in the page, and a follower hears them as well.
            self.write(3).await;
            let lines = {
                let kept = self.kept.lock().unwrap();
                kept[kept.len().saturating_sub(asked.lines)..].to_vec()
            };
            // These are not in the page, and come while the follower waits for it.
            self.write(8).await;
            question.reply(&LogPage { im: ImId(uuid::Uuid::nil()), lines }).await.unwrap();
        }
    }
}

/// Goal: lines arrive while the follower begins, while it asks again and while it follows, some are lost on the bus, some
/// come twice: it shows each once, in order, from the newest that it asked for.
#[tokio::test]
async fn a_follower_misses_and_doubles_nothing() {
    let cluster = Cluster::new().await;
    let made = cluster.job("web", &[]).await;
    let id: JobId = made["uuid"].as_str().unwrap().parse().unwrap();
    let kept = Mutex::new((1..=50).map(|seq| line(id, seq)).collect());
    let writer = Arc::new(Writer { bus: cluster.bus.clone(), job: id, kept });
    let questions = cluster.bus.subscribe(subject::IM_LOGS, None).await.unwrap();
    let keeping = tokio::spawn(Arc::clone(&writer).keep(questions));
    let ims = Write::Put { key: "ims/x".to_owned(), value: "{}".into(), expect: Expect::Any };
    cluster.store.commit(&[ims]).await.unwrap();
    let path = format!("/v1/jobs/{id}/logs?follow=true&lines=10");
    let response = cluster.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let mut bytes = response.bytes_stream();
    let (mut rest, mut seqs) = (Vec::new(), Vec::new());
    while seqs.last() != Some(&Writer::LINES) {
        let wait = tokio::time::timeout(std::time::Duration::from_secs(10), bytes.next());
        rest.extend_from_slice(&wait.await.expect("the last line comes").unwrap().unwrap());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let text: Vec<u8> = rest.drain(..=end).collect();
            if text.len() > 1 {
                seqs.push(serde_json::from_slice::<LogLine>(&text).unwrap().seq);
                // Lines go on as they are read, so that a lost one is always followed by one that is not.
                writer.write(1).await;
            }
        }
    }
    keeping.abort();
    // Fifty were there and three came before the first page was made.
    assert_eq!(seqs, (44..=Writer::LINES).collect::<Vec<_>>());
}
