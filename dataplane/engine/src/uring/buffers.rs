//! The ring of receive buffers: pages of the pool, lent to the kernel.
//!
//! ```text
//!   pool ──lend──▶ ring entry ──kernel fills──▶ completion ──take──▶ Page ─▶ Chunk ─▶ pool
//! ```
//!
//! A page that was filled leaves the ring for good; before each system call the empty entries get fresh pages, newest
//! first from the pool, so that a busy core turns over few, hot pages. When the pool has no page to lend, entries stay
//! empty, receives end with ENOBUFS, and the engine arms them again after the next `refill` that succeeds.
//! Deliberately absent: incremental buffers, which split messages at the end of a buffer.

use std::alloc::{self, Layout};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::page::{LARGE_BYTES, Page, PagePool};

/// Entries of the ring; a power of two. Small, because the kernel walks through all of them in turn:
/// 128 pages of which small messages touch the first lines stay in the cache.
pub(super) const ENTRIES: u16 = 128;
const MASK: u16 = ENTRIES - 1;
/// The only group of an engine's ring.
pub(super) const GROUP: u16 = 1;
/// The kernel wants the ring on a page of its own.
const ALIGN: usize = 4096;

#[expect(clippy::cast_possible_truncation, reason = "16 KiB")]
const BUFFER_BYTES: u32 = LARGE_BYTES as u32;

/// See the module head. Dropping it frees the memory: the kernel must be done with it (see `UringEngine::drop`).
pub(super) struct Buffers {
    entries: NonNull<BufRingEntry>,
    /// The page behind each buffer id; `None` while the id is in no entry.
    lent: Box<[Option<Page>]>,
    /// Ids that are in no entry.
    free: Vec<u16>,
    tail: u16,
}

const fn layout() -> Layout {
    match Layout::from_size_align(ENTRIES as usize * size_of::<BufRingEntry>(), ALIGN) {
        Ok(layout) => layout,
        Err(_) => panic!("two kilobytes"),
    }
}

impl Buffers {
    /// Register an empty ring with the kernel.
    pub(super) fn register(uring: &IoUring) -> io::Result<Self> {
        // SAFETY: the layout has a size above zero.
        let memory = unsafe { alloc::alloc_zeroed(layout()) };
        let entries = NonNull::new(memory.cast::<BufRingEntry>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let lent = std::iter::repeat_with(|| None).take(usize::from(ENTRIES)).collect();
        let buffers = Self { entries, lent, free: (0..ENTRIES).rev().collect(), tail: 0 };
        let address = buffers.entries.as_ptr() as u64;
        // SAFETY: the memory is ENTRIES entries long, aligned, zeroed, and lives until the ring is gone: the engine
        // drops or leaks `Buffers` after its last operation has ended.
        unsafe { uring.submitter().register_buf_ring_with_flags(address, ENTRIES, GROUP, 0) }?;
        Ok(buffers)
    }

    /// Pages in the ring.
    pub(super) fn lent(&self) -> usize {
        usize::from(ENTRIES) - self.free.len()
    }

    /// Lend a page for each empty entry, as far as the pool has pages.
    pub(super) fn refill(&mut self, pages: &PagePool) {
        if self.free.is_empty() {
            return;
        }
        let before = self.tail;
        while let Some(id) = self.free.pop() {
            let Ok(mut page) = pages.for_receive() else {
                self.free.push(id);
                break;
            };
            // SAFETY: the index is below ENTRIES. The kernel does not read entries at or beyond the tail, which is
            // published below, so nobody else looks at this one.
            let entry = unsafe { &mut *self.entries.add(usize::from(self.tail & MASK)).as_ptr() };
            entry.set_addr(page.start() as u64);
            entry.set_len(BUFFER_BYTES);
            entry.set_bid(id);
            self.lent[usize::from(id)] = Some(page);
            self.tail = self.tail.wrapping_add(1);
        }
        if self.tail != before {
            // SAFETY: `entries` points to the first entry of a registered, initialised ring.
            let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
            // SAFETY: the tail is a 16-bit field, aligned, alive as long as `self`, and shared with the kernel only:
            // to be accessed atomically. The release orders the entries before it.
            let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// The page of a buffer that the kernel has filled with `count` bytes.
    pub(super) fn take(&mut self, id: u16, count: usize) -> Option<Page> {
        let mut page = self.lent.get_mut(usize::from(id))?.take()?;
        self.free.push(id);
        // The kernel wrote at most BUFFER_BYTES, all of them into initialised memory of this page.
        page.advance(count);
        Some(page)
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with the same layout; the kernel is done with it by the contract of the type.
        unsafe { alloc::dealloc(self.entries.as_ptr().cast(), layout()) };
    }
}
