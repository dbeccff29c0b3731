//! Requests to the API and what comes of them.
//!
//! Every request has a bound; one that changes something carries a key, so that it can be repeated when a connection
//! breaks. Deliberately absent: which requests a command makes.

use crate::failure::{Exit, Failure};
use futures_util::{Stream, StreamExt};
use reqwest::header::{AUTHORIZATION, HeaderMap, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use wire::ApiError;

/// Until a connection must stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until an answer must be there; longer than the longest wait that is asked of the server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// An answer that is not there by then: the user is told who is waited for.
const SLOW_AFTER: Duration = Duration::from_secs(3);
/// A stream that is silent for this long is given up: the server sends something more often, or closes.
const STREAM_SILENCE: Duration = Duration::from_secs(24 * 3_600);
/// Bytes of an answer that is kept in memory.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Bytes of one line of a stream.
const LINE_BYTES_MAX: usize = 4 << 20;
/// Pages of one list.
const PAGES_MAX: u32 = 10_000;
/// Tries of one request, the first one included.
const TRIES_MAX: u32 = 3;
/// Between tries.
const TRY_PAUSE: Duration = Duration::from_millis(200);

/// One cluster.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    target: String,
    token: Option<String>,
    quiet: bool,
}

/// An answer and its head.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    /// The body.
    pub(crate) body: T,
    /// Headers.
    pub(crate) headers: HeaderMap,
}

impl Client {
    /// For a cluster at `target`, an address without a slash at its end; a quiet one does not say that it waits.
    pub(crate) fn new(target: &str, token: Option<String>, quiet: bool) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("apc/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none());
        if target.starts_with("http://") {
            // Reading the system's certificates takes longer than the request.
            builder = builder.tls_certs_only([]);
        } else if let Some(file) = std::env::var_os("APC_CA_FILE") {
            let told = |why: String| Failure::failed("APC_CA_FILE cannot be used").because(why);
            let pem = std::fs::read(&file).map_err(|error| told(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            builder =
                builder.tls_certs_merge(certificates.map_err(|error| told(error.to_string()))?);
        }
        let http = builder.build().map_err(|error| {
            Failure::failed("the client cannot be built").because(causes(&error))
        })?;
        Ok(Self { http, target: target.to_owned(), token, quiet })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        Ok(self.json::<(), T>(Method::GET, path, None).await?.body)
    }

    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<Answer<T>, Failure> {
        self.json(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<Answer<T>, Failure> {
        self.json(Method::PUT, path, Some(body)).await
    }

    /// Whatever the answer to a DELETE is, it says nothing more than that it is done.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send::<()>(Method::DELETE, path, None).await.map(drop)
    }

    /// All pages of a list.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        let mut all = Vec::new();
        let mut next = Some(self.url(path)?);
        for _ in 0..PAGES_MAX {
            let Some(url) = next.take() else { break };
            let response = self.tried::<()>(&Method::GET, &url, None).await?;
            let link = response
                .headers()
                .get("Next")
                .and_then(|link| link.to_str().ok())
                .map(str::to_owned);
            // A link that leads elsewhere is not followed: the token would go with it.
            let follows =
                link.filter(|link| !link.is_empty()).and_then(|link| url.join(&link).ok());
            next = follows.filter(|follow| follow.origin() == url.origin() && *follow != url);
            let page: Vec<T> = decode(&self.body(response).await?)?;
            all.extend(page);
        }
        Ok(all)
    }

    /// Lines of an answer that comes bit by bit.
    pub(crate) async fn lines(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = Result<String, Failure>> + use<>, Failure> {
        let request = self.request(Method::GET, self.url(path)?).timeout(STREAM_SILENCE);
        let response = self.answered(request).await.map_err(|error| self.unreachable(&error))?;
        let response = self.checked(response).await?;
        let target = self.target.clone();
        Ok(split_lines(response.bytes_stream().map(move |part| {
            part.map_err(|error| {
                Failure::new(Exit::Unreachable, format!("the stream from {target} broke"))
                    .because(causes(&error))
            })
        })))
    }

    /// The bytes of an answer, for a file.
    pub(crate) async fn download(&self, path: &str) -> Result<Response, Failure> {
        let request = self.request(Method::GET, self.url(path)?).timeout(STREAM_SILENCE);
        let response = self.answered(request).await.map_err(|error| self.unreachable(&error))?;
        self.checked(response).await
    }

    /// A body that is too large for memory.
    pub(crate) async fn upload(
        &self,
        path: &str,
        digest: &str,
        length: u64,
        body: reqwest::Body,
    ) -> Result<(), Failure> {
        let request = self
            .request(Method::PUT, self.url(path)?)
            .timeout(STREAM_SILENCE)
            .header("Content-Digest", digest)
            .header("Content-Type", "application/octet-stream")
            .header("Content-Length", length)
            .body(body);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.checked(response).await.map(drop)
    }

    async fn json<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Answer<T>, Failure> {
        let response = self.send(method, path, body).await?;
        let headers = response.headers().clone();
        let bytes = self.body(response).await?;
        // An empty answer is `null`: some writes have nothing to say.
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        Ok(Answer { body: decode(text)?, headers })
    }

    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Response, Failure> {
        let url = self.url(path)?;
        self.tried(&method, &url, body).await
    }

    /// A request that did not get through is repeated with the same key; one that was answered is not, but for "later".
    async fn tried<B: Serialize>(
        &self,
        method: &Method,
        url: &Url,
        body: Option<&B>,
    ) -> Result<Response, Failure> {
        let key = uuid::Uuid::new_v4().to_string();
        let mut tries = 0;
        loop {
            tries += 1;
            let mut request = self.request(method.clone(), url.clone()).timeout(ANSWER_TIMEOUT);
            if *method != Method::GET {
                request = request.header(wire::api::IDEMPOTENCY_KEY, &key);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            match self.answered(request).await {
                Err(error) if tries < TRIES_MAX && !error.is_timeout() && !error.is_builder() => {}
                Err(error) => return Err(self.unreachable(&error)),
                Ok(answer)
                    if answer.status() == StatusCode::SERVICE_UNAVAILABLE && tries < TRIES_MAX =>
                {
                    let pause = answer.headers().get(RETRY_AFTER).is_some();
                    if !pause {
                        return self.checked(answer).await;
                    }
                }
                Ok(answer) => return self.checked(answer).await,
            }
            tokio::time::sleep(TRY_PAUSE * tries).await;
        }
    }

    /// The head of the answer. Who waits for long learns for whom.
    async fn answered(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Response> {
        let mut sent = std::pin::pin!(request.send());
        match tokio::time::timeout(SLOW_AFTER, sent.as_mut()).await {
            Ok(answer) => answer,
            Err(_) => {
                if !self.quiet {
                    crate::screen::aside(&format!("Waiting for {} to answer...", self.target));
                }
                sent.await
            }
        }
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        let text = format!("{}/v1{path}", self.target);
        Url::parse(&text).map_err(|error| {
            Failure::failed(format!("\"{text}\" is not an address")).because(error.to_string())
        })
    }

    fn request(&self, method: Method, url: Url) -> reqwest::RequestBuilder {
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, token),
            None => request,
        }
    }

    async fn body(&self, response: Response) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let mut parts = response.bytes_stream();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| self.unreachable(&error))?;
            if bytes.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(Failure::failed(format!(
                    "{} answers more than {ANSWER_BYTES_MAX} bytes",
                    self.target
                )));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    async fn checked(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.body(response).await.unwrap_or_default();
        Err(match serde_json::from_slice::<ApiError>(&bytes) {
            Ok(error) => error.into(),
            Err(_) => self.stranger(status, &bytes),
        })
    }

    /// An error that is not in the form of the API: a proxy, another program.
    fn stranger(&self, status: StatusCode, body: &[u8]) -> Failure {
        let exit = match status.as_u16() {
            401 | 403 => Exit::Denied,
            404 => Exit::NotFound,
            409 => Exit::Conflict,
            408 | 504 => Exit::TimedOut,
            502 | 503 => Exit::Unreachable,
            _ => Exit::Failed,
        };
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        Failure::new(exit, format!("{} answered {status}", self.target))
            .because(text)
            .hint("apc target, to see whether this is the API of a cluster")
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if error.is_timeout() && !error.is_connect() {
            return Failure::new(Exit::TimedOut, format!("{} did not answer in time", self.target))
                .hint("the same again; what was asked for may have been done");
        }
        Failure::new(Exit::Unreachable, format!("{} does not answer", self.target))
            .because(causes(error))
            .hint("apc target URL, if the cluster is elsewhere; apcera up, to start one here")
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::failed("the answer of the API is not understood")
            .because(error.to_string())
            .hint("apc version, to compare this program with the cluster")
    })
}

/// The last cause says most: "Connection refused", not "error sending request".
fn causes(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    for _ in 0..8 {
        match deepest.source() {
            Some(cause) => deepest = cause,
            None => break,
        }
    }
    deepest.to_string()
}

/// Lines of a stream of bytes; the last one may lack its end.
fn split_lines(
    parts: impl Stream<Item = Result<impl AsRef<[u8]>, Failure>> + Unpin,
) -> impl Stream<Item = Result<String, Failure>> {
    futures_util::stream::unfold(
        (parts, Vec::<u8>::new(), false),
        |(mut parts, mut kept, mut ended)| async move {
            loop {
                if let Some(end) = kept.iter().position(|&byte| byte == b'\n') {
                    let rest = kept.split_off(end + 1);
                    let line = String::from_utf8_lossy(&kept).trim_end().to_owned();
                    return Some((Ok(line), (parts, rest, ended)));
                }
                if ended {
                    let line =
                        String::from_utf8_lossy(&std::mem::take(&mut kept)).trim_end().to_owned();
                    return (!line.is_empty()).then_some((Ok(line), (parts, kept, ended)));
                }
                match parts.next().await {
                    Some(Ok(part)) if kept.len() + part.as_ref().len() <= LINE_BYTES_MAX => {
                        kept.extend_from_slice(part.as_ref())
                    }
                    Some(Ok(_)) => {
                        let failure = Failure::failed(format!(
                            "a line of the stream has more than {LINE_BYTES_MAX} bytes"
                        ));
                        return Some((Err(failure), (parts, Vec::new(), true)));
                    }
                    Some(Err(failure)) => return Some((Err(failure), (parts, Vec::new(), true))),
                    None => ended = true,
                }
            }
        },
    )
}

/// A part of a path or of a query, safe.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Goal: wherever a stream is cut, the lines are the same.
        #[test]
        fn lines_do_not_depend_on_cuts(lines in proptest::collection::vec("[a-zé]{0,9}", 1..6), cut in 1..7_usize) {
            let text = format!("{}\nlast", lines.join("\n"));
            let parts: Vec<Result<Vec<u8>, Failure>> = text.as_bytes().chunks(cut).map(|part| Ok(part.to_vec())).collect();
            let stream = split_lines(futures_util::stream::iter(parts));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read: Vec<String> = runtime.block_on(stream.map(|line| line.unwrap()).collect());
            prop_assert_eq!(read.join("\n"), text);
        }
    }

    /// Goal: a name cannot leave its place in a path.
    #[test]
    fn names_stay_in_their_place() {
        assert_eq!(escaped("tcp://1.2.3.4:5/é"), "tcp%3A%2F%2F1.2.3.4%3A5%2F%C3%A9");
    }
}
