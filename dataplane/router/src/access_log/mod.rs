//! One JSON line for each exchange, written beside the cores.
//!
//! ```text
//!  core ── Record (fixed size, copied) ──▶ ring (one per core) ──▶ writer thread ──▶ file or stdout
//!                └─ full: dropped and counted, never waited for
//! ```
//!
//! A core that logs nothing pays one branch. Deliberately absent: formatting on a core, allocation on a core,
//! rotation (the file is opened again on SIGUSR1, after whoever rotates has moved it away).

mod line;
mod names;
mod record;
mod ring;
mod writer;

pub use line::{Names, write_line};
pub use names::TableNames;
pub use record::{Record, Text};
pub use ring::{LogReceiver, LogSender, RING_RECORDS, ring};
pub use writer::{LogWriter, Target};
