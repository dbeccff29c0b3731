//! Where one exchange stands on its way from a parsed head to a released upstream, and what may come next.
//!
//! ```text
//!  Start ──▶ Connecting ──▶ Waiting ──▶ Relaying ──▶ Closed
//!    │         │    ▲ refused  │ ▲ lost, replayable     ▲
//!    │         └────┘          └─┘ (once)               │
//!    └─ a connection is at hand ─▶ Waiting      any ────┘ answered, cut or abandoned
//! ```
//!
//! Pure: no socket, no clock, no allocation. `flow.rs` feeds events and carries out actions.
//! Deliberately absent: body bytes and framing, the choice of an instance, the client's protocol.

use engine::Now;

use super::failure::Failure;

/// Where the exchange stands. A variant holds exactly the facts that are true in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The request head is parsed and its route chosen.
    Start {
        /// When the connect budget ends.
        give_up_at: Now,
    },
    /// A connection to an instance is being made; nothing has been sent to anybody.
    Connecting {
        /// When the connect budget ends, over all attempts.
        give_up_at: Now,
        /// A replay is under way: the request was sent once already.
        replayed: bool,
    },
    /// The request is on its way to an instance; no byte of the response has come.
    Waiting {
        /// When the connect budget ends, should a replay be needed.
        give_up_at: Now,
        /// The connection had served before: its death may have crossed our request.
        reused: bool,
        /// A replay was made already.
        replayed: bool,
    },
    /// The client has been given the response head.
    Relaying,
    /// Over.
    Closed(Outcome),
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The response was passed on whole.
    Served,
    /// It was not.
    Failed(Failure),
}

/// What happened to the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An idle connection was taken from the pool.
    Reused,
    /// A new connection was begun.
    Dialled,
    /// There is nobody to connect to.
    Nobody(Failure),
    /// The new connection is up.
    Connected,
    /// The new connection failed.
    ConnectFailed {
        /// Refused, or too slow.
        failure: Failure,
        /// An instance is left that this exchange has not tried.
        more: bool,
    },
    /// The final response head arrived and was given to the client.
    ResponseBegun,
    /// The response is whole.
    ResponseEnded,
    /// The upstream connection broke, ended early or spoke nonsense.
    UpstreamLost {
        /// Reset, malformed or silent.
        failure: Failure,
        /// The request can be sent again: it is idempotent and has no body.
        replayable: bool,
    },
    /// The client is gone, too slow, or sent a body that cannot be passed on.
    ClientLost(Failure),
}

/// What the flow has to do. Carried out before the next event is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Nothing,
    /// Send the request head (and what is queued of the body) to the upstream.
    Send,
    /// Connect to an instance not tried before.
    Dial,
    /// Answer the client with the router's own response; discard the upstream.
    Answer(Failure),
    /// The response cannot be completed: close the client so that it can tell; discard the upstream.
    Cut(Failure),
    /// Give the upstream back, count the exchange, go on with the client.
    Release,
}

/// The whole protocol on one screen: every legal pair is a line, anything else is a bug of ours.
pub(crate) fn step(phase: Phase, event: Event, now: Now) -> (Phase, Action) {
    use {Event as E, Phase as P};
    match (phase, event) {
        (P::Start { give_up_at }, E::Reused) => {
            (P::Waiting { give_up_at, reused: true, replayed: false }, Action::Send)
        }
        (P::Start { give_up_at }, E::Dialled) => {
            (P::Connecting { give_up_at, replayed: false }, Action::Nothing)
        }
        (phase @ P::Connecting { .. }, E::Dialled) => (phase, Action::Nothing),
        (P::Start { .. } | P::Connecting { .. }, E::Nobody(failure)) => answer(failure),
        (P::Connecting { give_up_at, replayed }, E::Connected) => {
            (P::Waiting { give_up_at, reused: false, replayed }, Action::Send)
        }
        (phase @ P::Connecting { give_up_at, .. }, E::ConnectFailed { failure, more }) => {
            if more && now < give_up_at { (phase, Action::Dial) } else { answer(failure) }
        }
        (
            P::Waiting { give_up_at, reused: true, replayed: false },
            E::UpstreamLost { failure, replayable: true },
        ) if failure.verdict().retry => {
            (P::Connecting { give_up_at, replayed: true }, Action::Dial)
        }
        (P::Waiting { .. }, E::UpstreamLost { failure, .. }) => answer(failure),
        (P::Waiting { .. }, E::ResponseBegun) => (P::Relaying, Action::Nothing),
        (P::Relaying, E::ResponseEnded) => (P::Closed(Outcome::Served), Action::Release),
        (P::Relaying, E::UpstreamLost { failure, .. }) => cut(failure),
        // Before the response began the client can still be told what was wrong with its request.
        (P::Start { .. } | P::Connecting { .. } | P::Waiting { .. }, E::ClientLost(failure)) => {
            if failure.verdict().status.is_some() {
                answer(failure)
            } else {
                cut(failure)
            }
        }
        (P::Relaying, E::ClientLost(failure)) => cut(failure),
        (closed @ P::Closed(_), _) => (closed, Action::Nothing),
        // Loud in tests; in production this one exchange dies and is counted under the label `bug`.
        (phase, event) => {
            debug_assert!(false, "{event:?} in {phase:?}");
            cut(Failure::Bug)
        }
    }
}

const fn answer(failure: Failure) -> (Phase, Action) {
    (Phase::Closed(Outcome::Failed(failure)), Action::Answer(failure))
}

const fn cut(failure: Failure) -> (Phase, Action) {
    (Phase::Closed(Outcome::Failed(failure)), Action::Cut(failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVE_UP: Now = Now(1_000);
    const RESET: Failure = Failure::UpstreamReset { response_begun: false };

    fn play(script: &[(u64, Event)]) -> String {
        let mut phase = Phase::Start { give_up_at: GIVE_UP };
        let mut seen = Vec::new();
        for &(at, event) in script {
            let (next, action) = step(phase, event, Now(at));
            seen.push(format!("{action:?}"));
            phase = next;
        }
        seen.join(" | ")
    }

    fn refused(more: bool) -> Event {
        Event::ConnectFailed { failure: Failure::UpstreamRefused, more }
    }

    #[test]
    fn a_refusal_goes_to_the_next_instance_and_the_last_one_is_answered() {
        let script =
            [(0, Event::Dialled), (1, refused(true)), (1, Event::Dialled), (2, refused(false))];
        assert_eq!(play(&script), "Nothing | Dial | Nothing | Answer(UpstreamRefused)");
    }

    #[test]
    fn the_connect_budget_ends_the_search() {
        let script = [(0, Event::Dialled), (1_000, refused(true))];
        assert_eq!(play(&script), "Nothing | Answer(UpstreamRefused)");
    }

    #[test]
    fn a_dead_reused_connection_is_replayed_once() {
        let lost = Event::UpstreamLost { failure: RESET, replayable: true };
        let script =
            [(0, Event::Reused), (1, lost), (1, Event::Dialled), (2, Event::Connected), (3, lost)];
        assert_eq!(
            play(&script),
            "Send | Dial | Nothing | Send | Answer(UpstreamReset { response_begun: false })"
        );
    }

    #[test]
    fn what_cannot_be_replayed_is_answered() {
        let lost = Event::UpstreamLost { failure: RESET, replayable: false };
        assert_eq!(
            play(&[(0, Event::Reused), (1, lost)]),
            "Send | Answer(UpstreamReset { response_begun: false })"
        );
    }

    #[test]
    fn silence_is_never_replayed() {
        let silent = Event::UpstreamLost { failure: Failure::UpstreamSilent, replayable: true };
        assert_eq!(
            play(&[(0, Event::Reused), (1, silent)]),
            "Send | Answer(UpstreamSilent)",
            "the instance may be at work on it"
        );
    }

    #[test]
    fn a_response_cut_short_is_not_hidden() {
        let cut = Failure::UpstreamReset { response_begun: true };
        let script = [
            (0, Event::Reused),
            (1, Event::ResponseBegun),
            (2, Event::UpstreamLost { failure: cut, replayable: true }),
        ];
        assert_eq!(play(&script), "Send | Nothing | Cut(UpstreamReset { response_begun: true })");
    }

    /// Goal: whatever the weather, an exchange ends once, answers at most once, and sends its request at most twice.
    /// Method: random legal events from a seed; a ledger that never looks inside `step`.
    #[test]
    fn any_weather_ends_once() {
        for seed in 0..2_000_u64 {
            let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut roll = |sides: u64| {
                rng ^= rng << 13;
                rng ^= rng >> 7;
                rng ^= rng << 17;
                rng % sides
            };
            let mut phase = Phase::Start { give_up_at: GIVE_UP };
            let (mut sends, mut ends, mut now) = (0, 0, 0);
            for _ in 0..200 {
                now += roll(50);
                let lost = Event::UpstreamLost { failure: RESET, replayable: roll(2) == 0 };
                let gone = Event::ClientLost(Failure::ClientGone);
                let event = match (phase, roll(4)) {
                    (Phase::Start { .. }, 0) => Event::Reused,
                    (Phase::Start { .. }, 1) => Event::Nobody(Failure::NoInstance),
                    (Phase::Start { .. }, _) => Event::Dialled,
                    (Phase::Connecting { .. }, 0 | 1) => refused(roll(2) == 0),
                    (Phase::Connecting { .. }, 2) => Event::Connected,
                    (Phase::Waiting { .. }, 0) => Event::ResponseBegun,
                    (Phase::Waiting { .. } | Phase::Relaying, 1) => lost,
                    (Phase::Relaying, 2) => Event::ResponseEnded,
                    (Phase::Closed(_), 0) => Event::Connected, // A late completion.
                    (Phase::Closed(_), 1) => lost,
                    (Phase::Closed(_), _) => break,
                    _ => gone,
                };
                let was_closed = matches!(phase, Phase::Closed(_));
                let (next, action) = step(phase, event, Now(now));
                sends += u32::from(action == Action::Send);
                let ended = matches!(action, Action::Answer(_) | Action::Cut(_) | Action::Release);
                ends += u32::from(ended);
                assert!(!(was_closed && action != Action::Nothing), "seed {seed}");
                phase = next;
            }
            assert!(matches!(phase, Phase::Closed(_)), "seed {seed}: still {phase:?}");
            assert_eq!(ends, 1, "seed {seed}");
            assert!(sends <= 2, "seed {seed}: request sent {sends} times");
        }
    }
}
