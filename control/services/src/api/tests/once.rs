//! Requests that are made twice.

use super::fixture::{Cluster, Reply, job};
use reqwest::{Method, StatusCode};
use serde_json::Value;

async fn create(cluster: &Cluster, key: &str, body: &Value) -> Reply {
    let request = cluster.request(Method::POST, "/v1/jobs").header("Idempotency-Key", key);
    cluster.send(request.json(body)).await
}

/// Goal: the same key gives the same answer and one effect, on any server; another request under it is refused; without
/// an effect nothing is kept.
#[tokio::test]
async fn a_repeat_gives_the_first_answer() {
    let cluster = Cluster::new().await;
    let body = job("web", &["auto"]);
    let refused =
        create(&cluster, "k1", &serde_json::json!({ "fqn": "job::/a::b", "state": "errored" }))
            .await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let first = create(&cluster, "k1", &body).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    let (other, _stop, _running) = cluster.another(8).await;
    let url = format!("{other}/jobs");
    let again = cluster.request(Method::POST, &url).header("Idempotency-Key", "k1").json(&body);
    let again = cluster.send(again).await;
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(again.header("apcera-revision"), first.header("apcera-revision"));
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(
        (first.header("idempotency-replayed"), again.header("idempotency-replayed")),
        ("", "true")
    );
    let misuse = create(&cluster, "k1", &job("other", &[])).await;
    assert_eq!(misuse.error(), "422 mismatch: this Idempotency-Key was used for another request");
    assert!(create(&cluster, "k 2", &body).await.error().starts_with("400 invalid"));
    assert_eq!(cluster.get("/v1/jobs").await.json().as_array().unwrap().len(), 1);
}

/// Goal: twenty copies of one request at once have one effect and twenty equal answers; a removal too.
#[tokio::test]
async fn copies_at_once_are_one() {
    let cluster = Cluster::new().await;
    let body = job("web", &["app.example.com"]);
    let copies = (0..20).map(|_| create(&cluster, "same", &body));
    let replies = futures_util::future::join_all(copies).await;
    let first = &replies[0];
    assert!(replies.iter().all(|r| r.status == StatusCode::CREATED && r.text == first.text));
    let path = first.header("location").to_owned();
    for _ in 0..2 {
        let request = cluster.request(Method::DELETE, &path).header("Idempotency-Key", "gone");
        assert_eq!(cluster.send(request).await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(cluster.delete(&path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(cluster.get("/v1/jobs/routes").await.text, "{}");
}
