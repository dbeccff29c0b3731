//! The way to the package managers for other services: find them, send content, fetch it, go on with the next one
//! when one fails.
//!
//! Deliberately absent: a cache, and a check of what is fetched: the one that uses the content checks it.

use super::objects::Stored;
use axum::http::{StatusCode, header};
use bus::{Bus, BusError, Until};
use bytes::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wire::api::PmLocation;
use wire::{ApiError, ErrorCode, subject};

/// Package managers that are asked.
const PMS_MAX: usize = 16;
/// How long the first answer may take.
const LOCATE_WAIT: Duration = Duration::from_millis(500);
/// How long further answers may take after it.
const LOCATE_MORE: Duration = Duration::from_millis(10);
/// A connection that takes longer is none.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// An answer that stops for this long has broken off.
const READ_WAIT: Duration = Duration::from_secs(30);
/// How often one download may begin anew.
const ATTEMPTS_MAX: u32 = 6;

/// Knows the way. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    bus: Bus,
}

/// Content on its way.
pub struct Download {
    /// Of the whole.
    pub length: u64,
    /// The bytes that come.
    pub range: Range<u64>,
    /// They go on at another package manager when one breaks off.
    pub bytes: BoxStream<'static, Result<Bytes, ApiError>>,
}

/// All package managers that answer now, the quickest first.
pub async fn locate(bus: &Bus) -> Result<Vec<PmLocation>, BusError> {
    let until = Until { count: PMS_MAX, deadline: LOCATE_WAIT };
    let mut replies = bus.request_many(subject::PM_LOCATE, &(), until).await?;
    let mut all: Vec<PmLocation> = Vec::new();
    while let Some(reply) = replies.next().await {
        match reply.decode() {
            Ok(location) => all.push(location),
            Err(mistake) => tracing::warn!(%mistake, "an answer was not understood"),
        }
        if all.len() == 1 {
            replies.end_at(tokio::time::Instant::now() + LOCATE_MORE);
        }
    }
    Ok(all)
}

impl Client {
    /// On this bus. The process must have a crypto provider for TLS.
    pub fn new(bus: Bus) -> Result<Self, Box<ApiError>> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WAIT)
            .read_timeout(READ_WAIT)
            .no_proxy()
            .build();
        let http = http.map_err(|mistake| {
            ApiError::new(ErrorCode::Internal, "no HTTP client").because(mistake.to_string())
        })?;
        Ok(Self { http, bus })
    }

    /// Sends content. `sha256` (64 digits) is checked where it is known; `length` may be. Goes on with the next package
    /// manager only as long as nothing of `content` was taken.
    pub async fn upload<E>(
        &self,
        sha256: Option<&str>,
        length: Option<u64>,
        content: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Result<Stored, ApiError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let content = Arc::new(Mutex::new(content.boxed()));
        let touched = Arc::new(AtomicBool::new(false));
        let mut last = nobody();
        for pm in self.locate().await? {
            if length.is_some_and(|length| length > pm.resource_bytes_max) {
                let max = pm.resource_bytes_max;
                let what = format!("the content is larger than {max} bytes");
                return Err(ApiError::new(ErrorCode::TooLarge, what));
            }
            let request = match sha256 {
                Some(sha256) => self.http.put(format!("{}/v1/resources/{sha256}", pm.url)),
                None => self.http.post(format!("{}/v1/resources", pm.url)),
            };
            let request = match length {
                Some(length) => request.header(header::CONTENT_LENGTH, length),
                None => request,
            };
            let (content, taken) = (Arc::clone(&content), Arc::clone(&touched));
            let body = futures_util::stream::poll_fn(move |cx| {
                taken.store(true, Ordering::Relaxed);
                content.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(cx)
            });
            match request.body(reqwest::Body::wrap_stream(body)).send().await {
                Ok(answer) => return stored(answer).await,
                Err(mistake) => last = unavailable(&pm, &mistake),
            }
            if touched.load(Ordering::Relaxed) {
                break;
            }
        }
        Err(last)
    }

    /// Fetches content, or part of it (`last` is inclusive as in HTTP; none = to the end).
    pub async fn download(
        &self,
        sha256: &str,
        part: Option<(u64, Option<u64>)>,
    ) -> Result<Download, ApiError> {
        let mut trip = Trip {
            http: self.http.clone(),
            sha256: sha256.to_owned(),
            pms: self.locate().await?,
            next: 0,
            attempts: 0,
        };
        let (first, last) = part.unwrap_or((0, None));
        let (answer, length, range) = trip.open(first, last).await?;
        let state = (trip, Some(answer.bytes_stream().boxed()), range.clone());
        let bytes =
            futures_util::stream::unfold(state, |(mut trip, stream, mut left)| async move {
                let mut stream = stream?;
                loop {
                    if left.is_empty() {
                        return None;
                    }
                    if let Some(Ok(chunk)) = stream.next().await {
                        left.start = left.end.min(left.start + chunk.len() as u64);
                        return Some((Ok(chunk), (trip, Some(stream), left)));
                    }
                    match trip.open(left.start, Some(left.end - 1)).await {
                        Ok((answer, ..)) => stream = answer.bytes_stream().boxed(),
                        Err(mistake) => return Some((Err(mistake), (trip, None, left))),
                    }
                }
            });
        Ok(Download { length, range, bytes: bytes.boxed() })
    }

    /// Whether anybody has the content, and its length.
    pub async fn length(&self, sha256: &str) -> Result<u64, ApiError> {
        let mut last = nobody();
        for pm in self.locate().await? {
            let asked = self.http.head(format!("{}/v1/resources/{sha256}", pm.url)).send().await;
            match asked {
                Ok(answer) if answer.status().is_success() => {
                    let length = answer.headers().get(header::CONTENT_LENGTH);
                    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
                    return length.ok_or_else(|| garbled(&pm.url));
                }
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND => last = absent(sha256),
                Ok(_) => last = garbled(&pm.url),
                Err(mistake) => last = unavailable(&pm, &mistake),
            }
        }
        Err(last)
    }

    async fn locate(&self) -> Result<Vec<PmLocation>, ApiError> {
        let found =
            locate(&self.bus).await.map_err(|mistake| nobody().because(mistake.to_string()))?;
        if found.is_empty() { Err(nobody()) } else { Ok(found) }
    }
}

/// One download over several package managers.
struct Trip {
    http: reqwest::Client,
    sha256: String,
    pms: Vec<PmLocation>,
    next: usize,
    attempts: u32,
}

impl Trip {
    /// Opens bytes `first` to `last` at the next package manager that gives them.
    async fn open(
        &mut self,
        first: u64,
        last: Option<u64>,
    ) -> Result<(reqwest::Response, u64, Range<u64>), ApiError> {
        let mut mistake = nobody();
        // Everybody is asked at least once, however often this download began anew.
        for _ in 0..self.pms.len() {
            if self.attempts >= ATTEMPTS_MAX.max(u32::try_from(self.pms.len()).unwrap_or(0)) {
                break;
            }
            self.attempts += 1;
            let pm = &self.pms[self.next % self.pms.len()];
            self.next += 1;
            let mut request = self.http.get(format!("{}/v1/resources/{}", pm.url, self.sha256));
            if first > 0 || last.is_some() {
                let last = last.map(|last| last.to_string()).unwrap_or_default();
                request = request.header(header::RANGE, format!("bytes={first}-{last}"));
            }
            match request.send().await {
                Err(broken) => mistake = unavailable(pm, &broken),
                Ok(answer) => match place(&answer) {
                    Some((length, range)) if range.start == first => {
                        // The one that works is asked first the next time.
                        self.next -= 1;
                        return Ok((answer, length, range));
                    }
                    _ if answer.status() == StatusCode::NOT_FOUND => mistake = absent(&self.sha256),
                    _ => mistake = refused(answer).await,
                },
            }
        }
        Err(mistake)
    }
}

/// Length of the whole and the bytes that come, as the head of an answer has it; none = they do not come.
fn place(answer: &reqwest::Response) -> Option<(u64, Range<u64>)> {
    let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    match answer.status() {
        StatusCode::OK => {
            let length = text(header::CONTENT_LENGTH)?.parse().ok()?;
            Some((length, 0..length))
        }
        StatusCode::PARTIAL_CONTENT => {
            let (range, length) =
                text(header::CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            let end = last.parse::<u64>().ok()?.checked_add(1)?;
            Some((length.parse().ok()?, first.parse().ok()?..end))
        }
        _ => None,
    }
}

async fn stored(answer: reqwest::Response) -> Result<Stored, ApiError> {
    if !answer.status().is_success() {
        return Err(refused(answer).await);
    }
    let url = answer.url().to_string();
    answer.json().await.map_err(|_| garbled(&url))
}

/// The package manager's own words, if it has any.
async fn refused(answer: reqwest::Response) -> ApiError {
    let url = answer.url().to_string();
    answer.json().await.unwrap_or_else(|_| garbled(&url))
}

fn nobody() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "no package manager answers")
        .hint("Start one with: apcera pm")
}

fn absent(sha256: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no content sha256:{sha256}"))
}

fn unavailable(pm: &PmLocation, mistake: &reqwest::Error) -> ApiError {
    let what = format!("the package manager at {} broke off", pm.url);
    ApiError::new(ErrorCode::Unavailable, what).because(mistake.to_string())
}

fn garbled(url: &str) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, format!("the answer of {url} was not understood"))
}
