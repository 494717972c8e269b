//! Properties that hold for any bytes whatever, each a function that panics where it does not.
//!
//! | property | the bytes are | what holds |
//! |---|---|---|
//! | [`manifests`] | versions of a manifest, a zero byte between them | what can be read is served as if nothing had been before |
//! | [`objects`] | watch events of the API, one JSON to a line | the same |
//! | [`plan`] | decisions about Services and endpoints | the same, through crashes |
//! | [`frames`] | a frame | XDP, tc and `etherparse` read the same in it |
//!
//! `cargo xtask fuzz` searches for bytes that break one, by libFuzzer, from those in `corpus/`;
//! `cargo test -p svclb-fuzz` replays these.

mod api;
mod cluster;
mod packet;
mod steps;

pub use api::{manifests, objects};
pub use packet::frames;
pub use steps::plan;
