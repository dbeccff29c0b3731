//! The router's own answers: short, plain, with a stable reason code in `Apcera-Error`.
//!
//! Deliberately absent: error pages, content negotiation, and any word about the inside of the cluster.

use engine::{ConnId, Engine, PagePool};
use http1::{Full, Out, RequestHead, put_https_location, reason_phrase};

use super::Core;
use super::failure::Failure;

impl<E: Engine> Core<E> {
    /// Queue the answer to a failure. `keep`: the connection goes on. Gives its length; 0 when there is none to give.
    pub(super) fn answer(
        &mut self,
        conn: ConnId,
        failure: Failure,
        is_head: bool,
        keep: bool,
    ) -> u64 {
        let verdict = failure.verdict();
        let Some(status) = verdict.status else { return 0 };
        // Without a page there is no answer; the client sees the connection end.
        let Ok(mut page) = self.engine.pages().small() else { return 0 };
        let mut out = Out::new(page.spare());
        let retry: &[u8] = if status == 503 { b"Retry-After: 1\r\n" } else { b"" };
        write_answer(&mut out, status, verdict.label, retry, is_head, keep)
            .expect("an answer fits a small page");
        let len = out.len();
        page.advance(len);
        self.client_send(conn, page.freeze());
        len as u64
    }

    /// Send the client to the same place over TLS.
    pub(super) fn redirect(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        head: &RequestHead,
        keep: bool,
    ) -> bool {
        let is_head = head.method == http1::Method::Head;
        let written = page_for(self.engine.pages(), bytes.len()).and_then(|mut page| {
            let mut out = Out::new(page.spare());
            write_redirect(&mut out, bytes, head, is_head, keep).ok()?;
            let len = out.len();
            page.advance(len);
            Some(page.freeze())
        });
        let Some(chunk) = written else { return false };
        self.client_send(conn, chunk);
        true
    }

    /// An OPTIONS request that may take no further hop (RFC 9110 7.6.2) is answered here.
    pub(super) fn answer_options(&mut self, conn: ConnId, keep: bool) {
        let text: &'static [u8] = if keep {
            b"HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n\r\n"
        } else {
            b"HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n\
              Connection: close\r\n\r\n"
        };
        self.client_send(conn, engine::Chunk::from_static(text));
    }
}

/// A page for a head of `len` bytes and what we add to it.
pub(super) fn page_for(pages: &PagePool, len: usize) -> Option<engine::Page> {
    let page = if len + HEAD_GROWTH <= engine::SMALL_BYTES { pages.small() } else { pages.large() };
    page.ok()
}

/// A page that holds `len` bytes. `Err` also when no page is so large.
pub(super) fn room_for(
    pages: &PagePool,
    len: usize,
) -> Result<engine::Page, engine::PoolExhausted> {
    if len <= engine::SMALL_BYTES { pages.small() } else { pages.large() }
}

/// By so much a head may grow on its way through, without the fields of a TLS client (which then go to a large page).
pub(super) const HEAD_GROWTH: usize = 640;

fn write_answer(
    out: &mut Out<'_>,
    status: u16,
    code: &str,
    extra: &[u8],
    is_head: bool,
    keep: bool,
) -> Result<(), Full> {
    let reason = reason_phrase(status).as_bytes();
    out.put(b"HTTP/1.1 ")?;
    out.put_decimal(status.into())?;
    out.put_all([
        b" ",
        reason,
        b"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ",
    ])?;
    let body_len = 3 + 1 + reason.len() + 2 + code.len() + 1;
    out.put_decimal(body_len as u64)?;
    out.put_all([b"\r\nApcera-Error: ", code.as_bytes(), b"\r\n", extra])?;
    out.put(if keep { b"\r\n" } else { b"Connection: close\r\n\r\n" })?;
    if is_head {
        return Ok(());
    }
    out.put_decimal(status.into())?;
    out.put_all([b" ", reason, b": ", code.as_bytes(), b"\n"])
}

fn write_redirect(
    out: &mut Out<'_>,
    bytes: &[u8],
    head: &RequestHead,
    is_head: bool,
    keep: bool,
) -> Result<(), Full> {
    const BODY: &[u8] = b"301 Moved Permanently: this route is served over https only\n";
    out.put(b"HTTP/1.1 301 Moved Permanently\r\nLocation: ")?;
    put_https_location(out, bytes, head, None)?;
    out.put(b"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ")?;
    out.put_decimal(BODY.len() as u64)?;
    out.put(if keep { b"\r\n\r\n" } else { b"\r\nConnection: close\r\n\r\n" })?;
    if is_head { Ok(()) } else { out.put(BODY) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(is_head: bool, keep: bool) -> String {
        let mut buffer = [0; 512];
        let mut out = Out::new(&mut buffer);
        write_answer(&mut out, 503, "no_instance", b"Retry-After: 1\r\n", is_head, keep).unwrap();
        String::from_utf8(out.written().to_vec()).unwrap()
    }

    #[test]
    fn an_answer_is_whole_and_says_its_length() {
        let answer = text(false, false);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "503 Service Unavailable: no_instance\n");
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(head.contains("Apcera-Error: no_instance\r\nRetry-After: 1\r\nConnection: close"));
    }

    #[test]
    fn an_answer_to_head_has_the_same_length_and_no_body() {
        let answer = text(true, true);
        assert!(answer.contains("Content-Length: 37\r\n") && answer.ends_with("\r\n\r\n"));
        assert!(!answer.contains("Connection"));
    }
}
