//! The way to an S3 service: requests by reqwest, signatures by SHA-256.
//!
//! `object_store` brings neither, so that there is one HTTP client and one crypto provider in the program.
//! Deliberately absent: credentials of cloud machines (IMDS, web identity); keys come from the configuration.

use async_trait::async_trait;
use bytes::Bytes;
use http_body::Frame;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    ClientOptions, CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, HttpClient,
    HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, Signer, SigningAlgorithm,
};
use sha2::{Digest, Sha256};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A connection that takes longer than this is none.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// An answer that stops for this long has broken off.
const READ_WAIT: Duration = Duration::from_secs(60);
/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// Where the bucket is and who may use it.
#[derive(Clone)]
pub struct Bucket {
    /// `http://address:port` or `https://…`; paths begin with the bucket's name.
    pub endpoint: String,
    /// Its name.
    pub bucket: String,
    /// As signatures need it.
    pub region: String,
    /// Who.
    pub access_key: String,
    /// The secret of it.
    pub secret_key: String,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3 bucket {} at {}", self.bucket, self.endpoint)
    }
}

/// Opens a bucket; says nothing about whether it answers.
pub(super) fn connect(bucket: &Bucket) -> object_store::Result<AmazonS3> {
    AmazonS3Builder::new()
        .with_endpoint(&bucket.endpoint)
        .with_bucket_name(&bucket.bucket)
        .with_region(&bucket.region)
        .with_access_key_id(&bucket.access_key)
        .with_secret_access_key(&bucket.secret_key)
        .with_virtual_hosted_style_request(false)
        .with_allow_http(bucket.endpoint.starts_with("http://"))
        .with_http_connector(Connector)
        .with_crypto_provider(Arc::new(Crypto))
        .build()
}

#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_WAIT)
            .read_timeout(READ_WAIT)
            .no_proxy()
            .build();
        let client = client.map_err(|mistake| object_store::Error::Generic {
            store: "S3",
            source: Box::new(mistake),
        })?;
        Ok(HttpClient::new(Service(client)))
    }
}

#[derive(Debug)]
struct Service(reqwest::Client);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let url = reqwest::Url::parse(&head.uri.to_string())
            .map_err(|mistake| HttpError::new(HttpErrorKind::Request, mistake))?;
        let mut request = reqwest::Request::new(head.method, url);
        *request.headers_mut() = head.headers;
        *request.body_mut() = Some(reqwest::Body::wrap(body));
        let response = self.0.execute(request).await.map_err(failed)?;
        let response: axum::http::Response<reqwest::Body> = response.into();
        let (head, body) = response.into_parts();
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(Answer(body))))
    }
}

/// A body whose mistakes are told in the object store's words.
struct Answer(reqwest::Body);

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = Pin::new(&mut self.0).poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(failed)))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

fn failed(mistake: reqwest::Error) -> HttpError {
    let kind = if mistake.is_timeout() {
        HttpErrorKind::Timeout
    } else if mistake.is_connect() {
        HttpErrorKind::Connect
    } else {
        HttpErrorKind::Unknown
    };
    HttpError::new(kind, mistake)
}

// === signatures ===

#[derive(Debug)]
struct Crypto;

impl CryptoProvider for Crypto {
    fn digest(&self, _: DigestAlgorithm) -> object_store::Result<Box<dyn DigestContext>> {
        Ok(Box::new(Hash { sum: Sha256::new(), out: [0; 32] }))
    }

    fn hmac(
        &self,
        _: DigestAlgorithm,
        secret: &[u8],
    ) -> object_store::Result<Box<dyn HmacContext>> {
        Ok(Box::new(Hmac::new(secret)))
    }

    fn sign(&self, _: SigningAlgorithm, _: &[u8]) -> object_store::Result<Box<dyn Signer>> {
        let why = "private keys are for other clouds than S3";
        Err(object_store::Error::NotSupported { source: why.into() })
    }
}

struct Hash {
    sum: Sha256,
    out: [u8; 32],
}

impl DigestContext for Hash {
    fn update(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        self.out = self.sum.finalize_reset().into();
        Ok(&self.out)
    }
}

/// HMAC-SHA-256, RFC 2104.
struct Hmac {
    inner: Sha256,
    outer: Sha256,
    out: [u8; 32],
}

impl Hmac {
    fn new(secret: &[u8]) -> Self {
        let mut key = [0; BLOCK];
        if secret.len() > BLOCK {
            key[..32].copy_from_slice(&Sha256::digest(secret));
        } else {
            key[..secret.len()].copy_from_slice(secret);
        }
        let padded = |byte: u8| Sha256::new_with_prefix(key.map(|own| own ^ byte));
        Self { inner: padded(0x36), outer: padded(0x5c), out: [0; 32] }
    }
}

impl HmacContext for Hmac {
    fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        self.outer.update(self.inner.finalize_reset());
        self.out = self.outer.finalize_reset().into();
        Ok(&self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the cases of RFC 4231, among them a key longer than a block.
    #[test]
    fn hmac_is_that_of_the_rfc() {
        let of = |secret: &[u8], text: &[u8]| {
            let mut hmac = Hmac::new(secret);
            hmac.update(text);
            hex::encode(hmac.finish().unwrap())
        };
        assert_eq!(
            of(&[0x0b; 20], b"Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            of(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
