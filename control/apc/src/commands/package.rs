//! `apc package …`, and packages as applications need them.
//!
//! Deliberately absent: building; the files are taken as they are.

use super::app::Made;
use crate::cli::{PackageCreate, PackageVerb};
use crate::client::{Answer, escaped};
use crate::edit;
use crate::failure::{Exit, Failure};
use crate::pack::{Archive, pack};
use crate::session::Session;
use crate::table::Table;
use crate::units;
use futures_util::StreamExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use wire::package::{Dependency, Resource};
use wire::{ErrorCode, Fqn, Package, PackageId, PackageState};

/// Bytes that are read and sent at once.
const PART_BYTES: usize = 256 * 1024;
/// Between two looks at how far an upload is.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
/// Names that are tried for a package.
const NAMES_MAX: usize = 2;

/// Runs the command.
pub(super) async fn run(session: &Session, verb: PackageVerb) -> Result<(), Failure> {
    match verb {
        PackageVerb::List { long, all } => list(session, long, all).await,
        PackageVerb::Show { name } => show(session, &name).await,
        PackageVerb::Create(flags) => create(session, flags).await,
        PackageVerb::Download { name, file } => download(session, &name, file).await,
        PackageVerb::Delete { name } => delete(session, &name).await,
    }
}

async fn list(session: &Session, long: bool, all: bool) -> Result<(), Failure> {
    let mut path = "/packages".to_owned();
    if !all {
        path += &format!("?namespace={}", escaped(session.namespace().await?.as_str()));
    }
    let mut packages: Vec<Package> = session.client()?.list(&path).await?;
    if !all {
        let here = session.namespace().await?;
        packages.retain(|package| here.covers(package.fqn.namespace()));
    }
    packages.sort_by(|a, b| a.fqn.cmp(&b.fqn));
    if session.print_json(&packages)? {
        return Ok(());
    }
    if !all {
        session.say_namespace().await?;
    }
    let mut table = if long {
        Table::new(&["Name", "Namespace", "State", "Size", "Package FQN", "Package UUID"])
    } else {
        Table::new(&["Name", "Namespace", "State", "Size"])
    };
    for package in &packages {
        let mut row = vec![
            package.fqn.local().to_owned(),
            package.fqn.namespace().to_string(),
            package.state.as_str().to_owned(),
            units::show_about(size(package)),
        ];
        if long {
            row.extend([package.fqn.to_string(), package.uuid.to_string()]);
        }
        table.row(row);
    }
    crate::screen::Screen::data(&table.render());
    Ok(())
}

fn size(package: &Package) -> u64 {
    package.resources.iter().map(|resource| resource.length).sum()
}

async fn show(session: &Session, name: &str) -> Result<(), Failure> {
    let package = session.package(name).await?;
    if session.print_json(&package)? {
        return Ok(());
    }
    crate::screen::Screen::data(&shown(&package));
    Ok(())
}

fn shown(package: &Package) -> String {
    let mut table = Table::new(&["Package:", package.fqn.local()]);
    let named = |list: &[Dependency]| {
        list.iter().map(|one| format!("{}.{}", one.kind, one.name)).collect::<Vec<_>>().join(", ")
    };
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("FQN:", package.fqn.to_string());
    row("UUID:", package.uuid.to_string());
    row("State:", package.state.as_str().to_owned());
    if !package.error_message.is_empty() {
        row("Error:", package.error_message.clone());
    }
    row("Created:", package.created_at.map(|at| at.to_string()).unwrap_or_default());
    row("Created By:", package.created_by.clone());
    row("Depends On:", named(&package.dependencies));
    row("Provides:", named(&package.provides));
    for resource in &package.resources {
        row("Content:", format!("{} {}", resource.digest, units::show_about(resource.length)));
    }
    for (name, value) in &package.environment {
        row("Environment:", format!("{name}={value}"));
    }
    table.render()
}

async fn create(session: &Session, flags: PackageCreate) -> Result<(), Failure> {
    let fqn = session.fqn("package", &flags.name).await?;
    let source = flags.path.or(flags.source).unwrap_or_else(|| ".".to_owned());
    let mut package = named(fqn);
    for pair in &flags.env_set {
        let (name, value) = edit::pair_of(pair)?;
        package.environment.insert(name.to_owned(), value.to_owned());
    }
    for text in edit::list(flags.depends_on.as_deref().unwrap_or_default()) {
        let (kind, name) = text.split_once('.').ok_or_else(|| {
            Failure::usage(format!("\"{text}\" is not a dependency"))
                .hint("os.linux, runtime.node or package.x")
        })?;
        package.dependencies.push(Dependency { kind: kind.to_owned(), name: name.to_owned() });
    }
    let step = session.screen.step("Packaging");
    let path = PathBuf::from(source);
    let packed = tokio::task::spawn_blocking(move || {
        if path.is_file() { Archive::existing(&path) } else { pack(&path) }
    });
    let archive = packed
        .await
        .map_err(|error| Failure::failed("packing broke off").because(error.to_string()))??;
    step.done();
    let made = match begin(session, &package, &archive).await {
        Ok(made) => made,
        Err(failure) => return Err(failure.while_doing("creating package")),
    };
    let package = upload(session, made, &archive).await?;
    session.print_json(&package)?;
    session.screen.success();
    Ok(())
}

async fn download(session: &Session, name: &str, file: Option<String>) -> Result<(), Failure> {
    let package = session.package(name).await?;
    let resource = package
        .resources
        .first()
        .ok_or_else(|| Failure::failed(format!("{} has no content", package.fqn)))?;
    let file = file.unwrap_or_else(|| format!("{}.tar.gz", package.fqn.local().replace('/', "-")));
    let told = |error: std::io::Error| {
        Failure::failed(format!("cannot write {file}")).because(error.to_string())
    };
    let beside = format!("{file}.part");
    let step = session.screen.step(format!("Downloading package \"{}\"", package.fqn.local()));
    let response =
        session.client()?.download(&format!("/packages/resources/{}", resource.uuid)).await?;
    let mut out = tokio::fs::File::create(&beside).await.map_err(told)?;
    let mut parts = response.bytes_stream();
    let mut hash = <sha2::Sha256 as sha2::Digest>::new();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| {
            Failure::new(Exit::Unreachable, "the download broke off").because(error.to_string())
        })?;
        sha2::Digest::update(&mut hash, &part);
        out.write_all(&part).await.map_err(told)?;
    }
    out.flush().await.map_err(told)?;
    let digest = format!("sha256:{}", hex::encode(sha2::Digest::finalize(hash)));
    if digest != resource.digest {
        drop(tokio::fs::remove_file(&beside).await);
        return Err(Failure::failed(format!("what came is not {}", package.fqn))
            .because(format!("its digest is {digest}, not {}", resource.digest))
            .hint("the same again"));
    }
    tokio::fs::rename(&beside, &file).await.map_err(told)?;
    step.done();
    session.print_json(&package)?;
    session.screen.say(format!("Wrote {file}"));
    session.screen.success();
    Ok(())
}

async fn delete(session: &Session, name: &str) -> Result<(), Failure> {
    let package = session.package(name).await?;
    if !session.screen.confirm(&format!("Delete {}?", package.fqn))? {
        return Err(Failure::failed("nothing was deleted").because("you said no"));
    }
    let step = session.screen.step(format!("Deleting package \"{}\"", package.fqn.local()));
    let deleted = session.client()?.delete(&format!("/packages/{}", package.uuid)).await;
    deleted.map_err(|failure| failure.while_doing("deleting package"))?;
    step.done();
    session.print_json(&package)?;
    session.screen.success();
    Ok(())
}

fn named(fqn: Fqn) -> Package {
    Package {
        uuid: PackageId(uuid::Uuid::nil()),
        name: fqn.local().to_owned(),
        fqn,
        state: PackageState::Unknown,
        dependencies: Vec::new(),
        provides: Vec::new(),
        environment: std::collections::BTreeMap::new(),
        resources: Vec::new(),
        tags: std::collections::BTreeMap::new(),
        error_message: String::new(),
        created_by: String::new(),
        created_at: None,
        updated_at: None,
        version_id: 0,
        extra: wire::job::Extra::new(),
    }
}

/// The package of an application: one with this content that is there is taken; a name that is taken by other content
/// gives way to one with the digest in it.
pub(super) async fn put(
    session: &Session,
    wanted: Fqn,
    archive: &Archive,
    reuse: bool,
) -> Result<Made, Failure> {
    let digest = hex::encode(archive.sha256);
    let mut fqn = wanted.clone();
    for _ in 0..NAMES_MAX {
        match begin(session, &named(fqn.clone()), archive).await {
            Ok(package) => {
                let made = Made { package, fresh: true };
                return match upload(session, made.package.clone(), archive).await {
                    Ok(package) => Ok(Made { package, fresh: true }),
                    Err(failure) => {
                        take_back(session, &made).await;
                        Err(failure)
                    }
                };
            }
            Err(failure) if failure.code() == Some(ErrorCode::Conflict) && reuse => {
                let there = session.find_package(&fqn).await?;
                match there.filter(|there| is_content(there, &digest)) {
                    Some(package) if package.state == PackageState::Ready => {
                        let name = package.fqn.local();
                        session.screen.say(format!("Package \"{name}\" has this content already"));
                        return Ok(Made { package, fresh: false });
                    }
                    // What an interrupted run left: its content is still to come.
                    Some(package) if package.state == PackageState::Uploading => {
                        let package = upload(session, package, archive).await?;
                        return Ok(Made { package, fresh: true });
                    }
                    _ => {}
                }
                let name = format!("{}-{}", wanted.local(), &digest[..8]);
                fqn = Fqn::new("package", wanted.namespace(), &name)
                    .map_err(|error| Failure::usage(error.to_string()))?;
            }
            Err(failure) => return Err(failure.while_doing("creating package")),
        }
    }
    Err(Failure::new(
        Exit::Conflict,
        format!("error creating package: {fqn} is there already, with other content"),
    )
    .hint(format!("apc package delete {fqn}")))
}

fn is_content(package: &Package, digest: &str) -> bool {
    let same = |resource: &Resource| resource.digest.strip_prefix("sha256:") == Some(digest);
    package.resources.len() == 1 && package.resources.iter().all(same)
}

/// The record; its content follows.
async fn begin(
    session: &Session,
    package: &Package,
    archive: &Archive,
) -> Result<Package, Failure> {
    let mut package = package.clone();
    package.resources = vec![Resource {
        uuid: uuid::Uuid::new_v4(),
        digest: format!("sha256:{}", hex::encode(archive.sha256)),
        sha1: String::new(),
        length: archive.length,
    }];
    let answer: Result<Answer<Package>, Failure> =
        session.client()?.post("/packages", &package).await;
    match answer {
        Ok(answer) => {
            session.screen.step(format!("Creating package \"{}\"", package.fqn.local())).done();
            Ok(answer.body)
        }
        Err(failure) => {
            if failure.code() != Some(ErrorCode::Conflict) {
                session
                    .screen
                    .step(format!("Creating package \"{}\"", package.fqn.local()))
                    .end("error");
            }
            Err(failure)
        }
    }
}

async fn upload(
    session: &Session,
    package: Package,
    archive: &Archive,
) -> Result<Package, Failure> {
    let resource = package
        .resources
        .first()
        .ok_or_else(|| Failure::failed(format!("{} has no resource", package.fqn)))?;
    let path = format!("/packages/{}/resources/{}", package.uuid, resource.uuid);
    let digest = format!("sha-256=:{}:", base64(&archive.sha256));
    let step = session.screen.step("Uploading package contents");
    if package.state == PackageState::Ready {
        // The cluster has this content from another package.
        step.end("done!");
        return Ok(package);
    }
    let sent = Arc::new(AtomicU64::new(0));
    let body = body_of(archive.path(), Arc::clone(&sent)).await?;
    let client = session.client()?;
    let mut work = std::pin::pin!(client.upload(&path, &digest, archive.length, body));
    let done = loop {
        match tokio::time::timeout(PROGRESS_PERIOD, &mut work).await {
            Ok(done) => break done,
            Err(_) => step.progress(&percent(sent.load(Ordering::Relaxed), archive.length)),
        }
    };
    done.map_err(|failure| failure.while_doing("uploading package"))?;
    step.end("done!");
    client.get(&format!("/packages/{}", package.uuid)).await
}

fn percent(sent: u64, length: u64) -> String {
    format!("{}%", sent.saturating_mul(100) / length.max(1))
}

/// The file, part by part, counted.
async fn body_of(path: &Path, sent: Arc<AtomicU64>) -> Result<reqwest::Body, Failure> {
    let file = tokio::fs::File::open(path).await;
    let file = file.map_err(|error| {
        Failure::failed(format!("cannot read {}", path.display())).because(error.to_string())
    })?;
    let parts = tokio_util::io::ReaderStream::with_capacity(file, PART_BYTES);
    Ok(reqwest::Body::wrap_stream(parts.inspect(move |part| {
        if let Ok(part) = part {
            sent.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
    })))
}

/// Takes back what a failed command made; a failure here would only hide the first one.
pub(super) async fn take_back(session: &Session, made: &Made) {
    if made.fresh {
        delete_unused(session, made.package.uuid).await;
    }
}

/// The cluster refuses if somebody uses it, which is what is wanted.
pub(super) async fn delete_unused(session: &Session, package: PackageId) {
    if let Ok(client) = session.client() {
        drop(client.delete(&format!("/packages/{package}")).await);
    }
}

/// RFC 4648 with padding, as RFC 9530 wants it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let word = part.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte))
            << (8 * (3 - part.len()));
        for at in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= part.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the examples of RFC 4648.
    #[test]
    fn base64_as_in_the_rfc() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    /// Goal: the table of one package.
    #[test]
    fn one_package_shown() {
        let mut package = named("package::/a::web".parse().unwrap());
        package.state = PackageState::Ready;
        package.dependencies.push(Dependency { kind: "os".to_owned(), name: "linux".to_owned() });
        let text = shown(&package);
        assert!(text.starts_with("╭─────────────┬─"), "{text}");
        assert!(text.contains("│ Package:    │ web "), "{text}");
        assert!(text.contains("│ Depends On: │ os.linux "), "{text}");
    }
}
