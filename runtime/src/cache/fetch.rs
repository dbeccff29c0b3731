//! One resource from a package manager: HTTP/1.0, so that its end is the end of the connection, into a file, hashed
//! on the way.
//!
//! Deliberately absent: TLS and redirects; package managers are asked inside the cluster. Also keep-alive: a package is
//! fetched once per host.

use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// For each read and for the connection.
const IO_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of the answer's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const CHUNK_BYTES: usize = 128 * 1024;

/// Why it was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address is none that this client speaks to.
    #[error("\"{0}\" is not like http://address:port")]
    Url(String),
    /// The connection or the file failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Nothing came for too long.
    #[error("nothing came for {IO_TIMEOUT:?}")]
    TimedOut,
    /// It has another status than 200.
    #[error("it answers {0}")]
    Status(String),
    /// It is another content.
    #[error("its content is not the one of its digest")]
    Digest,
    /// It has another size.
    #[error("it has another size than {0} bytes")]
    Length(u64),
}

/// Fetches `base/v1/resources/<hex>` into `to`; the file is whole and right when this succeeds.
pub(super) async fn fetch(base: &str, hex: &str, bytes: u64, to: &Path) -> Result<(), FetchError> {
    let bad = || FetchError::Url(base.to_owned());
    let rest = base.strip_prefix("http://").ok_or_else(bad)?;
    let (host, prefix) = rest
        .trim_end_matches('/')
        .split_once('/')
        .unwrap_or_else(|| (rest.trim_end_matches('/'), ""));
    let slash = if prefix.is_empty() { "" } else { "/" };
    let head = format!(
        "GET {slash}{prefix}/v1/resources/{hex} HTTP/1.0\r\nHost: {host}\r\nAccept: */*\r\n\r\n"
    );
    let mut stream = within(TcpStream::connect(host)).await?;
    within(stream.write_all(head.as_bytes())).await?;
    let body = read_head(&mut stream).await?;
    let mut file = File::create(to).await?;
    let mut hash = Sha256::new();
    let mut length = 0_u64;
    let mut chunk = body;
    loop {
        length += chunk.len() as u64;
        if length > bytes {
            return Err(FetchError::Length(bytes));
        }
        hash.update(&chunk);
        file.write_all(&chunk).await?;
        chunk.resize(CHUNK_BYTES, 0);
        let count = within(stream.read(&mut chunk)).await?;
        chunk.truncate(count);
        if count == 0 {
            break;
        }
    }
    file.flush().await?;
    if length != bytes {
        return Err(FetchError::Length(bytes));
    }
    if hex::encode(hash.finalize()) != hex {
        return Err(FetchError::Digest);
    }
    Ok(())
}

/// Reads up to the end of the head; what came of the body already is returned.
async fn read_head(stream: &mut TcpStream) -> Result<Vec<u8>, FetchError> {
    const END: &[u8] = b"\r\n\r\n";
    let mut head = Vec::new();
    loop {
        let mut part = [0; 4_096];
        let count = within(stream.read(&mut part)).await?;
        head.extend_from_slice(&part[..count]);
        if let Some(at) = head.windows(END.len()).position(|window| window == END) {
            let body = head.split_off(at + END.len());
            let text = String::from_utf8_lossy(&head);
            let status = text.lines().next().unwrap_or("").to_owned();
            let word = status.split_ascii_whitespace().nth(1);
            return if word == Some("200") { Ok(body) } else { Err(FetchError::Status(status)) };
        }
        if count == 0 || head.len() > HEAD_BYTES_MAX {
            return Err(FetchError::Status("no answer".to_owned()));
        }
    }
}

async fn within<T>(work: impl Future<Output = std::io::Result<T>>) -> Result<T, FetchError> {
    match tokio::time::timeout(IO_TIMEOUT, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(FetchError::TimedOut),
    }
}
