//! The server over real HTTP, on the bus of one process and the store in memory, with small fakes behind the bus.

mod errors;
mod fixture;
mod jobs;
mod lists;
mod logs;
mod once;
mod packages;
mod routing;
mod streams;
mod tasks;
