//! Pooled pages and reference-counted chunks of them: the only memory that bytes of traffic live in.
//!
//! Two sizes, one free list each (LIFO: the page given back last is hot in the cache). A [`Page`] is written by one
//! owner; frozen, it becomes a [`Chunk`] that can be cloned and sliced without copying. The last drop gives the page
//! back to its pool, or to the receive ring it came from. Counts are plain integers: pages never leave their thread.
//! Deliberately absent: growth without bound; `pages_max` is the most that exist at a time.
