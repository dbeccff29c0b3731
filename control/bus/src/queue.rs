//! The queue of one subscription: bounded, never blocks who fills it, and tells what did not fit.
//!
//! A loss is told after at most half a queue of further messages, not at once: a reader that is slower than its writers
//! would otherwise be told after every single message, and ask for the whole each time. What is told as lost was lost
//! before it is told, so that asking for the whole then repairs it.
//!
//! Deliberately absent: priorities and time; the simulated world has its own queue in front of this one.

use crate::{Incoming, RawMessage};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Messages on their way to one reader.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
    capacity: usize,
}

struct Inner {
    messages: VecDeque<RawMessage>,
    /// How many more are taken at all; a question with so many answers is over then.
    left: usize,
    loss: Option<Loss>,
    nobody: bool,
    closed: bool,
}

struct Loss {
    /// None: unknown.
    count: Option<u64>,
    /// Told when so many further messages were read, or none waits.
    after: usize,
}

impl Queue {
    /// For a subscription.
    pub(crate) fn new(capacity: usize) -> Self {
        Self::with(capacity, usize::MAX)
    }

    /// For the answers to one question: what comes after the `count`-th is no loss.
    pub(crate) fn of_answers(count: usize) -> Self {
        Self::with(count.min(crate::SUBSCRIPTION_CAPACITY), count)
    }

    fn with(capacity: usize, left: usize) -> Self {
        let inner =
            Inner { messages: VecDeque::new(), left, loss: None, nobody: false, closed: false };
        Self { inner: Mutex::new(inner), wake: Notify::new(), capacity: capacity.max(1) }
    }

    /// Adds a message, or counts it as lost.
    pub(crate) fn push(&self, message: RawMessage) {
        let mut inner = self.lock();
        if inner.left == 0 {
            return;
        }
        if inner.messages.len() < self.capacity {
            if inner.left != usize::MAX {
                inner.left -= 1;
            }
            inner.messages.push_back(message);
        } else {
            let after = self.capacity / 2;
            let loss = inner.loss.get_or_insert(Loss { count: Some(0), after });
            loss.count = loss.count.map(|count| count.saturating_add(1));
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Says that an unknown number was lost: before anything else that waits.
    pub(crate) fn lose_unknown(&self) {
        self.lock().loss = Some(Loss { count: None, after: 0 });
        self.wake.notify_one();
    }

    /// Says that nobody listens.
    pub(crate) fn nobody(&self) {
        self.lock().nobody = true;
        self.wake.notify_one();
    }

    /// Nothing comes any more; what waits is still read.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// The next message; none when closed. Cancel-safe: nothing is taken before it is returned.
    pub(crate) async fn next(&self) -> Option<Incoming> {
        loop {
            // A reader that always finds something must not keep its thread from others.
            tokio::task::coop::consume_budget().await;
            if let Some(decided) = self.take() {
                return decided;
            }
            self.wake.notified().await;
        }
    }

    /// `None`: nothing to say yet. `Some(None)`: over.
    fn take(&self) -> Option<Option<Incoming>> {
        let mut inner = self.lock();
        let waiting = inner.messages.len();
        if let Some(loss) = inner.loss.take_if(|loss| loss.after == 0 || waiting == 0) {
            return Some(Some(Incoming::Lost(loss.count.unwrap_or(0))));
        }
        if let Some(message) = inner.messages.pop_front() {
            if let Some(loss) = &mut inner.loss {
                loss.after -= 1;
            }
            return Some(Some(Incoming::Message(message)));
        }
        if inner.nobody {
            inner.nobody = false;
            inner.closed = true;
            return Some(Some(Incoming::NoResponders));
        }
        (inner.closed || inner.left == 0).then_some(None)
    }

    /// No code under this lock can panic half-way, so a poisoned lock holds nothing broken.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(number: usize) -> RawMessage {
        RawMessage { subject: number.to_string(), reply: None, payload: Bytes::new() }
    }

    /// What is read at once, as text.
    fn read_all(queue: &Queue) -> String {
        let mut all = Vec::new();
        while let Some(Some(incoming)) = queue.take() {
            all.push(match incoming {
                Incoming::Message(message) => message.subject,
                Incoming::Lost(count) => format!("-{count}"),
                Incoming::NoResponders => "nobody".to_owned(),
            });
        }
        all.join(" ")
    }

    /// Goal: nothing is short without a word, the count is exact, and the word comes within half a queue.
    #[test]
    fn a_loss_is_told_half_a_queue_later() {
        let queue = Queue::new(4);
        (1..=9).for_each(|number| queue.push(message(number)));
        assert_eq!(read_all(&queue), "1 2 -5 3 4");
        queue.push(message(10));
        assert_eq!(read_all(&queue), "10");
    }

    /// Goal: a reader slower than its writer is told once in half a queue, not after each message.
    #[test]
    fn a_slow_reader_is_not_told_all_the_time() {
        let queue = Queue::new(8);
        let (mut told, mut lost, mut got) = (0, 0, 0);
        for number in 0..4_000 {
            queue.push(message(number));
            if number % 2 == 0 {
                match queue.take() {
                    Some(Some(Incoming::Message(_))) => got += 1,
                    Some(Some(Incoming::Lost(count))) => (told, lost) = (told + 1, lost + count),
                    other => panic!("{other:?}"),
                }
            }
        }
        for word in read_all(&queue).split(' ') {
            match word.strip_prefix('-') {
                Some(count) => lost += count.parse::<u64>().unwrap(),
                None => got += 1,
            }
        }
        assert_eq!(lost + got, 4_000);
        assert!((2..=2_000 / 4).contains(&told), "{told}");
    }

    #[test]
    fn a_break_is_told_before_what_waits() {
        let queue = Queue::new(4);
        queue.push(message(1));
        queue.lose_unknown();
        queue.lose_unknown();
        queue.push(message(2));
        assert_eq!(read_all(&queue), "-0 1 2");
    }

    #[test]
    fn answers_are_over_when_they_have_come() {
        let queue = Queue::of_answers(2);
        (1..=3).for_each(|number| queue.push(message(number)));
        assert_eq!(read_all(&queue), "1 2");
        assert_eq!(queue.take(), Some(None));
        let nobody = Queue::of_answers(2);
        nobody.nobody();
        assert_eq!(read_all(&nobody), "nobody");
        assert_eq!(nobody.take(), Some(None));
    }
}
