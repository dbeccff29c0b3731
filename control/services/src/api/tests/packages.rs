//! Packages with a real package manager behind them.

use super::fixture::{Cluster, Reply, job};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Content that does not fit one chunk.
fn content() -> Vec<u8> {
    (0..300_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

/// It runs until what is returned is dropped.
async fn package_manager(cluster: &Cluster) -> (tempdir::Dir, crate::pm::Running) {
    let dir = tempdir::Dir::new();
    let place = crate::pm::Place::Directory(dir.0.clone());
    let settings = crate::pm::Settings::new("127.0.0.1:0".parse().unwrap(), place);
    let (bus, store) = (cluster.bus.clone(), cluster.store.clone());
    let running = crate::pm::start(settings, bus, store, cluster.stop.clone()).await.unwrap();
    let found = crate::pm::client::locate(&cluster.bus).await.unwrap();
    assert_eq!(found.len(), 1, "it can be asked as soon as it has started");
    (dir, running)
}

mod tempdir {
    /// A directory that goes with the test.
    pub(super) struct Dir(pub std::path::PathBuf);

    impl Dir {
        pub(super) fn new() -> Self {
            let path = std::env::temp_dir().join(format!("apcera-api-{}", uuid::Uuid::new_v4()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }
}

async fn create(cluster: &Cluster, name: &str) -> Value {
    let reply = cluster
        .post("/v1/packages", &json!({ "fqn": format!("package::/sandbox/admin::{name}") }))
        .await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text);
    reply.json()
}

async fn upload(cluster: &Cluster, package: &Value, resource: &str, digest: Option<&str>) -> Reply {
    let path = format!("/v1/packages/{}/resources/{resource}", package["uuid"].as_str().unwrap());
    let mut request = cluster.request(Method::PUT, &path).body(content());
    if let Some(digest) = digest {
        request = request.header("Content-Digest", digest);
    }
    cluster.send(request).await
}

const RESOURCE: &str = "3c640b1e-52f1-4f6e-9b0e-6a4c1ad5f0a1";

/// Goal: a package becomes ready with its content, which comes back whole or in part; a wrong digest changes nothing.
#[tokio::test]
async fn contents_go_up_and_come_back() {
    let cluster = Cluster::new().await;
    let none = create(&cluster, "early").await;
    let refused = upload(&cluster, &none, RESOURCE, None).await;
    assert_eq!(
        refused.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "no package manager: {}",
        refused.text
    );
    let _manager = package_manager(&cluster).await;
    let made = create(&cluster, "web").await;
    assert_eq!((&made["state"], &made["version_id"]), (&json!("uploading"), &json!(1)));
    let wrong = "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709";
    assert_eq!(
        upload(&cluster, &made, RESOURCE, Some(wrong)).await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    let wrong = format!("sha256:{}", "0".repeat(64));
    assert_eq!(
        upload(&cluster, &made, RESOURCE, Some(&wrong)).await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert!(
        upload(&cluster, &made, RESOURCE, Some("nonsense"))
            .await
            .error()
            .starts_with("400 invalid")
    );
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(content())));
    let done = upload(&cluster, &made, RESOURCE, Some(&digest)).await;
    assert_eq!(
        (done.status, &done.json()["state"]),
        (StatusCode::OK, &json!("ready")),
        "{}",
        done.text
    );
    assert_eq!(done.json()["resources"][0]["digest"], digest);
    let path = format!("/v1/packages/resources/{RESOURCE}");
    let fetch = async |range: &str| {
        let request = cluster.request(Method::GET, &path).header("Range", range);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.headers().clone(), answer.bytes().await.unwrap())
    };
    let (status, _, bytes) = fetch("none").await;
    assert!(status == 200 && bytes == content());
    let (status, headers, bytes) = fetch("bytes=100-199").await;
    assert!(status == 206 && bytes == content()[100..200]);
    assert_eq!(headers["content-range"], "bytes 100-199/300000");
    assert_eq!(fetch("bytes=300000-").await.0, 416);
    let missing = cluster.get("/v1/packages/resources/3c640b1e-52f1-4f6e-9b0e-6a4c1ad5f0a9").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    // Content that is there need not be sent again.
    let known = json!({ "fqn": "package::/sandbox/admin::copy", "resources": [{ "uuid": uuid::Uuid::nil(), "digest": digest, "length": 300_000 }] });
    assert_eq!(cluster.post("/v1/packages", &known).await.json()["state"], "ready");
    let other = upload(&cluster, &create(&cluster, "other").await, RESOURCE, None).await;
    assert!(other.error().ends_with("belongs to another package"), "{}", other.text);
}

/// Goal: a package goes only when no job uses it, and is as before when it cannot go.
#[tokio::test]
async fn a_used_package_stays() {
    let cluster = Cluster::new().await;
    let _manager = package_manager(&cluster).await;
    let made = create(&cluster, "web").await;
    let path = format!("/v1/packages/{}", made["uuid"].as_str().unwrap());
    let mut user = job("web", &[]);
    user["packages"] = json!([{ "uuid": made["uuid"] }]);
    user["state"] = "started".into();
    let early = cluster.post("/v1/jobs", &user).await;
    assert_eq!(early.error(), "409 conflict: package::/sandbox/admin::web is uploading, not ready");
    upload(&cluster, &made, RESOURCE, None).await;
    let user = cluster.post("/v1/jobs", &user).await.json();
    assert_eq!(user["packages"][0]["state"], "ready");
    let refused = cluster.delete(&path).await;
    assert_eq!(
        refused.error(),
        "409 conflict: package::/sandbox/admin::web is used by job::/sandbox/admin::web"
    );
    assert_eq!(refused.json()["error_details"]["jobs"], json!([user["uuid"]]));
    assert_eq!(cluster.get(&path).await.json()["state"], "ready");
    let list = cluster.get("/v1/jobs?package_id=".to_owned().as_str()).await;
    assert_eq!(list.status, StatusCode::BAD_REQUEST);
    let list =
        cluster.get(&format!("/v1/jobs?package_id={}", made["uuid"].as_str().unwrap())).await;
    assert_eq!(list.json()[0]["uuid"], user["uuid"]);
    cluster.delete(&format!("/v1/jobs/{}", user["uuid"].as_str().unwrap())).await;
    assert_eq!(cluster.delete(&path).await.status, StatusCode::NO_CONTENT);
    assert_eq!(
        cluster.get(&path).await.error(),
        format!("404 not_found: there is no package {}", made["uuid"].as_str().unwrap())
    );
    create(&cluster, "web").await;
}

#[tokio::test]
async fn packages_are_listed_and_changed() {
    let cluster = Cluster::new().await;
    let b = create(&cluster, "b").await;
    create(&cluster, "a").await;
    let list = cluster.get("/v1/packages?count=1").await;
    assert_eq!(
        (&list.json()[0]["name"], list.header("next")),
        (&json!("a"), "/v1/packages?page=2&count=1")
    );
    let named = cluster.get("/v1/packages?fqn=package::/sandbox/admin::b").await.json();
    assert_eq!((named.as_array().unwrap().len(), &named[0]["uuid"]), (1, &b["uuid"]));
    assert!(cluster.get("/v1/packages?namespace=x").await.error().starts_with("400 invalid"));
    let taken = cluster.post("/v1/packages", &json!({ "fqn": "package::/sandbox/admin::a" })).await;
    assert_eq!(
        taken.error(),
        "409 conflict: error creating package: package::/sandbox/admin::a already exists"
    );
    let path = format!("/v1/packages/{}", b["uuid"].as_str().unwrap());
    let mut change = b.clone();
    change["environment"] = json!({ "A": "1" });
    change["state"] = "ready".into();
    change["created_by"] = "mallory".into();
    let changed = cluster.put(&path, &change).await.json();
    assert_eq!(
        (&changed["environment"]["A"], &changed["state"]),
        (&json!("1"), &json!("uploading"))
    );
    assert_eq!((&changed["created_by"], &changed["version_id"]), (&json!("admin"), &json!(2)));
    let stale = cluster.put(&path, &change).await;
    assert_eq!(
        stale.error(),
        "409 conflict: package::/sandbox/admin::b is at version 2, the request changes version 1"
    );
}
