//! Lives as transcripts, then under random weather.

use super::*;
use proptest::prelude::*;

const TERMS: Terms = Terms { probed: true, may_finish: false, start_ms: 30_000, stop_ms: 5_000 };

fn stop() -> Event {
    Event::Stop("asked".to_owned())
}

fn exited(code: i32) -> Event {
    Event::Exited(Exit { code: Some(code), at_ms: 1_500 })
}

/// One word per action; the whole transcript is compared, not single fields.
fn play(terms: Terms, script: &[Event]) -> String {
    let mut life = Life::new(terms);
    let mut words = Vec::new();
    for (at, event) in script.iter().enumerate() {
        let actions = life.step(event.clone(), 1_000 + at as u64 * 100);
        let shown: Vec<_> = actions.iter().map(word).collect();
        words.push(shown.join(" "));
    }
    words.join(" | ")
}

fn word(action: &Action) -> String {
    match action {
        Action::Switch(state) => state.to_string(),
        Action::Destroy(end) => format!(
            "Destroy({}{}{} ran {}: {})",
            if end.failed { "failed " } else { "" },
            if end.asked { "asked " } else { "" },
            end.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
            end.ran_ms,
            end.reason
        ),
        other => format!("{other:?}"),
    }
}

/// Goal: the ordinary life: routers know before they are asked to forget, and TERM comes after the last request.
#[test]
fn an_ordinary_life() {
    use Event as E;
    let script = [
        E::Begin,
        E::Prepared,
        E::Spawned,
        E::Listening,
        E::Routed,
        E::Update(7),
        stop(),
        E::Drained,
        exited(143),
        E::Destroyed,
    ];
    assert_eq!(
        play(TERMS, &script),
        "SETUP Arm(600000) Prepare | STARTING Arm(30000) Spawn | Probe \
         | FIRST_RUNNING Announce | RUNNING | UPDATING Take(7) RUNNING \
         | STOPPING_WAIT Withdraw Arm(7000) Drain | STOPPING Arm(5000) Tell \
         | TEARDOWN Destroy(asked 143 ran 200: asked) | REMOVED"
    );
}

/// Goal: a stop while the process is being made neither loses the process nor lets it serve.
#[test]
fn stopped_while_starting() {
    use Event as E;
    assert_eq!(
        play(
            TERMS,
            &[E::Begin, E::Prepared, stop(), E::Spawned, E::TimeUp, exited(137), E::Destroyed]
        ),
        "SETUP Arm(600000) Prepare | STARTING Arm(30000) Spawn | STOPPING_WAIT Arm(10000) \
         | STOPPING Arm(5000) Tell | Kill Arm(10000) | TEARDOWN Destroy(asked 137 ran 0: asked) | REMOVED"
    );
    assert_eq!(
        play(TERMS, &[E::Begin, E::Prepared, E::Spawned, stop(), E::Listening, exited(0)]),
        "SETUP Arm(600000) Prepare | STARTING Arm(30000) Spawn | Probe \
         | STOPPING_WAIT STOPPING Arm(5000) Tell |  | TEARDOWN Destroy(asked 0 ran 0: asked)"
    );
    assert_eq!(
        play(TERMS, &[E::Begin, stop(), E::Prepared, E::Destroyed]),
        "SETUP Arm(600000) Prepare | Abandon TEARDOWN Destroy(asked - ran 0: asked) |  | REMOVED"
    );
}

/// Goal: a process that ends while it is being stopped is gone at once, whatever was still to come.
#[test]
fn ended_while_stopping() {
    use Event as E;
    let up = [E::Begin, E::Prepared, E::Spawned, E::Listening];
    let mut script = up.to_vec();
    script.extend([stop(), exited(1), E::Drained, E::TimeUp, E::Destroyed]);
    assert_eq!(
        play(TERMS, &script).split(" | ").skip(4).collect::<Vec<_>>().join(" | "),
        "STOPPING_WAIT Withdraw Arm(7000) Drain | TEARDOWN Destroy(asked 1 ran 200: asked) |  |  | REMOVED"
    );
}

/// Goal: each time-out has its own end: no port, deaf to TERM, deaf to KILL, a drain that never reports.
#[test]
fn every_wait_ends() {
    use Event as E;
    let late = play(
        TERMS,
        &[E::Begin, E::Prepared, E::Spawned, E::TimeUp, E::TimeUp, E::TimeUp, E::Destroyed],
    );
    assert_eq!(
        late,
        "SETUP Arm(600000) Prepare | STARTING Arm(30000) Spawn | Probe \
         | STOPPING_WAIT STOPPING Arm(5000) Tell | Kill Arm(10000) \
         | TEARDOWN Destroy(failed - ran 0: nothing listened on its ports ($PORT) within 30 s) | REMOVED"
    );
    let deaf = play(
        TERMS,
        &[
            E::Begin,
            E::Prepared,
            E::Spawned,
            E::Listening,
            E::Deaf("port 80 is deaf".into()),
            E::TimeUp,
            exited(0),
        ],
    );
    assert!(
        deaf.ends_with(
            "STOPPING_WAIT Withdraw Arm(7000) Drain | STOPPING Arm(5000) Tell \
         | TEARDOWN Destroy(failed 0 ran 200: port 80 is deaf)"
        ),
        "{deaf}"
    );
    let slow = play(TERMS, &[E::Begin, E::TimeUp, E::Destroyed]);
    assert!(slow.contains("Abandon TEARDOWN Destroy(failed - ran 0: packages"), "{slow}");
}

/// Goal: twice the same wish is one wish.
#[test]
fn doubled_wishes_change_nothing() {
    use Event as E;
    let script = [
        E::Begin,
        E::Begin,
        E::Prepared,
        E::Prepared,
        E::Spawned,
        E::Listening,
        E::Listening,
        stop(),
        stop(),
        E::Drained,
        E::Drained,
        stop(),
        E::Update(3),
        exited(0),
        exited(0),
        E::Destroyed,
        E::Destroyed,
        E::Begin,
    ];
    let silent = play(TERMS, &script).split(" | ").map(str::is_empty).collect::<Vec<_>>();
    let said = [0, 2, 4, 5, 7, 9, 13, 15];
    for (at, silent) in silent.into_iter().enumerate() {
        assert_eq!(!silent, said.contains(&at), "{at}");
    }
}

/// Goal: who ends by itself failed, unless ending with 0 is its job; who was asked did not fail.
#[test]
fn what_counts_as_a_failure() {
    use Event as E;
    let plain = Terms { probed: false, ..TERMS };
    let task = Terms { may_finish: true, ..plain };
    let up = [E::Begin, E::Prepared, E::Spawned];
    let last = |terms, end| {
        let mut script = up.to_vec();
        script.push(end);
        play(terms, &script).rsplit(" | ").next().unwrap_or_default().to_owned()
    };
    let gone = "Withdraw TEARDOWN Destroy";
    assert_eq!(
        last(plain, exited(0)),
        format!("{gone}(failed 0 ran 100: ended by itself with status 0)")
    );
    assert_eq!(last(task, exited(0)), format!("{gone}(0 ran 100: ended by itself with status 0)"));
    assert_eq!(
        last(task, exited(2)),
        format!("{gone}(failed 2 ran 100: ended by itself with status 2)")
    );
    let lost = Event::Exited(Exit { code: None, at_ms: 1_200 });
    assert_eq!(
        last(task, lost),
        format!("{gone}(failed - ran 1: ended by itself, its status is lost)")
    );
    let failed = play(plain, &[E::Begin, E::Failed("no such package".into())]);
    assert!(failed.ends_with("TEARDOWN Destroy(failed - ran 0: no such package)"), "{failed}");
}

fn weather() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Begin),
        Just(Event::Prepared),
        Just(Event::Failed("x".into())),
        Just(Event::Spawned),
        Just(Event::Listening),
        Just(Event::Deaf("x".into())),
        (0..3).prop_map(exited),
        Just(stop()),
        Just(Event::Drained),
        Just(Event::StopCommandFailed),
        Just(Event::Update(2)),
        Just(Event::TimeUp),
        Just(Event::Destroyed),
    ]
}

proptest! {
    /// Goal: whatever comes in whatever order: only legal switches, announced at most once, nothing is told to end
    /// while routers still send, destroyed exactly once, and time alone ends every life that was asked to end.
    #[test]
    fn any_weather_ends_well(probed: bool, events in proptest::collection::vec(weather(), 0..40)) {
        let mut life = Life::new(Terms { probed, ..TERMS });
        let mut state = S::New;
        let (mut announced, mut withdrawn, mut destroyed) = (0, 0, 0);
        let ending = [stop(), Event::TimeUp, Event::TimeUp, Event::TimeUp, Event::TimeUp, Event::Destroyed];
        for (at, event) in events.into_iter().chain(ending).enumerate() {
            for action in life.step(event, at as u64) {
                match action {
                    Action::Switch(next) => {
                        prop_assert!(state.may_become(next), "{state} -> {next}");
                        state = next;
                    }
                    Action::Announce => announced += 1,
                    Action::Withdraw => withdrawn += 1,
                    Action::Tell | Action::Term | Action::Kill => prop_assert_eq!(announced, withdrawn),
                    Action::Destroy(_) => {
                        prop_assert_eq!(announced, withdrawn);
                        destroyed += 1;
                    }
                    _ => {}
                }
                prop_assert!(announced <= 1 && destroyed <= 1);
            }
            prop_assert_eq!(life.state(), state);
        }
        prop_assert_eq!((state, destroyed), (S::Removed, 1));
    }
}
