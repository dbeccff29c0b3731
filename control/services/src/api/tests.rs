//! The server over real HTTP, on the bus of one process and the store in memory, with small fakes behind the bus.

mod fixture;
mod jobs;
