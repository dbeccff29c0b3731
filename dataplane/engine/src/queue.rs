//! Chunks waiting to be sent, in order.
//!
//! Most connections wait for one chunk or none: the first lies in the connection itself, more lie in a list that is
//! borrowed from the engine's [`Spares`] and given back when it is empty. An idle connection owns no memory here.
//! Deliberately absent: a bound. The core watches `bytes`.

use std::collections::VecDeque;

use crate::Chunk;

/// Pieces handed to the kernel in one call; more wait for the next.
pub(crate) const PIECES_MAX: usize = 64;
/// Lists kept for later use.
const SPARES_MAX: usize = 256;
/// A list that grew beyond this is not kept.
const SPARE_CHUNKS_MAX: usize = 256;

/// Boxed, because a connection without a list should pay eight bytes for it, not thirty-two.
type List = Box<VecDeque<Chunk>>;

/// Empty lists, to be reused.
#[derive(Default)]
pub(crate) struct Spares {
    lists: Vec<List>,
}

impl Spares {
    fn take(&mut self) -> List {
        self.lists.pop().unwrap_or_default()
    }

    fn give(&mut self, list: List) {
        if self.lists.len() < SPARES_MAX && list.capacity() <= SPARE_CHUNKS_MAX {
            self.lists.push(list);
        }
    }
}

/// Bytes that one connection has still to send.
#[derive(Default)]
pub(crate) struct SendQueue {
    /// Not empty when anything is queued.
    first: Chunk,
    rest: Option<List>,
    bytes: usize,
}

impl SendQueue {
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Append. An empty chunk is nothing.
    pub(crate) fn push(&mut self, chunk: Chunk, spares: &mut Spares) {
        if chunk.is_empty() {
            return;
        }
        let was_empty = self.bytes == 0;
        self.bytes += chunk.len();
        if was_empty {
            self.first = chunk;
        } else {
            self.rest.get_or_insert_with(|| spares.take()).push_back(chunk);
        }
    }

    /// The only chunk, when there is exactly one.
    pub(crate) fn sole(&self) -> Option<&Chunk> {
        (self.bytes > 0 && self.rest.is_none()).then_some(&self.first)
    }

    /// The chunk at the front.
    pub(crate) fn front(&self) -> Option<&Chunk> {
        (self.bytes > 0).then_some(&self.first)
    }

    /// Describe the front of the queue for a vectored send; gives the number of pieces. The pieces stay valid as long
    /// as neither `consume` nor `clear` is called; `push` does not disturb them.
    pub(crate) fn pieces(&self, into: &mut [libc::iovec]) -> usize {
        if self.bytes == 0 {
            return 0;
        }
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        let mut count = 0;
        for (piece, chunk) in into.iter_mut().zip(std::iter::once(&self.first).chain(rest)) {
            *piece =
                libc::iovec { iov_base: chunk.as_ptr().cast_mut().cast(), iov_len: chunk.len() };
            count += 1;
        }
        count
    }

    /// The kernel took `count` bytes from the front.
    pub(crate) fn consume(&mut self, mut count: usize, spares: &mut Spares) {
        assert!(count <= self.bytes, "the kernel took {count} of {} bytes", self.bytes);
        self.bytes -= count;
        while count > 0 {
            if count < self.first.len() {
                self.first.advance(count);
                return;
            }
            count -= self.first.len();
            let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
            self.first = next.unwrap_or_default();
        }
        if let Some(list) = self.rest.take_if(|rest| rest.is_empty()) {
            spares.give(list);
        }
    }

    /// Drop everything.
    pub(crate) fn clear(&mut self, spares: &mut Spares) {
        self.first = Chunk::default();
        self.bytes = 0;
        if let Some(mut list) = self.rest.take() {
            list.clear();
            spares.give(list);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gather(queue: &SendQueue) -> Vec<u8> {
        let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 100];
        let count = queue.pieces(&mut pieces);
        pieces[..count].iter().fold(Vec::new(), |mut bytes, piece| {
            // SAFETY: the pieces of a queue are readable until it is consumed.
            bytes.extend_from_slice(unsafe {
                std::slice::from_raw_parts(piece.iov_base.cast_const().cast(), piece.iov_len)
            });
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Goal: whatever is pushed and consumed, the queue holds the bytes between, in order, and gives lists back.
        #[test]
        fn a_queue_is_a_string(steps in prop::collection::vec((0usize..9, 0usize..20), 1..40)) {
            let (mut queue, mut spares, mut model) = (SendQueue::default(), Spares::default(), Vec::new());
            for (push, consume) in steps {
                let bytes: &'static [u8] = &b"abcdefghi"[..push];
                queue.push(Chunk::from_static(bytes), &mut spares);
                model.extend_from_slice(bytes);
                prop_assert_eq!(gather(&queue), model.clone());
                let consume = consume.min(model.len());
                queue.consume(consume, &mut spares);
                model.drain(..consume);
                prop_assert_eq!((gather(&queue), queue.bytes()), (model.clone(), model.len()));
            }
            queue.consume(model.len(), &mut spares);
            prop_assert!(queue.rest.is_none() && queue.first.is_empty());
        }
    }
}
