//! A blind byte relay over the trait: what the engine itself costs, and a first program for its reader.
//!
//! `relay epoll|io_uring LISTEN ORIGIN [splice]` connects every client to ORIGIN and passes bytes both ways.
//! Deliberately absent: time-outs, back-pressure, and everything else that makes a router.
#![allow(clippy::unwrap_used, reason = "an example: the first failure ends it")]

use std::net::SocketAddr;

use engine::epoll::EpollEngine;
use engine::uring::UringEngine;
use engine::{ConnId, Engine, EngineOptions, Event, ListenOptions};

/// The other side of each connection, by slot.
#[derive(Default)]
struct Pairs {
    others: Vec<Option<(ConnId, bool)>>,
}

impl Pairs {
    fn set(&mut self, conn: ConnId, other: Option<(ConnId, bool)>) {
        let slot = conn.slot as usize;
        if self.others.len() <= slot {
            self.others.resize(slot + 1, None);
        }
        self.others[slot] = other;
    }

    fn get(&self, conn: ConnId) -> Option<(ConnId, bool)> {
        *self.others.get(conn.slot as usize)?
    }
}

fn serve<E: Engine>(mut engine: E, listen: SocketAddr, origin: SocketAddr, splice: bool) {
    let (_, bound) = engine.listen(listen, &ListenOptions::default()).unwrap();
    println!("{} on {bound}", engine.name());
    let mut pairs = Pairs::default();
    loop {
        engine.poll(None).unwrap();
        while let Some(event) = engine.next() {
            match event {
                Event::Accepted { conn, .. } => {
                    let other = engine.connect(origin).unwrap();
                    pairs.set(conn, Some((other, false)));
                    pairs.set(other, Some((conn, false)));
                    if splice {
                        engine.pause(conn);
                        engine.pause(other);
                    }
                }
                Event::Paused { conn } => {
                    if let Some((other, _)) = pairs.get(conn) {
                        engine.splice(conn, other, None);
                    }
                }
                Event::Data { conn, chunk } => {
                    if let Some((other, _)) = pairs.get(conn) {
                        engine.send(other, chunk);
                    }
                }
                Event::Eof { conn } | Event::Spliced { from: conn, .. } => {
                    half_ended(&mut engine, &mut pairs, conn);
                }
                Event::Broken { conn, .. } | Event::ConnectFailed { conn, .. } => {
                    if let Some((other, _)) = pairs.get(conn) {
                        engine.abort(other);
                        pairs.set(other, None);
                    }
                    engine.abort(conn);
                    pairs.set(conn, None);
                }
                Event::Connected { .. }
                | Event::Sent { .. }
                | Event::SpliceProgress { .. }
                | Event::Woken => {}
            }
        }
    }
}

/// FIN goes through; after the second one both are closed.
fn half_ended<E: Engine>(engine: &mut E, pairs: &mut Pairs, conn: ConnId) {
    let Some((other, other_ended)) = pairs.get(conn) else { return };
    if other_ended {
        for ended in [conn, other] {
            engine.close(ended);
            pairs.set(ended, None);
        }
    } else {
        engine.shutdown_write(other);
        pairs.set(other, Some((conn, true)));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, engine, listen, origin, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: relay epoll|io_uring LISTEN ORIGIN [splice]");
        std::process::exit(2);
    };
    let (listen, origin) = (listen.parse().unwrap(), origin.parse().unwrap());
    let (options, splice) = (EngineOptions::default(), rest.first().is_some_and(|r| r == "splice"));
    if engine == "epoll" {
        serve(EpollEngine::new(&options).unwrap(), listen, origin, splice);
    } else {
        serve(UringEngine::new(&options).unwrap(), listen, origin, splice);
    }
}
