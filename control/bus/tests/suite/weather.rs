//! What only the simulated world can do: bad weather, the same twice.
//!
//! Deliberately absent: services; they are simulated where they live.

use crate::{LONG, read};
use bus::sim::{Sim, Weather};
use bus::{Bus, BusError, Clock, Incoming, Next, Sender, Until, World};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const ROUGH: Weather = Weather { delay_max: Duration::from_millis(50), ..Weather::CALM };

fn speaker(sim: &Sim, name: &str) -> Bus {
    Bus::new(sim.node(name), Sender::new("jm", name), Clock::starting_at(1_000))
}

/// Five nodes that ask, answer and talk in a storm; what they saw, and the network's own hash.
async fn life(seed: u64) -> (String, u64) {
    let sim = Sim::new(seed, Weather::STORM);
    let mut lives = Vec::new();
    for name in 0..5_u32 {
        let bus = speaker(&sim, &name.to_string());
        let mut talk = bus.subscribe("t.talk", None).await.unwrap();
        let questions = bus.subscribe("t.ask", Some("g")).await.unwrap();
        crate::answering(questions, move |asked| asked * 10 + name);
        lives.push(async move {
            let mut seen = format!("{name}:");
            for round in 0..20_u32 {
                bus.publish("t.talk", &(name * 100 + round)).await.unwrap();
                let until = Until { count: 2, deadline: Duration::from_millis(60) };
                let answers: Vec<u32> = bus.gather("t.ask", &round, until).await.unwrap();
                seen += &format!(" {answers:?}");
                while let Ok(Some(Next::Message(said))) =
                    timeout(Duration::from_millis(7), talk.next()).await
                {
                    seen += &format!(" {}/{}", said.decode::<u32>().unwrap(), said.envelope.ts);
                }
            }
            seen
        });
    }
    (futures_util::future::join_all(lives).await.join("\n"), sim.transcript())
}

fn whole_life(seed: u64) -> (String, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(life(seed))
}

/// Goal: one seed is one life, to the byte; another seed is another.
#[test]
fn the_same_seed_is_the_same_life() {
    let first = whole_life(17);
    assert_eq!(first, whole_life(17));
    let other = whole_life(18);
    assert_ne!(first.0, other.0);
    assert_ne!(first.1, other.1);
}

/// Goal: each kind of weather happens, and about as often as it was ordered.
#[tokio::test(start_paused = true)]
async fn the_weather_is_as_ordered() {
    const SENT: usize = 4_000;
    let weather = Weather { loss: 0.2, duplication: 0.1, reorder: 0.3, ..ROUGH };
    let sim = Sim::new(3, weather);
    let (a, b) = (sim.node("a"), sim.node("b"));
    let mut subscription = b.subscribe("t.x", None, 2 * SENT).await.unwrap();
    for number in 0..SENT {
        a.publish("t.x", Bytes::from(number.to_string()), None).await.unwrap();
    }
    let mut came: Vec<usize> = Vec::new();
    while let Ok(Some(incoming)) = timeout(LONG, subscription.next()).await {
        let Incoming::Message(message) = incoming else { panic!("{incoming:?}") };
        came.push(std::str::from_utf8(&message.payload).unwrap().parse().unwrap());
    }
    let overtaken = came.windows(2).filter(|pair| pair[0] > pair[1]).count();
    let total = came.len();
    came.sort_unstable();
    came.dedup();
    let (lost, doubled) = (SENT - came.len(), total - came.len());
    assert!((SENT / 6..SENT / 4).contains(&lost), "{lost} lost");
    assert!((SENT / 20..SENT / 9).contains(&doubled), "{doubled} doubled");
    assert!(overtaken > SENT / 20, "{overtaken} overtaken");
}

/// Goal: without reordering one node's messages keep their order, whatever their delays.
#[tokio::test(start_paused = true)]
async fn a_rough_network_keeps_the_order_of_one_sender() {
    let sim = Sim::new(4, ROUGH);
    let (a, b) = (speaker(&sim, "a"), speaker(&sim, "b"));
    let mut subscription = b.subscribe("t.x", None).await.unwrap();
    tokio::spawn(async move {
        for number in 0..500_u32 {
            a.publish("t.x", &number).await.unwrap();
            tokio::time::sleep(Duration::from_millis(u64::from(number % 3))).await;
        }
    });
    for number in 0..500_u32 {
        assert_eq!(read::<u32>(&mut subscription).await, number);
    }
}

async fn hears(from: &Bus, to: &Bus) -> bool {
    let mut subscription = to.subscribe("t.hear", None).await.unwrap();
    from.publish("t.hear", &1_u32).await.unwrap();
    matches!(timeout(LONG, subscription.next()).await, Ok(Some(Next::Message(_))))
}

/// Goal: a partition cuts one pair in both directions, silently, until it is healed.
#[tokio::test(start_paused = true)]
async fn a_partition_cuts_one_pair() {
    let sim = Sim::new(5, Weather::CALM);
    let (a, b, c) = (speaker(&sim, "a"), speaker(&sim, "b"), speaker(&sim, "c"));
    sim.partition("b", "a");
    assert!(!hears(&a, &b).await && !hears(&b, &a).await);
    assert!(hears(&a, &c).await && hears(&c, &b).await);
    // There is a listener, so this is no "nobody": it is silence.
    let _deaf = b.subscribe("t.ask", None).await.unwrap();
    let answer = a.request::<_, u32>("t.ask", &1_u32, LONG).await;
    assert!(matches!(answer, Err(BusError::TimedOut { .. })), "{answer:?}");
    sim.heal();
    assert!(hears(&a, &b).await && hears(&b, &a).await);
}

/// Goal: a node that is alone is told so when it asks, misses what is said, and is told that when it is back.
#[tokio::test(start_paused = true)]
async fn an_isolated_node_knows() {
    let sim = Sim::new(6, Weather::CALM);
    let (a, b) = (speaker(&sim, "a"), speaker(&sim, "b"));
    let mut there = b.subscribe("t.x", None).await.unwrap();
    let mut here = a.subscribe("t.x", None).await.unwrap();
    sim.isolate("b");
    a.publish("t.x", &1_u32).await.unwrap();
    assert_eq!(read::<u32>(&mut here).await, 1);
    assert!(matches!(b.publish("t.x", &1_u32).await, Err(BusError::Away(_))));
    assert!(matches!(b.subscribe("t.y", None).await.err(), Some(BusError::Away(_))));
    let asked = b.request::<_, u32>("t.y", &1_u32, LONG).await;
    assert!(matches!(asked, Err(BusError::Away(_))), "{asked:?}");
    assert!(timeout(LONG, there.next()).await.is_err());
    sim.heal();
    assert!(matches!(timeout(LONG, there.next()).await, Ok(Some(Next::Lost(0)))));
    a.publish("t.x", &2_u32).await.unwrap();
    assert_eq!(read::<u32>(&mut there).await, 2);
    // Who was not alone is told nothing.
    assert_eq!(read::<u32>(&mut here).await, 2);
}

/// Goal: when the storm is over, messages land again, and old ones do not hold up new ones for long.
#[tokio::test(start_paused = true)]
async fn a_storm_ends() {
    let sim = Sim::new(8, Weather { loss: 1.0, ..Weather::STORM });
    let (a, b) = (speaker(&sim, "a"), speaker(&sim, "b"));
    assert!(!hears(&a, &b).await);
    sim.set_weather(Weather::CALM);
    assert!(hears(&a, &b).await);
    let world: Arc<dyn World> = sim.node("c");
    assert_ne!(world.first_id(), sim.node("c").first_id());
}
