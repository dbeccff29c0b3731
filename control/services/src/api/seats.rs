//! How many streams are open, in all and for each principal.
//!
//! A seat is given back when the stream is dropped, however it ended. Deliberately absent: the streams.

use super::respond::Failure;
use crate::authorize::Principal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use wire::ErrorCode;

/// Streams of one principal.
pub(super) const STREAMS_PER_PRINCIPAL_MAX: usize = 64;
/// Streams of one server.
pub(super) const STREAMS_MAX: usize = 1_024;

/// Streams by principal; entries that fall to zero go.
#[derive(Clone, Default)]
pub(super) struct Seats(Arc<Mutex<HashMap<String, usize>>>);

/// One open stream.
pub(super) struct Seat {
    seats: Seats,
    who: String,
}

impl Seats {
    pub(super) fn take(&self, who: &Principal) -> Result<Seat, Failure> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (taken.values().sum(), taken.get(&who.name).copied().unwrap_or(0));
        let full: &[(usize, usize, &str)] =
            &[(own, STREAMS_PER_PRINCIPAL_MAX, "you have"), (all, STREAMS_MAX, "this server has")];
        for (open, max, whose) in full {
            if open >= max {
                let message = format!("{whose} {open} streams open, {max} are possible");
                return Err(Failure::new(ErrorCode::Unavailable, message)
                    .hint("close one that is not needed, or try again in a moment"));
            }
        }
        *taken.entry(who.name.clone()).or_default() += 1;
        Ok(Seat { seats: self.clone(), who: who.name.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one principal cannot take what others need, and a dropped stream is a free seat.
    #[test]
    fn seats_are_bounded_and_come_back() {
        let (seats, greedy, modest) =
            (Seats::default(), Principal::new("greedy"), Principal::new("modest"));
        let mut held: Vec<_> =
            (0..STREAMS_PER_PRINCIPAL_MAX).map(|_| seats.take(&greedy).unwrap()).collect();
        let refused = seats.take(&greedy).err().unwrap();
        assert_eq!(refused.0.message, "you have 64 streams open, 64 are possible");
        assert!(seats.take(&modest).is_ok());
        held.pop();
        assert!(seats.take(&greedy).is_ok());
        drop(held);
        assert!(seats.0.lock().unwrap().is_empty());
    }
}
