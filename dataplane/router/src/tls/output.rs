//! Where a session writes: pages that fill up and become chunks.
//!
//! Deliberately absent: encryption; rustls does it, into the spare part of a page.

use engine::{Chunk, LARGE_BYTES, Page, PagePool, PoolExhausted, SMALL_BYTES};
use rustls::unbuffered::{EncodeError, EncodeTlsData};

use super::session::TlsError;

/// rustls' word for the server side.
pub(super) type Server = rustls::server::ServerConnectionData;

/// Decrypted bytes on their way into pages; small ones when little is expected.
pub(super) struct Plaintext<'a> {
    page: Option<Page>,
    /// No more plaintext than this can come.
    expected: usize,
    any: bool,
    pages: &'a PagePool,
}

impl<'a> Plaintext<'a> {
    /// At most `expected` bytes of plaintext are to come.
    pub(super) const fn new(expected: usize, pages: &'a PagePool) -> Self {
        Self { page: None, expected, any: false, pages }
    }

    /// Whether any byte came.
    pub(super) const fn any(&self) -> bool {
        self.any
    }

    pub(super) fn append(
        &mut self,
        mut payload: &[u8],
        to: &mut Vec<Chunk>,
    ) -> Result<(), TlsError> {
        while !payload.is_empty() {
            let mut page = match self.page.take() {
                Some(page) => page,
                None => page_for(self.expected, self.pages)?,
            };
            let spare = page.spare();
            let count = spare.len().min(payload.len());
            spare[..count].copy_from_slice(&payload[..count]);
            page.advance(count);
            self.any = true;
            payload = &payload[count..];
            self.expected = self.expected.saturating_sub(count);
            match page.len() == page.capacity() {
                true => to.push(page.freeze()),
                false => self.page = Some(page),
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, to: &mut Vec<Chunk>) {
        to.extend(self.page.take().map(Page::freeze));
    }
}

/// An empty page that holds `bytes`, if a large one does.
pub(super) fn page_for(bytes: usize, pages: &PagePool) -> Result<Page, PoolExhausted> {
    if bytes <= SMALL_BYTES { pages.small() } else { pages.large() }
}

/// Records that rustls made by itself, packed into pages: a flight of several leaves in one piece.
pub(super) struct Flight<'a> {
    page: Option<Page>,
    pages: &'a PagePool,
}

impl<'a> Flight<'a> {
    pub(super) const fn new(pages: &'a PagePool) -> Self {
        Self { page: None, pages }
    }

    pub(super) fn append(
        &mut self,
        record: &mut EncodeTlsData<'_, Server>,
        to: &mut Vec<Chunk>,
    ) -> Result<(), TlsError> {
        // At most: what is left of the page at hand, a small page, a large page. The store bounds records to that.
        loop {
            let mut page = match self.page.take() {
                Some(page) => page,
                None => self.pages.small()?,
            };
            match record.encode(page.spare()) {
                Ok(count) => {
                    page.advance(count);
                    self.page = Some(page);
                    return Ok(());
                }
                Err(EncodeError::InsufficientSize(_))
                    if page.capacity() == LARGE_BYTES && page.is_empty() =>
                {
                    return Err(TlsError::NoPage);
                }
                Err(EncodeError::InsufficientSize(_)) => {
                    if !page.is_empty() {
                        to.push(page.freeze());
                    }
                    self.page = Some(self.pages.large()?);
                }
                Err(EncodeError::AlreadyEncoded) => return Ok(()),
            }
        }
    }

    /// What is not in the caller's vector yet.
    pub(super) fn take(&mut self) -> Option<Chunk> {
        self.page.take().filter(|page| !page.is_empty()).map(Page::freeze)
    }

    pub(super) fn finish(&mut self, to: &mut Vec<Chunk>) {
        to.extend(self.take());
    }
}
