//! Pooled pages and reference-counted chunks of them: the only memory that bytes of traffic live in.
//!
//! ```text
//!   PagePool ──small/large──▶ Page ──freeze──▶ Chunk ──clone/slice──▶ Chunk …
//!      ▲                                                               │
//!      └────────────────────── last drop ──────────────────────────────┘
//! ```
//!
//! Two sizes, one free list each (LIFO: the page given back last is hot in the cache). A [`Page`] is written by one
//! owner; frozen, it becomes a [`Chunk`] that can be cloned and sliced without copying. The last drop gives the page
//! back to its pool. Counts are plain integers: neither pages nor chunks ever leave their thread.
//! Deliberately absent: growth without bound (`bytes_max` is the most that exists at a time), and uninitialised
//! memory (a page is zeroed once, when the allocator gives it; from then on it holds old traffic).

use std::alloc::{self, Layout};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem;
use std::ops::{Bound, Deref, RangeBounds};
use std::ptr::NonNull;
use std::rc::Rc;

/// Usable bytes of a small page: heads and other things that are made, not received.
pub const SMALL_BYTES: usize = 2 * 1024;
/// Usable bytes of a large page: what one receive may bring.
pub const LARGE_BYTES: usize = 16 * 1024;
/// Small pages kept for later use while nobody holds them; more go back to the allocator.
pub const SMALL_IDLE_MAX: usize = 512;
/// Large pages kept for later use while nobody holds them; more go back to the allocator.
pub const LARGE_IDLE_MAX: usize = 192;
/// Receiving may not take the last `1 / RECEIVE_RESERVE` of a pool, so that an answer can always be written.
const RECEIVE_RESERVE: usize = 8;

/// The pool has reached `bytes_max`, or the allocator has nothing left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolExhausted;

impl fmt::Display for PoolExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the page pool is exhausted")
    }
}

impl std::error::Error for PoolExhausted {}

/// The bytes do not fit into what is left of the page; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the page is full")
    }
}

impl std::error::Error for Full {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Small,
    Large,
}

impl Class {
    const fn usable(self) -> usize {
        match self {
            Self::Small => SMALL_BYTES,
            Self::Large => LARGE_BYTES,
        }
    }

    const fn idle_max(self) -> usize {
        match self {
            Self::Small => SMALL_IDLE_MAX,
            Self::Large => LARGE_IDLE_MAX,
        }
    }

    const fn layout(self) -> Layout {
        match Layout::from_size_align(HEADER_BYTES + self.usable(), HEADER_BYTES) {
            Ok(layout) => layout,
            Err(_) => panic!("page sizes are constants far below isize::MAX"),
        }
    }
}

/// Stands in front of the usable bytes; one cache line, so that the bytes begin on one too.
#[repr(C, align(64))]
struct Header {
    /// Pages and chunks that refer to this allocation; 0 while it lies on the free list.
    references: Cell<u32>,
    class: Class,
    /// The pool it came from. Valid while `references > 0` (each held page owns one strong count of it)
    /// and while the pool itself walks its free list.
    pool: *const Pool,
}

const HEADER_BYTES: usize = mem::size_of::<Header>();
const _: () = assert!(HEADER_BYTES == 64 && mem::align_of::<Header>() == 64);

/// The first usable byte of the allocation that `header` begins.
fn first_byte(header: NonNull<Header>) -> NonNull<u8> {
    // SAFETY: `header` comes from `Pool::allocate`: its allocation is HEADER_BYTES + usable bytes long, so one
    // header further is within it.
    unsafe { header.add(1).cast() }
}

/// What all clones of a [`PagePool`] share.
struct Pool {
    bytes_max: usize,
    bytes: Cell<usize>,
    existing: Cell<usize>,
    held: Cell<usize>,
    free_small: RefCell<Vec<NonNull<Header>>>,
    free_large: RefCell<Vec<NonNull<Header>>>,
}

impl Pool {
    fn free(&self, class: Class) -> &RefCell<Vec<NonNull<Header>>> {
        match class {
            Class::Small => &self.free_small,
            Class::Large => &self.free_large,
        }
    }

    /// A page nobody refers to, from the free list or the allocator; at most `ceiling` bytes may then exist.
    fn take(self: &Rc<Self>, class: Class, ceiling: usize) -> Result<Page, PoolExhausted> {
        let recycled = self.free(class).borrow_mut().pop();
        let header = match recycled {
            Some(header) => header,
            None => self.allocate(class, ceiling)?,
        };
        // SAFETY: `header` was allocated by this pool, is initialised, and lies on no list: it is ours alone.
        let references = unsafe { &header.as_ref().references };
        debug_assert_eq!(references.get(), 0, "a free page is referred to");
        references.set(1);
        self.held.set(self.held.get() + 1);
        // The page keeps its pool alive; `give_back` returns this count.
        mem::forget(Rc::clone(self));
        Ok(Page { header, len: 0 })
    }

    #[cold]
    fn allocate(
        self: &Rc<Self>,
        class: Class,
        ceiling: usize,
    ) -> Result<NonNull<Header>, PoolExhausted> {
        let bytes = self.bytes.get() + class.usable();
        if bytes > ceiling.min(self.bytes_max) {
            return Err(PoolExhausted);
        }
        // SAFETY: the layout has a size above zero.
        let raw = unsafe { alloc::alloc_zeroed(class.layout()) };
        let header = NonNull::new(raw.cast::<Header>()).ok_or(PoolExhausted)?;
        // SAFETY: `header` is the start of a fresh allocation with the size and alignment of a Header and more.
        unsafe {
            header.write(Header { references: Cell::new(0), class, pool: Rc::as_ptr(self) });
        }
        self.bytes.set(bytes);
        self.existing.set(self.existing.get() + 1);
        Ok(header)
    }

    /// Return an allocation to the allocator.
    ///
    /// # Safety
    /// `header` came from `allocate` of this pool, nobody refers to it, and it lies on no list.
    unsafe fn deallocate(&self, header: NonNull<Header>, class: Class) {
        self.bytes.set(self.bytes.get() - class.usable());
        self.existing.set(self.existing.get() - 1);
        // SAFETY: by the contract above; `class` is the class it was allocated with.
        unsafe { alloc::dealloc(header.as_ptr().cast(), class.layout()) };
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        debug_assert_eq!(self.held.get(), 0, "each held page keeps its pool alive");
        for class in [Class::Small, Class::Large] {
            let free = mem::take(&mut *self.free(class).borrow_mut());
            for header in free {
                // SAFETY: what lies on a free list was allocated here, is referred to by nobody,
                // and was just taken off the list.
                unsafe { self.deallocate(header, class) };
            }
        }
    }
}

/// One reference to `header` goes away; the last one gives the page back.
fn release(header: NonNull<Header>) {
    // SAFETY: the caller owned one of the references, so the allocation is alive.
    let references = unsafe { &header.as_ref().references };
    let left = references.get() - 1;
    references.set(left);
    if left == 0 {
        give_back(header);
    }
}

fn give_back(header: NonNull<Header>) {
    // SAFETY: the allocation lives until the end of this function at least; its class and pool never change.
    let (class, pool) = unsafe { (header.as_ref().class, header.as_ref().pool) };
    // SAFETY: `take` forgot one strong count of this very pool for this page; this is the one place that
    // takes it back, so the pool is alive until `pool` drops at the end of the function.
    let pool = unsafe { Rc::from_raw(pool) };
    pool.held.set(pool.held.get() - 1);
    let mut free = pool.free(class).borrow_mut();
    if free.len() < class.idle_max() {
        free.push(header);
    } else {
        drop(free);
        // SAFETY: the last reference is gone, and the page was not put on the free list.
        unsafe { pool.deallocate(header, class) };
    }
}

/// Where pages come from. Cheap to clone; all clones are the same pool. One thread only.
#[derive(Clone)]
pub struct PagePool {
    pool: Rc<Pool>,
}

impl PagePool {
    /// A pool whose pages together never hold more than `bytes_max` usable bytes. Nothing is allocated yet.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            pool: Rc::new(Pool {
                bytes_max,
                bytes: Cell::new(0),
                existing: Cell::new(0),
                held: Cell::new(0),
                free_small: RefCell::new(Vec::new()),
                free_large: RefCell::new(Vec::new()),
            }),
        }
    }

    /// An empty page of [`SMALL_BYTES`].
    ///
    /// # Errors
    /// [`PoolExhausted`] when `bytes_max` is reached.
    pub fn small(&self) -> Result<Page, PoolExhausted> {
        self.pool.take(Class::Small, usize::MAX)
    }

    /// An empty page of [`LARGE_BYTES`].
    ///
    /// # Errors
    /// [`PoolExhausted`] when `bytes_max` is reached.
    pub fn large(&self) -> Result<Page, PoolExhausted> {
        self.pool.take(Class::Large, usize::MAX)
    }

    /// A large page to receive into: leaves the reserve for those who must write an answer.
    pub(crate) fn for_receive(&self) -> Result<Page, PoolExhausted> {
        let bytes_max = self.pool.bytes_max;
        self.pool.take(Class::Large, bytes_max - bytes_max / RECEIVE_RESERVE)
    }

    /// Pages that somebody holds, as a [`Page`] or through chunks of it.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pool.held.get()
    }

    /// Pages that exist, held or on the free lists.
    #[must_use]
    pub fn existing(&self) -> usize {
        self.pool.existing.get()
    }

    /// Usable bytes of all pages that exist.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pool.bytes.get()
    }

    /// Chunks that together hold a copy of `bytes`: large pages while much is left, a small one for a small rest.
    ///
    /// # Errors
    /// [`PoolExhausted`] when `bytes_max` is reached; `to` then holds what was copied until then.
    pub fn copy_in(&self, mut bytes: &[u8], to: &mut Vec<Chunk>) -> Result<(), PoolExhausted> {
        while !bytes.is_empty() {
            let mut page = if bytes.len() <= SMALL_BYTES { self.small()? } else { self.large()? };
            let taken = bytes.len().min(page.capacity());
            page.spare()[..taken].copy_from_slice(&bytes[..taken]);
            page.advance(taken);
            bytes = &bytes[taken..];
            to.push(page.freeze());
        }
        Ok(())
    }
}

impl fmt::Debug for PagePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagePool")
            .field("bytes_max", &self.pool.bytes_max)
            .field("existing", &self.existing())
            .field("held", &self.held())
            .finish()
    }
}

/// A page with one owner, filled from the front.
pub struct Page {
    /// Owns one reference; the only one as long as this is a `Page`.
    header: NonNull<Header>,
    len: u32,
}

impl Page {
    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it can hold in all: [`SMALL_BYTES`] or [`LARGE_BYTES`].
    #[must_use]
    pub fn capacity(&self) -> usize {
        // SAFETY: we own a reference, so the allocation is alive and initialised.
        unsafe { self.header.as_ref().class }.usable()
    }

    fn all(&mut self) -> &mut [u8] {
        let capacity = self.capacity();
        // SAFETY: the usable bytes are initialised (zeroed at allocation), `capacity` long, and ours alone: a Page
        // is the only reference to its allocation. The borrow ends with the borrow of self.
        unsafe { std::slice::from_raw_parts_mut(first_byte(self.header).as_ptr(), capacity) }
    }

    /// The part not yet written. Write into it, then [`Page::advance`].
    pub fn spare(&mut self) -> &mut [u8] {
        let len = self.len();
        &mut self.all()[len..]
    }

    /// Say that `count` more bytes of `spare` were written.
    ///
    /// # Panics
    /// When `count` is more than `spare` has.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.capacity() - self.len(), "advanced beyond the end of the page");
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most LARGE_BYTES by the line above"
        )]
        {
            self.len += count as u32;
        }
    }

    /// Append all of `bytes`.
    ///
    /// # Errors
    /// [`Full`] when they do not fit; then nothing is written.
    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.spare().get_mut(..bytes.len()).ok_or(Full)?.copy_from_slice(bytes);
        self.advance(bytes.len());
        Ok(())
    }

    /// What was written.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        // SAFETY: as in `all`; `len <= capacity` by `advance`.
        unsafe { std::slice::from_raw_parts(first_byte(self.header).as_ptr(), self.len()) }
    }

    /// What was written, to change it in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        &mut self.all()[..len]
    }

    /// Forget what was written.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Stop writing: the filled part as a chunk.
    #[must_use]
    pub fn freeze(self) -> Chunk {
        let chunk = Chunk { at: first_byte(self.header), len: self.len(), page: Some(self.header) };
        // The reference goes over to the chunk.
        mem::forget(self);
        chunk
    }

    /// Where the usable bytes begin, for the kernel to write to.
    pub(crate) fn start(&mut self) -> *mut u8 {
        first_byte(self.header).as_ptr()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        release(self.header);
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({} of {})", self.len(), self.capacity())
    }
}

/// Bytes that do not change, in a page shared with other chunks, or static. Cheap to clone and to cut.
pub struct Chunk {
    /// First byte. Valid for `len` bytes for as long as `page` is held, or forever when there is none.
    at: NonNull<u8>,
    len: usize,
    /// Owns one reference.
    page: Option<NonNull<Header>>,
}

const _: () = assert!(mem::size_of::<Chunk>() == 24 && mem::size_of::<Option<Chunk>>() == 24);

impl Chunk {
    /// A chunk of bytes that live forever; holds no page.
    #[must_use]
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        // A pointer out of a slice is never null.
        let at = match NonNull::new(bytes.as_ptr().cast_mut()) {
            Some(at) => at,
            None => NonNull::dangling(),
        };
        Self { at, len: bytes.len(), page: None }
    }

    /// A chunk of the bytes in `range` of this one; shares the page.
    ///
    /// # Panics
    /// When the range is not within the chunk.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len,
        };
        assert!(start <= end && end <= self.len, "slice {start}..{end} of a chunk of {}", self.len);
        let mut part = self.clone();
        part.advance(start);
        part.truncate(end - start);
        part
    }

    /// Cut off the first `count` bytes and give them.
    ///
    /// # Panics
    /// When the chunk is shorter.
    #[must_use]
    pub fn split_to(&mut self, count: usize) -> Self {
        let front = self.slice(..count);
        self.advance(count);
        front
    }

    /// Forget the first `count` bytes.
    ///
    /// # Panics
    /// When the chunk is shorter.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len, "advanced {count} in a chunk of {}", self.len);
        // SAFETY: `count <= len`, so the result is within the bytes or just past their end.
        self.at = unsafe { self.at.add(count) };
        self.len -= count;
    }

    /// Forget all but the first `len` bytes; nothing happens when it is shorter.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The bytes to change in place, when nobody else refers to the page. `None` for static bytes.
    pub fn try_mut(&mut self) -> Option<&mut [u8]> {
        let header = self.page?;
        // SAFETY: we own a reference, so the allocation is alive.
        if unsafe { header.as_ref().references.get() } != 1 {
            return None;
        }
        // SAFETY: ours is the only reference, and it is borrowed mutably for as long as the slice lives; `at` and
        // `len` are within the usable, initialised bytes of the page, and `at` was derived from the pointer to the
        // whole allocation.
        Some(unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) })
    }

    /// The same bytes in a small page, when they lie in a large one, fit, and a small page is free; else as it is.
    /// For those who keep few bytes for long: a large page is then free again.
    #[must_use]
    pub fn compact(self, pages: &PagePool) -> Self {
        let Some(header) = self.page else { return self };
        // SAFETY: we own a reference, so the allocation is alive.
        if unsafe { header.as_ref().class } == Class::Small || self.len > SMALL_BYTES {
            return self;
        }
        let Ok(mut page) = pages.small() else { return self };
        match page.extend(&self) {
            Ok(()) => page.freeze(),
            Err(Full) => self,
        }
    }
}

impl Clone for Chunk {
    fn clone(&self) -> Self {
        if let Some(header) = self.page {
            // SAFETY: we own a reference, so the allocation is alive.
            let references = unsafe { &header.as_ref().references };
            let count = references.get().checked_add(1);
            references.set(
                count.expect("four thousand million clones of one page do not fit into memory"),
            );
        }
        Self { at: self.at, len: self.len, page: self.page }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(header) = self.page {
            release(header);
        }
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Self::from_static(&[])
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `at` points to `len` initialised bytes that stay where they are and unchanged for as long as we own
        // our reference (`try_mut` needs to be the only one), or forever.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} B \"{}\")", self.len, self.get(..32).unwrap_or(self).escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goal: pages go round, the newest first, and the counts tell the truth.
    #[test]
    fn a_page_given_back_is_the_next_one_taken() {
        let pool = PagePool::new(4 * LARGE_BYTES);
        let mut page = pool.large().unwrap();
        page.extend(b"hello").unwrap();
        let place = page.start();
        let chunk = page.freeze();
        let copy = chunk.clone();
        drop(chunk);
        assert_eq!((pool.held(), pool.existing()), (1, 1));
        assert_eq!(&*copy, b"hello");
        drop(copy);
        assert_eq!((pool.held(), pool.existing()), (0, 1));
        assert_eq!(pool.large().unwrap().start(), place);
    }

    /// Goal: `bytes_max` holds for both sizes together, and receiving leaves a reserve.
    #[test]
    fn the_bound_is_a_bound() {
        let pool = PagePool::new(8 * LARGE_BYTES);
        let received: Vec<Page> = std::iter::from_fn(|| pool.for_receive().ok()).collect();
        assert_eq!(received.len(), 7);
        let small: Vec<Page> = std::iter::from_fn(|| pool.small().ok()).collect();
        assert_eq!(small.len(), LARGE_BYTES / SMALL_BYTES);
        assert_eq!(pool.large().unwrap_err(), PoolExhausted);
        drop(received);
        assert!(pool.large().is_ok(), "pages on the free list can be taken at the bound");
    }

    /// Goal: what is beyond the idle reserve goes back to the allocator.
    #[test]
    fn idle_pages_beyond_the_reserve_are_freed() {
        let pool = PagePool::new(usize::MAX);
        let many: Vec<Page> = (0..LARGE_IDLE_MAX + 9).map(|_| pool.large().unwrap()).collect();
        assert_eq!(pool.existing(), LARGE_IDLE_MAX + 9);
        drop(many);
        assert_eq!((pool.held(), pool.existing()), (0, LARGE_IDLE_MAX));
    }

    /// Goal: a chunk outlives every handle of its pool.
    #[test]
    fn a_chunk_keeps_its_pool_alive() {
        let pool = PagePool::new(LARGE_BYTES);
        let mut page = pool.small().unwrap();
        page.extend(b"late").unwrap();
        let chunk = page.freeze();
        drop(pool);
        assert_eq!(&*chunk, b"late");
    }

    #[test]
    fn only_the_sole_reference_may_write() {
        let pool = PagePool::new(LARGE_BYTES);
        let mut page = pool.small().unwrap();
        page.extend(b"abcdef").unwrap();
        let mut chunk = page.freeze();
        let front = chunk.split_to(2);
        assert!(chunk.try_mut().is_none());
        drop(front);
        chunk.try_mut().unwrap()[0] = b'C';
        assert_eq!(&*chunk, b"Cdef");
        assert!(Chunk::from_static(b"fixed").try_mut().is_none());
    }

    #[test]
    fn a_full_page_refuses_whole() {
        let pool = PagePool::new(LARGE_BYTES);
        let mut page = pool.small().unwrap();
        page.extend(&[7; SMALL_BYTES - 1]).unwrap();
        assert_eq!(page.extend(b"xy"), Err(Full));
        assert_eq!(page.len(), SMALL_BYTES - 1);
        page.clear();
        assert_eq!(page.spare().len(), SMALL_BYTES);
    }

    #[test]
    fn compacting_frees_the_large_page() {
        let pool = PagePool::new(4 * LARGE_BYTES);
        let mut page = pool.large().unwrap();
        page.extend(b"GET / HT").unwrap();
        let chunk = page.freeze().compact(&pool);
        assert_eq!(&*chunk, b"GET / HT");
        let small_only = pool.held();
        assert_eq!((small_only, pool.existing()), (1, 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Goal: any cutting of a chunk gives the bytes a slice would give, and no page is lost.
        #[test]
        fn cutting_is_slicing(bytes in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(0.0f64..1.0, 0..12)) {
            let pool = PagePool::new(LARGE_BYTES);
            let mut page = pool.small().unwrap();
            page.extend(&bytes).unwrap();
            let mut chunk = page.freeze();
            let mut rest = bytes.as_slice();
            let mut kept = Vec::new();
            for (turn, cut) in cuts.iter().enumerate() {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
                let at = (cut * rest.len() as f64) as usize;
                match turn % 3 {
                    0 => {
                        kept.push((chunk.split_to(at), &rest[..at]));
                        rest = &rest[at..];
                    }
                    1 => {
                        chunk.truncate(rest.len() - at);
                        rest = &rest[..rest.len() - at];
                    }
                    _ => kept.push((chunk.slice(at..), &rest[at..])),
                }
                prop_assert_eq!(&*chunk, rest);
            }
            for (chunk, wanted) in &kept {
                prop_assert_eq!(&**chunk, *wanted);
            }
            drop((chunk, kept));
            prop_assert_eq!(pool.held(), 0);
        }
    }
}
