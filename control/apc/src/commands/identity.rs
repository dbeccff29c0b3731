//! `apc target`, `login`, `logout`, `namespace`, `version`: who, where, in which namespace.
//!
//! A token is kept as it is given. Deliberately absent: ways to get one.

use crate::failure::{Exit, Failure};
use crate::screen::Screen;
use crate::session::Session;
use crate::settings::{bearer, canonical_target};
use serde_json::json;
use std::io::Read;
use wire::Namespace;
use wire::api::{Info, Version};

/// Bytes of a token.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// `apc target`
pub(super) async fn target(session: &mut Session, url: Option<String>) -> Result<(), Failure> {
    let Some(url) = url else {
        let target = session.target()?;
        if session.globals.json {
            session.print_json(&json!({"target": target}))?;
            return Ok(());
        }
        // Without a token there may be no namespace; the target is still worth knowing.
        let namespace = session.namespace().await.map(ToString::to_string).unwrap_or_default();
        Screen::data(&format!(
            "Targeted [{target}] with the default namespace set to \"{namespace}\"\n"
        ));
        return Ok(());
    };
    let target = canonical_target(&url)?;
    let client = crate::client::Client::new(&target, None, session.globals.quiet)?;
    let info: Info = client.get("/info").await?;
    if target.starts_with("http://") {
        session.screen.say("Note: the target uses http; tokens are sent without encryption");
    }
    session.settings.target = Some(target.clone());
    session.settings.save(&session.settings_path)?;
    session.print_json(&info)?;
    session.screen.say(format!("Targeted [{target}]"));
    Ok(())
}

/// `apc login`
pub(super) async fn login(
    session: &mut Session,
    token: Option<String>,
    file: Option<String>,
) -> Result<(), Failure> {
    let target = session.target()?;
    let given = match (token, file) {
        (Some(_), Some(_)) => {
            return Err(Failure::usage("--token and --token-file exclude each other"));
        }
        (Some(token), None) => Some(token),
        (None, Some(file)) => Some(read_token(&file)?),
        (None, None) => session.screen.ask_secret("Token")?,
    };
    let token = given.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    let token = token
        .ok_or_else(|| Failure::usage("there is no token").hint("apc login --token-file FILE"))?;
    if token.chars().any(char::is_control) {
        return Err(Failure::usage("the token is more than one line")
            .hint("apc login --token-file FILE, with the file that holds the token alone"));
    }
    let token = bearer(&token);
    let step = session.screen.step("Logging in");
    let client = crate::client::Client::new(&target, Some(token.clone()), session.globals.quiet)?;
    let checked: Result<serde_json::Value, Failure> = client.get("/namespace/default").await;
    let answer = match checked {
        Ok(answer) => answer,
        Err(failure) => {
            step.end("error");
            return Err(failure);
        }
    };
    step.done();
    session.settings.tokens.insert(target, token);
    session.settings.save(&session.settings_path)?;
    session.print_json(&answer)?;
    session.screen.success();
    Ok(())
}

fn read_token(file: &str) -> Result<String, Failure> {
    let told = |error: std::io::Error| {
        Failure::failed(format!("cannot read {file}"))
            .because(error.to_string())
            .hint("apc login --token-file FILE, with the file that holds the token alone")
    };
    let mut text = String::new();
    if file == "-" {
        std::io::stdin().lock().take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(told)?;
    } else {
        std::fs::File::open(file)
            .map_err(told)?
            .take(TOKEN_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(told)?;
    }
    Ok(text)
}

/// `apc logout`
pub(super) fn logout(session: &mut Session) -> Result<(), Failure> {
    let target = session.target()?;
    session.settings.tokens.remove(&target);
    session.settings.save(&session.settings_path)?;
    session.screen.success();
    Ok(())
}

/// `apc namespace`
pub(super) async fn namespace(session: &mut Session, name: Option<String>) -> Result<(), Failure> {
    let Some(name) = name else {
        let namespace = session.namespace().await?.to_string();
        if !session.print_json(&namespace)? {
            Screen::data(&format!("{namespace}\n"));
        }
        return Ok(());
    };
    let namespace: Namespace = name.parse().map_err(|error: wire::FqnError| {
        Failure::usage(error.to_string()).hint("apc namespace /sandbox/admin")
    })?;
    let target = session.target()?;
    let step = session.screen.step(format!("Setting namespace to '{namespace}'"));
    let mut settings = session.settings.clone();
    settings.namespace.insert(target, namespace.to_string());
    settings.save(&session.settings_path)?;
    step.done();
    session.print_json(&namespace)?;
    Ok(())
}

/// `apc version`: this program's own is told even if the cluster's cannot be.
pub(super) async fn version(session: &Session) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let cluster: Result<Version, Failure> = match session.client() {
        Ok(client) => client.get("/version").await,
        Err(failure) => Err(failure),
    };
    if session.globals.json {
        session.print_json(&json!({"apc": own, "cluster": cluster.as_ref().ok()}))?;
    } else {
        let mut text = format!("apc {own}\n");
        if let Ok(version) = &cluster {
            text += &format!("cluster {} (API {})\n", version.version, version.api);
        }
        Screen::data(&text);
    }
    match cluster {
        Err(failure) if failure.exit != Exit::Usage => Err(failure),
        _ => Ok(()),
    }
}
