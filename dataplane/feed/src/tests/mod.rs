//! The state under hand-made weather and in directed cases; the whole feed with real cores is in `tests/` beside `src/`.

mod cases;
mod live;
mod storm;
mod truth;
mod weather;
