//! Jobs: records, versions, names, routes, lists.

use super::fixture::{Cluster, job};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Goal: what only the server may set is set by it, what it does not know is kept, and the record is read back as it was
/// answered.
#[tokio::test]
async fn a_job_is_created_and_nothing_is_forged() {
    let cluster = Cluster::new().await;
    let mut sent = job("web", &["App.Example.com/"]);
    sent["uuid"] = "3c640b1e-52f1-4f6e-9b0e-6a4c1ad5f0a1".into();
    sent["created_by"] = "mallory".into();
    sent["created_at"] = "1999-01-01T00:00:00Z".into();
    sent["version_id"] = 77.into();
    sent["restart_version"] = 77.into();
    sent["health"] = json!({ "score": 1.0 });
    sent["from_the_future"] = json!({ "a": [1] });
    let reply = cluster.post("/v1/jobs", &sent).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text);
    let made = reply.json();
    assert_ne!(made["uuid"], sent["uuid"]);
    assert_eq!((&made["created_by"], &made["updated_by"]), (&json!("admin"), &json!("admin")));
    assert!(made["created_at"].as_str().unwrap().starts_with("20"));
    assert_eq!((&made["version_id"], &made["name"]), (&json!(1), &json!("web")));
    assert_eq!((&made["restart_version"], &made["health"]), (&Value::Null, &Value::Null));
    assert_eq!(made["from_the_future"], sent["from_the_future"]);
    assert_eq!(made["ports"][0]["routes"][0]["endpoint"], "app.example.com");
    let path = format!("/v1/jobs/{}", made["uuid"].as_str().unwrap());
    assert_eq!(reply.header("location"), path);
    assert_eq!(reply.header("apcera-revision"), "1");
    let mut read = cluster.get(&path).await.json();
    assert_eq!(read["health"]["score"], 0.0);
    read.as_object_mut().unwrap().remove("health");
    assert_eq!(read, made);
    let stored = cluster.store.get(path.trim_start_matches("/v1/")).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&stored.value).contains("health"));
    // The same without /v1.
    assert_eq!(cluster.get(path.trim_start_matches("/v1")).await.json()["uuid"], made["uuid"]);
}

#[tokio::test]
async fn mistakes_in_a_record_are_named() {
    let cluster = Cluster::new().await;
    cluster.job("web", &[]).await;
    let mut refused = Vec::new();
    for change in [
        json!({ "fqn": "job::/sandbox/admin::web" }),
        json!({ "fqn": "web" }),
        json!({ "fqn": "package::/a::b" }),
        json!({ "fqn": "job::/a::b", "state": "errored" }),
        json!({ "fqn": "job::/a::b", "num_instances": 100_000 }),
        json!({ "fqn": "job::/a::b", "client_acl": "allow nobody" }),
        json!({ "fqn": "job::/a::b", "packages": [{ "uuid": "3c640b1e-52f1-4f6e-9b0e-6a4c1ad5f0a1" }] }),
    ] {
        let reply = cluster.post("/v1/jobs", &change).await;
        refused.push(reply.error());
    }
    assert_eq!(
        refused[0],
        "409 conflict: error creating job: job::/sandbox/admin::web already exists"
    );
    assert_eq!(refused[1], "400 invalid: the body is not what was expected");
    assert_eq!(refused[2], "400 invalid: package::/a::b is not the name of a job");
    assert_eq!(refused[3], "400 invalid: state \"errored\" is set by the platform");
    assert!(refused[4].starts_with("400 invalid: num_instances is 100000"), "{}", refused[4]);
    assert!(refused[5].starts_with("400 invalid: client_acl"), "{}", refused[5]);
    assert_eq!(refused[6], "400 invalid: there is no package 3c640b1e-52f1-4f6e-9b0e-6a4c1ad5f0a1");
}

/// Goal: the text of the documents, word for word, in both directions; the same flag joins.
#[tokio::test]
async fn the_https_only_flag_of_a_route_is_fixed() {
    let cluster = Cluster::new().await;
    let with_flag = |name: &str| {
        let mut sent = job(name, &["app.example.com"]);
        sent["ports"][0]["routes"][0]["https_only"] = true.into();
        sent
    };
    assert_eq!(cluster.post("/v1/jobs", &with_flag("app1")).await.status, StatusCode::CREATED);
    let refused = cluster.post("/v1/jobs", &job("app2", &["app.example.com"])).await;
    let text = "409 conflict: error creating job: Route app.example.com https-only flag conflict";
    assert_eq!(refused.error(), text);
    assert_eq!(cluster.post("/v1/jobs", &with_flag("app2")).await.status, StatusCode::CREATED);
    cluster.job("plain", &["plain.example.com"]).await;
    let mut other = with_flag("app3");
    other["ports"][0]["routes"][0]["endpoint"] = "plain.example.com".into();
    let text = "409 conflict: error creating job: Route plain.example.com https-only flag conflict";
    assert_eq!(cluster.post("/v1/jobs", &other).await.error(), text);
    assert_eq!(cluster.post("/v1/jobs/check", &other).await.error(), text);
}

/// Goal: fifty writers from the same version: exactly one is in, the others are told both versions.
#[tokio::test]
async fn one_of_fifty_writers_wins() {
    let cluster = Cluster::new().await;
    let made = cluster.job("web", &["app.example.com"]).await;
    let path = format!("/v1/jobs/{}", made["uuid"].as_str().unwrap());
    let writers = (0..50).map(|n| {
        let mut sent = made.clone();
        sent["num_instances"] = n.into();
        let (cluster, path) = (&cluster, &path);
        async move { cluster.put(path, &sent).await }
    });
    let replies = futures_util::future::join_all(writers).await;
    let won: Vec<_> = replies.iter().filter(|reply| reply.status == StatusCode::OK).collect();
    assert_eq!(won.len(), 1);
    let lost: BTreeSet<_> =
        replies.iter().filter(|reply| reply.status != StatusCode::OK).map(|r| r.error()).collect();
    let text =
        "409 conflict: job::/sandbox/admin::web is at version 2, the request changes version 1";
    assert_eq!(lost, BTreeSet::from([text.to_owned()]));
    let now = cluster.get(&path).await.json();
    assert_eq!(now["num_instances"], won[0].json()["num_instances"]);
}

/// Goal: jobs that join one route at the same time do not see each other as conflicts.
#[tokio::test]
async fn many_join_one_route_at_once() {
    let cluster = Cluster::new().await;
    let makers = (0..12).map(|n| {
        let (cluster, sent) = (&cluster, job(&format!("app{n}"), &["app.example.com"]));
        async move { cluster.post("/v1/jobs", &sent).await }
    });
    for reply in futures_util::future::join_all(makers).await {
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text);
    }
    let users = cluster.get("/v1/jobs/routes/app.example.com").await.json();
    assert_eq!(users["app.example.com"].as_array().unwrap().len(), 12);
}

#[tokio::test]
async fn a_started_job_must_be_stopped_for_a_change_of_what_runs() {
    let cluster = Cluster::new().await;
    let mut sent = job("web", &[]);
    sent["state"] = "started".into();
    let made = cluster.post("/v1/jobs", &sent).await.json();
    let path = format!("/v1/jobs/{}", made["uuid"].as_str().unwrap());
    let mut change = made.clone();
    change["resources"]["memory"] = (1u64 << 30).into();
    change["processes"]["app"] = json!({ "start_command": "./web" });
    let refused = cluster.put(&path, &change).await;
    assert_eq!(
        refused.error(),
        "409 requires_restart: job::/sandbox/admin::web is started, a change of processes, resources needs a restart"
    );
    assert_eq!(refused.json()["error_details"]["fields"], json!(["processes", "resources"]));
    assert_eq!(refused.json()["requires_restart"], true);
    // What running instances can take over is no such change.
    let mut scale = made.clone();
    scale["num_instances"] = 3.into();
    let scaled = cluster.put(&path, &scale).await;
    assert_eq!((scaled.status, &scaled.json()["version_id"]), (StatusCode::OK, &json!(2)));
    assert!(scaled.header("apcera-task").starts_with("/v1/tasks/"));
    change["version_id"] = 2.into();
    let restarted = cluster.put(&format!("{path}?restart=true"), &change).await.json();
    assert_eq!((&restarted["version_id"], &restarted["restart_version"]), (&json!(3), &json!(3)));
    let again = cluster.send(cluster.request(Method::POST, &format!("{path}/restart"))).await;
    assert_eq!(again.status, StatusCode::ACCEPTED);
    assert_eq!(again.json()["location"], again.header("location"));
    assert_eq!(cluster.get(&path).await.json()["restart_version"], 4);
    let nobody = "/v1/jobs/3c640b1e-52f1-4f6e-9b0e-6a4c1ad5f0a1/restart";
    let missing = cluster.send(cluster.request(Method::POST, nobody)).await;
    assert!(missing.error().starts_with("404 not_found"), "{}", missing.text);
}
