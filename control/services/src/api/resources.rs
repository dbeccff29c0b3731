//! Contents of packages: passed on to a package manager as they come, and from one as they go.
//!
//! Nothing is kept here, not even for a moment: what a client sends runs through. Deliberately absent: where contents
//! are kept and how they are checked; that is the package manager's.

use super::packages::{ATTEMPTS_MAX, Belongs, RESOURCES_MAX, current, read, resource_key};
use super::received::At;
use super::respond::{Answer, Failure, json, set};
use super::state::{Shared, put};
use crate::authorize::{Action, Principal, authorize};
use crate::jobs::package_key;
use crate::pm::{Stored, Wanted, wanted};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use store::{Expect, StoreError};
use uuid::Uuid;
use wire::package::Resource;
use wire::{ApiError, ErrorCode, Package, PackageId, PackageState, Timestamp};

/// What a client says about the content that it sends.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    Nothing,
    /// 64 hexadecimal digits.
    Sha256(String),
    /// 40 hexadecimal digits.
    Sha1(String),
}

/// The digits of `sha256:…`.
pub(super) fn sha256_of(digest: &str) -> Option<&str> {
    digest.strip_prefix("sha256:").filter(|hex| is_hex(hex, 64))
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether every resource of the package is with a package manager.
pub(super) async fn all_there(api: &Shared, package: &Package) -> Result<bool, Failure> {
    for resource in &package.resources {
        let Some(sha256) = sha256_of(&resource.digest) else { return Ok(false) };
        match api.objects.length(sha256).await {
            Ok(_) => {}
            Err(error) if error.error == ErrorCode::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Uploads a resource. `Content-Digest` is checked when it is there: `sha-256=:…:` (RFC 9530), `sha256:…` or `sha1:…`.
#[utoipa::path(put, path = "/packages/{uuid}/resources/{resource}", tag = "packages",
    params(("uuid" = uuid::Uuid, Path), ("resource" = uuid::Uuid, Path), ("Content-Digest" = Option<String>, Header)),
    request_body(content_type = "application/octet-stream", content = Vec<u8>),
    responses((status = 200, description = "The package is ready when all its resources are there", body = Package),
        (status = 404, body = ApiError), (status = 413, body = ApiError), (status = 422, description = "The digest differs", body = ApiError)))]
pub(super) async fn upload(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At((id, resource)): At<(PackageId, Uuid)>,
    request: Request,
) -> Answer {
    let package = read(&api, id).await?;
    authorize(&who, Action::Update, &package.fqn)?;
    let known = package.resources.iter().any(|known| known.uuid == resource);
    if !known && package.resources.len() >= RESOURCES_MAX {
        let message = format!("a package may have {RESOURCES_MAX} resources");
        return Err(Failure::new(ErrorCode::TooLarge, message));
    }
    let claim = claim(request.headers())?;
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let sha256 = match &claim {
        Claim::Sha256(hex) => Some(hex.as_str()),
        _ => None,
    };
    let content = request.into_body().into_data_stream();
    let stored = api.objects.upload(sha256, length, content).await?;
    if let Claim::Sha1(hex) = &claim {
        // The content stays for a while and then goes: no package refers to it.
        if stored.sha1 != format!("sha1:{hex}") {
            let message = format!("the content is {}, not sha1:{hex}", stored.sha1);
            return Err(Failure::new(ErrorCode::Mismatch, message).hint("send it again"));
        }
    }
    let (package, revision) = note(&api, id, resource, stored).await?;
    let mut response = json(StatusCode::OK, &package);
    set(response.headers_mut(), wire::api::REVISION, &revision.to_string());
    Ok(response)
}

/// Writes down that the content is there.
async fn note(
    api: &Shared,
    id: PackageId,
    resource: Uuid,
    stored: Stored,
) -> Result<(Package, u64), Failure> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(record) = api.store.get(&package_key(id)).await? else { break };
        let mut package = current(&record)?;
        if package.state == PackageState::Deleted {
            break;
        }
        let entry = Resource {
            uuid: resource,
            digest: stored.digest.clone(),
            sha1: stored.sha1.clone(),
            length: stored.length,
        };
        match package.resources.iter_mut().find(|known| known.uuid == resource) {
            Some(known) if sha256_of(&known.digest).is_some() && known.digest != entry.digest => {
                let message =
                    format!("resource {resource} is {}, not {}", known.digest, entry.digest);
                return Err(Failure::new(ErrorCode::Mismatch, message)
                    .because("contents of a package do not change")
                    .hint("a new package for new contents"));
            }
            Some(known) => *known = entry,
            None => package.resources.push(entry),
        }
        if all_there(api, &package).await? {
            package.state = PackageState::Ready;
        }
        package.updated_at = Some(Timestamp::from_unix_ms(api.now_ms()));
        package.version_id = record.version + 1;
        let belongs = api.read::<Belongs>(&resource_key(resource)).await?;
        let expect = match &belongs {
            None => Expect::Absent,
            Some((belongs, at)) if belongs.package == id => Expect::Version(at.version),
            Some(_) => {
                let message = format!("resource {resource} belongs to another package");
                return Err(Failure::new(ErrorCode::Conflict, message).hint("a new UUID"));
            }
        };
        let writes = [
            put(package_key(id), &package, Expect::Version(record.version))?,
            put(resource_key(resource), &Belongs { package: id }, expect)?,
        ];
        match api.store.commit(&writes).await {
            Ok(revision) => return Ok((package, revision)),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(ErrorCode::Conflict, format!("package {id} changes or goes at the same time"))
        .hint("try again"))
}

/// The content of a resource, whole or one range of it.
#[utoipa::path(get, path = "/packages/resources/{uuid}", tag = "packages",
    params(("uuid" = uuid::Uuid, Path), ("Range" = Option<String>, Header)),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, body = ApiError), (status = 416, body = ApiError)))]
pub(super) async fn download(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<Uuid>,
    headers: HeaderMap,
) -> Answer {
    let none = || Failure::new(ErrorCode::NotFound, format!("there is no resource {id}"));
    let (belongs, _) = api.read::<Belongs>(&resource_key(id)).await?.ok_or_else(none)?;
    let package = read(&api, belongs.package).await?;
    authorize(&who, Action::Read, &package.fqn)?;
    let found = package.resources.iter().find(|resource| resource.uuid == id);
    let resource = found.ok_or_else(none)?;
    let sha256 = sha256_of(&resource.digest).ok_or_else(none)?;
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let (status, part) = match wanted(range, resource.length) {
        Wanted::Whole => (StatusCode::OK, None),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, Some(range)),
        Wanted::Unsatisfiable => return Err(unsatisfiable(resource.length)),
    };
    let asked = part.as_ref().map(|range| (range.start, Some(range.end - 1)));
    let content = api.objects.download(sha256, asked).await?;
    let bytes =
        content.bytes.map(|chunk| chunk.map_err(|error| std::io::Error::other(error.message)));
    let mut response = Response::new(Body::from_stream(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    set(headers, "content-type", "application/octet-stream");
    set(headers, "accept-ranges", "bytes");
    set(headers, "etag", &format!("\"{sha256}\""));
    let (range, length) = (content.range, content.length);
    set(headers, "content-length", &(range.end - range.start).to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        let last = range.end.saturating_sub(1);
        set(headers, "content-range", &format!("bytes {}-{last}/{length}", range.start));
    }
    Ok(response)
}

fn unsatisfiable(length: u64) -> Failure {
    let message = format!("the resource has {length} bytes, not those that Range asks for");
    let mut failure = Failure::new(ErrorCode::Invalid, message);
    failure.0.code = StatusCode::RANGE_NOT_SATISFIABLE.as_u16();
    failure
}

/// Reads `Content-Digest`. Algorithms that are not known are passed over, as the RFC wants.
fn claim(headers: &HeaderMap) -> Result<Claim, Failure> {
    let Some(value) = headers.get("content-digest") else { return Ok(Claim::Nothing) };
    let text = value.to_str().unwrap_or("").trim();
    let mistake = || {
        Failure::new(ErrorCode::Invalid, format!("Content-Digest \"{text}\" is not understood"))
            .hint("sha-256=:<base64>: or sha256:<hexadecimal>")
    };
    let lower = text.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("sha1:") {
        return is_hex(hex, 40).then(|| Claim::Sha1(hex.to_owned())).ok_or_else(mistake);
    }
    if lower.starts_with("sha256:") {
        return sha256_of(&lower).map(|hex| Claim::Sha256(hex.to_owned())).ok_or_else(mistake);
    }
    for member in text.split(',') {
        let (name, value) = member.trim().split_once('=').ok_or_else(mistake)?;
        if name.eq_ignore_ascii_case("sha-256") {
            let base64 = value.strip_prefix(':').and_then(|rest| rest.strip_suffix(':'));
            let bytes = base64.and_then(unbase64).filter(|bytes| bytes.len() == 32);
            return bytes.map(|bytes| Claim::Sha256(hex::encode(bytes))).ok_or_else(mistake);
        }
    }
    Ok(Claim::Nothing)
}

/// RFC 4648, with padding.
fn unbase64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    // What is left over must be nothing, or two texts would stand for one digest.
    (bits & ((1 << count) - 1) == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_claim(text: &str) -> Result<Claim, String> {
        let headers = HeaderMap::from_iter([(
            header::HeaderName::from_static("content-digest"),
            text.parse().unwrap(),
        )]);
        claim(&headers).map_err(|failure| failure.0.message)
    }

    /// Goal: both forms of the digest are read, others are passed over, nonsense is told.
    #[test]
    fn digests_are_read() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let rfc = "sha-512=:AAAA:, sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        assert_eq!(read_claim(rfc), Ok(Claim::Sha256(empty.to_owned())));
        assert_eq!(read_claim(&format!("sha256:{empty}")), Ok(Claim::Sha256(empty.to_owned())));
        let sha1 = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        assert_eq!(read_claim(&format!("SHA1:{sha1}")), Ok(Claim::Sha1(sha1.to_owned())));
        assert_eq!(read_claim("crc32=:AAAA:"), Ok(Claim::Nothing));
        for wrong in ["sha1:12", "sha-256=:AAAA:", "sha-256=47DE", "nonsense", "sha256:xyz"] {
            assert!(read_claim(wrong).is_err(), "{wrong}");
        }
        assert_eq!(unbase64("QQ=="), Some(b"A".to_vec()));
        assert_eq!((unbase64("QR=="), unbase64("Q==="), unbase64("QQ")), (None, None, None));
    }
}
