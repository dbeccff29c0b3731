//! One suite for all worlds: what a service may rely on, whichever world it lives in.
//!
//! Each check is told two worlds that hear each other, as two processes would have them. Deliberately absent: what only
//! one world can do; see `over_nats.rs` and `weather.rs` beside this file.

#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod over_nats;
mod until;
mod weather;

use bus::nats::{Nats, NatsConf};
use bus::sim::{Sim, Weather};
use bus::{
    Bus, BusError, Clock, Incoming, MESSAGE_BYTES_MAX, Next, Sender, Subscription, Until, World,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tests::Nats as Server;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Longer than anything here may take.
const LONG: Duration = Duration::from_secs(10);

/// Two ends of one world.
struct Ends {
    a: Arc<dyn World>,
    b: Arc<dyn World>,
}

impl Ends {
    fn a(&self) -> Bus {
        Bus::new(Arc::clone(&self.a), Sender::new("jm", "a"), Clock::system())
    }

    fn b(&self) -> Bus {
        Bus::new(Arc::clone(&self.b), Sender::new("im", "b"), Clock::system())
    }
}

/// Runs each check in each world.
macro_rules! conformance {
    ($($check:ident),* $(,)?) => {
        mod local_world {
            $(#[tokio::test(start_paused = true)]
            async fn $check() {
                let world = bus::local::Local::new();
                super::$check(super::Ends { a: std::sync::Arc::clone(&world), b: world }).await;
            })*
        }
        mod simulated_world {
            $(#[tokio::test(start_paused = true)]
            async fn $check() {
                let sim = super::Sim::new(7, super::Weather::CALM);
                super::$check(super::Ends { a: sim.node("a"), b: sim.node("b") }).await;
            })*
        }
        mod nats_world {
            $(#[tokio::test]
            async fn $check() {
                let Some(server) = super::Server::start(&[]) else { return };
                super::$check(super::two_over_nats(&server).await).await;
            })*
        }
    };
}

conformance!(
    everybody_gets_everything_in_order,
    one_of_a_group_gets_it,
    wildcards_match,
    a_subscription_is_in_force_when_it_is_there,
    a_question_gets_its_answer,
    a_question_without_an_answer_times_out,
    many_answers_until_the_count,
    many_answers_until_the_deadline,
    nobody_there_is_told_at_once,
    a_slow_reader_is_told_what_it_missed,
    a_dropped_subscription_is_gone,
    a_reader_that_changes_its_mind_loses_nothing,
    large_messages_are_refused,
    bad_subjects_are_refused,
    rubbish_is_dropped_and_counted,
);

async fn two_over_nats(server: &Server) -> Ends {
    let conf = |name: &str| NatsConf {
        urls: vec![server.url()],
        name: name.to_owned(),
        ..NatsConf::default()
    };
    Ends {
        a: Nats::connect(&conf("a")).await.unwrap(),
        b: Nats::connect(&conf("b")).await.unwrap(),
    }
}

async fn read<T: serde::de::DeserializeOwned>(from: &mut Subscription) -> T {
    match timeout(LONG, from.next()).await.expect("nothing came").expect("closed") {
        Next::Message(delivery) => delivery.decode().unwrap(),
        Next::Lost(count) => panic!("lost {count}"),
    }
}

/// Answers every question with what `answer` makes of it.
fn answering(mut questions: Subscription, answer: impl Fn(u32) -> u32 + Send + Sync + 'static) {
    tokio::spawn(async move {
        while let Some(next) = questions.next().await {
            if let Next::Message(question) = next {
                let asked: u32 = question.decode().unwrap();
                question.reply(&answer(asked)).await.unwrap();
            }
        }
    });
}

async fn everybody_gets_everything_in_order(ends: Ends) {
    let (a, b) = (ends.a(), ends.b());
    let mut near = a.subscribe("t.all", None).await.unwrap();
    let mut far = b.subscribe("t.all", None).await.unwrap();
    for number in 0..500_u32 {
        a.publish("t.all", &number).await.unwrap();
    }
    for number in 0..500_u32 {
        assert_eq!(read::<u32>(&mut near).await, number);
        assert_eq!(read::<u32>(&mut far).await, number);
    }
    b.publish("t.all", &1_u32).await.unwrap();
    let Ok(Some(Next::Message(delivery))) = timeout(LONG, near.next()).await else {
        panic!("nothing came")
    };
    assert_eq!((delivery.subject.as_str(), &delivery.envelope.from), ("t.all", b.sender()));
    assert!(!delivery.wants_reply());
    delivery.reply(&1_u32).await.unwrap();
}

async fn one_of_a_group_gets_it(ends: Ends) {
    const MESSAGES: usize = 600;
    let (a, b) = (ends.a(), ends.b());
    let (got, mut all) = tokio::sync::mpsc::channel(2 * MESSAGES);
    // One name is one group, also where members ask for it by another pattern.
    let members = [(&a, "t.work"), (&b, "t.work"), (&b, "t.*"), (&a, "t.>")];
    for (member, (bus, pattern)) in members.into_iter().enumerate() {
        let mut subscription = bus.subscribe(pattern, Some("workers")).await.unwrap();
        let got = got.clone();
        tokio::spawn(async move {
            loop {
                let number: usize = read(&mut subscription).await;
                got.send((member, number)).await.unwrap();
            }
        });
    }
    let mut watcher = b.subscribe("t.work", None).await.unwrap();
    for number in 0..MESSAGES {
        a.publish("t.work", &number).await.unwrap();
    }
    let (mut seen, mut shares) = (vec![0; MESSAGES], BTreeMap::new());
    for number in 0..MESSAGES {
        assert_eq!(read::<usize>(&mut watcher).await, number);
        let (member, number) = timeout(LONG, all.recv()).await.unwrap().unwrap();
        seen[number] += 1;
        *shares.entry(member).or_insert(0) += 1;
    }
    assert!(seen.iter().all(|times| *times == 1), "{seen:?}");
    assert!(shares.len() == 4 && shares.values().all(|share| *share > MESSAGES / 20), "{shares:?}");
    assert!(all.try_recv().is_err());
}

async fn wildcards_match(ends: Ends) {
    let (a, b) = (ends.a(), ends.b());
    let patterns = ["w.x.y", "w.*.y", "w.x.*", "w.>", "w.x.>", "*.x.y", "w.*", "w.x.y.>", "v.>"];
    let subjects = ["w.x.y", "w.z.y", "w.x", "w.x.y.z", "v.x.y", "end"];
    let mut found = Vec::new();
    for pattern in patterns {
        let mut subscription = b.subscribe(pattern, None).await.unwrap();
        // Everything before the mark on the same pattern's own subject has come when the mark has.
        for (number, subject) in subjects.iter().enumerate() {
            a.publish(subject, &number).await.unwrap();
        }
        let mark = pattern.replace(['*', '>'], "m");
        a.publish(&mark, &99_usize).await.unwrap();
        let mut matched = Vec::new();
        loop {
            match read(&mut subscription).await {
                99 => break,
                number => matched.push(subjects[number]),
            }
        }
        found.push(format!("{pattern}: {}", matched.join(" ")));
    }
    assert_eq!(
        found,
        [
            "w.x.y: w.x.y",
            "w.*.y: w.x.y w.z.y",
            "w.x.*: w.x.y",
            "w.>: w.x.y w.z.y w.x w.x.y.z",
            "w.x.>: w.x.y w.x.y.z",
            "*.x.y: w.x.y v.x.y",
            "w.*: w.x",
            "w.x.y.>: w.x.y.z",
            "v.>: v.x.y",
        ]
    );
}

async fn a_subscription_is_in_force_when_it_is_there(ends: Ends) {
    let (a, b) = (ends.a(), ends.b());
    for round in 0..100_u32 {
        let mut subscription = b.subscribe(&format!("t.force.{round}"), None).await.unwrap();
        a.publish(&format!("t.force.{round}"), &round).await.unwrap();
        assert_eq!(read::<u32>(&mut subscription).await, round);
    }
}

async fn a_question_gets_its_answer(ends: Ends) {
    let (a, b) = (ends.a(), ends.b());
    answering(b.subscribe("t.double", Some("g")).await.unwrap(), |asked| asked * 2);
    let asked = (0..100_u32).map(|number| {
        let a = a.clone();
        async move { a.request::<_, u32>("t.double", &number, LONG).await.unwrap() }
    });
    let answers = futures_util::future::join_all(asked).await;
    assert_eq!(answers, (0..100).map(|number| number * 2).collect::<Vec<u32>>());
}

async fn a_question_without_an_answer_times_out(ends: Ends) {
    let (a, b) = (ends.a(), ends.b());
    let mut deaf = b.subscribe("t.deaf", None).await.unwrap();
    let short = Duration::from_millis(50);
    let refused = a.request::<_, u32>("t.deaf", &1_u32, short).await;
    assert!(matches!(refused, Err(BusError::TimedOut { after, .. }) if after == short));
    // The answer that is too late reaches nobody, and disturbs nobody.
    let Ok(Some(Next::Message(question))) = timeout(LONG, deaf.next()).await else {
        panic!("no question")
    };
    assert!(question.wants_reply());
    question.reply(&1_u32).await.unwrap();
    answering(deaf, |asked| asked + 1);
    assert_eq!(a.request::<_, u32>("t.deaf", &5_u32, LONG).await.unwrap(), 6);
}

async fn many_answers_until_the_count(ends: Ends) {
    let (a, b) = (ends.a(), ends.b());
    for member in 0..5_u32 {
        let bus = if member % 2 == 0 { &a } else { &b };
        let questions = bus.subscribe("t.bid", None).await.unwrap();
        answering(questions, move |asked| asked + member);
    }
    let began = Instant::now();
    let until = Until { count: 3, deadline: LONG };
    let mut three: Vec<u32> = a.gather("t.bid", &10_u32, until).await.unwrap();
    assert!(began.elapsed() < LONG, "waited for the deadline");
    three.sort_unstable();
    three.dedup();
    assert!(three.len() == 3 && three.iter().all(|answer| (10..15).contains(answer)), "{three:?}");
    let all: Vec<u32> =
        a.gather("t.bid", &20_u32, Until { count: 5, deadline: LONG }).await.unwrap();
    assert_eq!(all.iter().sum::<u32>(), 110);
}

async fn many_answers_until_the_deadline(ends: Ends) {
    let (a, b) = (ends.a(), ends.b());
    for member in 0..3_u32 {
        answering(b.subscribe("t.few", None).await.unwrap(), move |asked| asked + member);
    }
    let deadline = Duration::from_millis(300);
    let began = Instant::now();
    let all: Vec<u32> = a.gather("t.few", &0_u32, Until { count: 100, deadline }).await.unwrap();
    assert_eq!(all.iter().sum::<u32>(), 3);
    assert_eq!(all.len(), 3);
    assert!(began.elapsed() >= deadline);
    // The end may be moved, for instance when the first answer is there.
    let began = Instant::now();
    let until = Until { count: 100, deadline: LONG };
    let mut replies = a.request_many("t.few", &0_u32, until).await.unwrap();
    assert!(replies.next().await.is_some());
    replies.end_at(Instant::now() + Duration::from_millis(100));
    while replies.next().await.is_some() {}
    assert!(began.elapsed() < LONG && !replies.nobody());
}

async fn nobody_there_is_told_at_once(ends: Ends) {
    let (a, b) = (ends.a(), ends.b());
    let _elsewhere = b.subscribe("t.elsewhere", None).await.unwrap();
    let began = Instant::now();
    let refused = a.request::<_, u32>("t.empty", &1_u32, LONG).await;
    assert!(matches!(refused, Err(BusError::NoResponders { subject }) if subject == "t.empty"));
    let until = Until { count: 3, deadline: LONG };
    let mut replies = a.request_many("t.empty", &1_u32, until).await.unwrap();
    assert!(replies.next().await.is_none() && replies.nobody());
    assert!(replies.next().await.is_none());
    assert!(began.elapsed() < LONG / 2);
}

async fn a_slow_reader_is_told_what_it_missed(ends: Ends) {
    const MESSAGES: u64 = 200;
    let mut slow = ends.b.subscribe("t.flood", None, 8).await.unwrap();
    let mut fast = ends.b.subscribe("t.flood", None, 1_000).await.unwrap();
    for _ in 0..MESSAGES {
        ends.a.publish("t.flood", Bytes::from_static(b"x"), None).await.unwrap();
    }
    for _ in 0..MESSAGES {
        let came = timeout(LONG, fast.next()).await.unwrap().unwrap();
        assert!(matches!(came, Incoming::Message(_)), "{came:?}");
    }
    let (mut got, mut lost, mut told) = (0, 0, 0);
    while got + lost < MESSAGES {
        match timeout(LONG, slow.next()).await.expect("silently short").unwrap() {
            Incoming::Message(_) => got += 1,
            Incoming::Lost(count) => (lost, told) = (lost + count, told + 1),
            Incoming::NoResponders => panic!("no question was asked"),
        }
    }
    assert!(lost > 0 && got >= 8 && told <= got, "{got} {lost} {told}");
    // Afterwards it is like any other.
    ends.a.publish("t.flood", Bytes::from_static(b"y"), None).await.unwrap();
    let Some(Incoming::Message(last)) = timeout(LONG, slow.next()).await.unwrap() else {
        panic!("nothing more")
    };
    assert_eq!(last.payload, "y");
}

async fn a_dropped_subscription_is_gone(ends: Ends) {
    let (a, b) = (ends.a(), ends.b());
    let subscription = b.subscribe("t.gone", None).await.unwrap();
    let short = Duration::from_millis(200);
    let alone = a.request::<_, u32>("t.gone", &1_u32, short).await;
    assert!(matches!(alone, Err(BusError::TimedOut { .. })), "{alone:?}");
    drop(subscription);
    let began = Instant::now();
    while !matches!(
        a.request::<_, u32>("t.gone", &1_u32, short).await,
        Err(BusError::NoResponders { .. })
    ) {
        assert!(began.elapsed() < LONG, "still there");
    }
}

async fn a_reader_that_changes_its_mind_loses_nothing(ends: Ends) {
    let (a, b) = (ends.a(), ends.b());
    let mut subscription = b.subscribe("t.mind", None).await.unwrap();
    let (ask, mut asked) = mpsc::channel::<u32>(1);
    let (tell, mut sent) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let mut number = 0_u32;
        while let Some(count) = asked.recv().await {
            for _ in 0..count {
                a.publish("t.mind", &number).await.unwrap();
                number += 1;
            }
            tell.send(()).await.unwrap();
        }
    });
    let mut expected = 0_u32;
    for round in 0..200 {
        // It waits while nothing is there, and stops.
        assert!(subscription.next().now_or_never().is_none(), "{expected}");
        let until = expected + 1 + round % 4;
        ask.send(until - expected).await.unwrap();
        // It waits while messages come, and stops at the moment when the last is on its way.
        let mut stopped = false;
        while expected < until {
            let next = tokio::select! {
                Some(()) = sent.recv(), if !stopped => {
                    stopped = true;
                    continue;
                }
                next = timeout(LONG, subscription.next()) => next,
            };
            let Ok(Some(Next::Message(delivery))) = next else { panic!("{expected}: {next:?}") };
            assert_eq!(delivery.decode::<u32>().unwrap(), expected);
            expected += 1;
        }
        if !stopped {
            sent.recv().await.unwrap();
        }
    }
}

async fn large_messages_are_refused(ends: Ends) {
    let mut subscription = ends.b.subscribe("t.large", None, 4).await.unwrap();
    let large = Bytes::from(vec![b'x'; MESSAGE_BYTES_MAX]);
    ends.a.publish("t.large", large.clone(), None).await.unwrap();
    let Some(Incoming::Message(came)) = timeout(LONG, subscription.next()).await.unwrap() else {
        panic!("nothing came")
    };
    assert!(came.payload == large);
    let larger = Bytes::from(vec![b'x'; MESSAGE_BYTES_MAX + 1]);
    let refused = ends.a.publish("t.large", larger.clone(), None).await;
    assert!(matches!(refused, Err(BusError::TooLarge { .. })), "{refused:?}");
    let refused = ends.a.request("t.large", larger, 1).await.err();
    assert!(matches!(refused, Some(BusError::TooLarge { .. })), "{refused:?}");
    let body = "x".repeat(MESSAGE_BYTES_MAX);
    let refused = ends.a().publish("t.large", &body).await;
    assert!(matches!(refused, Err(BusError::TooLarge { .. })), "{refused:?}");
}

async fn bad_subjects_are_refused(ends: Ends) {
    let a = ends.a();
    for subject in ["", "a..b", "a b", "a.*", "a.>", ".a", "a\nPUB b 0"] {
        let refused = a.publish(subject, &1_u32).await;
        assert!(matches!(refused, Err(BusError::Subject(_))), "{subject:?} {refused:?}");
        let refused = a.request::<_, u32>(subject, &1_u32, LONG).await;
        assert!(matches!(refused, Err(BusError::Subject(_))), "{subject:?} {refused:?}");
    }
    for pattern in ["", "a.>.b", "a b", "a..b", ">.a"] {
        let refused = a.subscribe(pattern, None).await.err();
        assert!(matches!(refused, Some(BusError::Subject(_))), "{pattern:?} {refused:?}");
    }
    assert!(matches!(a.subscribe("a", Some("g h")).await.err(), Some(BusError::Subject(_))));
}

async fn rubbish_is_dropped_and_counted(ends: Ends) {
    let (a, b) = (ends.a(), ends.b());
    let mut subscription = b.subscribe("t.rubbish", None).await.unwrap();
    for rubbish in ["", "{", "null", "\u{0}", r#"{"id":1}"#] {
        ends.a.publish("t.rubbish", Bytes::from(rubbish), None).await.unwrap();
    }
    a.publish("t.rubbish", &7_u32).await.unwrap();
    assert_eq!(read::<u32>(&mut subscription).await, 7);
    assert_eq!((b.unreadable(), a.unreadable()), (5, 0));
    // An answer that is rubbish is an error to whoever asked, not a hang.
    tokio::spawn({
        let world = Arc::clone(&ends.b);
        let mut questions = world.subscribe("t.fool", None, 4).await.unwrap();
        async move {
            while let Some(Incoming::Message(question)) = questions.next().await {
                let reply = question.reply.unwrap();
                world.publish(&reply, Bytes::from_static(b"?"), None).await.unwrap();
            }
        }
    });
    let answer = a.request::<_, u32>("t.fool", &1_u32, LONG).await;
    assert!(matches!(answer, Err(BusError::Decode { .. })), "{answer:?}");
    let until = Until { count: 1, deadline: LONG };
    assert!(a.gather::<_, u32>("t.fool", &1_u32, until).await.unwrap().is_empty());
    assert_eq!(a.unreadable(), 2);
}
