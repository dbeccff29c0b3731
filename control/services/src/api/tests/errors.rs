//! What every path has in common: who may, the form of mistakes, methods, ids, and the document.

use super::fixture::{Cluster, SECRET};
use crate::api::openapi::document;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::path::Path;

/// Goal: `docs/openapi.json` is what the server serves. `UPDATE_OPENAPI=1 cargo test -p services openapi` writes it anew.
#[tokio::test]
async fn the_openapi_document_is_in_the_repository() {
    let cluster = Cluster::new().await;
    let served = cluster.get("/v1/openapi.json").await.json();
    assert_eq!(served, *document());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        let text = serde_json::to_string_pretty(document()).unwrap() + "\n";
        std::fs::write(&path, text).unwrap();
    }
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(kept, served, "run UPDATE_OPENAPI=1 cargo test -p services openapi");
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));
}

/// Goal: every path of the document exists under its methods, wants a token unless it says that it does not, and answers
/// a wrong method in the one form.
#[tokio::test]
async fn every_documented_path_is_there_and_guarded() {
    let cluster = Cluster::new().await;
    let anonymous = reqwest::Client::builder().no_proxy().build().unwrap();
    let paths = document()["paths"].as_object().unwrap();
    for (path, methods) in paths {
        let uuid = "3c640b1e-52f1-4f6e-9b0e-6a4c1ad5f0a1";
        let path = path.replace("{uuid}", uuid).replace("{instance}", uuid);
        let path = path.replace("{resource}", uuid).replace("{endpoint}", "a.example.com");
        for (method, operation) in methods.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let open =
                operation["security"].as_array().is_some_and(|s| s == &[serde_json::json!({})]);
            for prefix in ["/v1", ""] {
                let url = format!("{}{prefix}{path}", cluster.url);
                let answer = anonymous.request(method.clone(), &url).send().await.unwrap();
                let wanted = if open { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
                assert_eq!(answer.status(), wanted, "{method} {url}");
            }
        }
        let wrong = cluster.send(cluster.request(Method::PATCH, &format!("/v1{path}"))).await;
        assert!(wrong.error().starts_with("405 invalid"), "{}", wrong.text);
        assert!(!wrong.header("allow").is_empty() && wrong.json()["try"] != "");
        let options = anonymous.request(Method::OPTIONS, format!("{}/v1{path}", cluster.url));
        let options = options.send().await.unwrap();
        assert_eq!(options.status(), StatusCode::NO_CONTENT, "{path}");
        assert!(options.headers().contains_key("allow"));
    }
}

#[tokio::test]
async fn tokens_are_checked() {
    let cluster = Cluster::new().await;
    let ask = |token: &str| {
        let request = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = request.get(format!("{}/v1/jobs", cluster.url));
        cluster.send(request.header("authorization", token))
    };
    assert_eq!(ask(&format!("bearer {SECRET}")).await.status, StatusCode::OK);
    for wrong in ["Bearer nonsense", "Basic YTpi", SECRET] {
        let refused = ask(wrong).await;
        let text = "401 unauthenticated: the token is not known to this cluster";
        assert_eq!(refused.error(), text);
        assert_eq!(
            (refused.header("www-authenticate"), &refused.json()["token_invalid"]),
            ("Bearer", &true.into())
        );
    }
}

#[tokio::test]
async fn mistakes_have_one_form() {
    let cluster = Cluster::new().await;
    let missing = cluster.get("/v1/nowhere").await;
    assert_eq!(missing.error(), "404 not_found: there is no /v1/nowhere");
    assert_eq!(missing.json()["resource_missing"], true);
    let garbled = cluster.get("/v1/jobs/web").await;
    assert!(
        garbled.error().starts_with("400 invalid: /v1/jobs/web")
            || garbled.error().starts_with("400 invalid: /jobs/web")
    );
    let slip = cluster.get("/v1/jobs?fqm=x").await;
    assert!(slip.json()["why"].as_str().unwrap().contains("fqm"), "{}", slip.text);
    let large = "x".repeat(2 << 20);
    let refused = cluster.post("/v1/jobs", &large).await;
    assert!(refused.error().starts_with("413 too_large"), "{}", refused.text);
    let xml =
        cluster.request(Method::POST, "/v1/jobs").header("content-type", "text/xml").body("<a/>");
    assert_eq!(
        cluster.send(xml).await.error(),
        "400 invalid: a body of type \"text/xml\" is not understood"
    );
    let one = missing.header("x-request-id").to_owned();
    assert!(one.len() == 32 && one != slip.header("x-request-id"));
}

/// Goal: HEAD is GET without the body, and release 3 types come back as they were asked for.
#[tokio::test]
async fn head_and_vendor_types() {
    let cluster = Cluster::new().await;
    let head = cluster.send(cluster.request(Method::HEAD, "/v1/jobs")).await;
    assert_eq!((head.status, head.text.as_str()), (StatusCode::OK, ""));
    let kind = "application/vnd.apcera.jobs;version=1";
    let vendor = cluster.send(cluster.request(Method::GET, "/jobs").header("accept", kind)).await;
    assert_eq!((vendor.header("content-type"), vendor.text.as_str()), (kind, "[]"));
}

#[tokio::test]
async fn a_cluster_tells_its_name() {
    let cluster = Cluster::new().await;
    let info = cluster.get("/v1/info").await.json();
    assert_eq!(
        (&info["name"], &info["cluster_domain"]),
        (&"Continuum".into(), &"apcera.test".into())
    );
    assert_eq!(info["url"], cluster.url);
    assert_eq!(cluster.get("/v1/version").await.json()["api"], 1);
    assert_eq!(cluster.get("/healthz").await.text, "ok\n");
    let namespace = cluster.get("/v1/namespace/default").await.json();
    assert_eq!(namespace["namespace"], "/sandbox/admin");
}

/// Goal: with streams open, the server ends soon after it was asked to.
#[tokio::test]
async fn the_end_ends_streams() {
    let mut cluster = Cluster::new().await;
    let stream = cluster.request(Method::GET, "/v1/watch?prefix=jobs").send().await.unwrap();
    cluster.stop.cancel();
    let ended = cluster.api.take().unwrap().ended();
    tokio::time::timeout(std::time::Duration::from_secs(4), ended).await.unwrap();
    drop(stream);
}
