//! The pure half of the svclb agent: from Kubernetes' objects to the map writes that get
//! there safely, and in which order.
//!
//! ```text
//! source ─► cluster ─► planner ─► diff ─► writer ─► maps
//! (events)  (index)    (rules:    (ops)   (order)   (the kernel's, or the fake)
//!                       plan, conflicts)
//! ```
//!
//! No I/O, no clock, no randomness: time comes in as an argument, and the maps behind the
//! trait [`apply::Maps`]. The crate depends on neither aya, kube nor tokio, and its
//! manifest is what keeps it so.
//!
//! Where things are:
//! * Kubernetes' rules: [`plan`];
//! * which Service holds an address that several want: `conflicts`; and a health check's port:
//!   `health_checks`;
//! * whether established flows may stay with their backend: [`serving`];
//! * the order of writes: [`op::Phase`], and nowhere else;
//! * which bits of `PORTS` are needed: [`ports`];
//! * what the maps hold now: [`image`];
//! * what must always hold in them: [`invariants`].
#![forbid(unsafe_code)]

pub mod apply;
mod backlog;
pub mod cluster;
mod conflicts;
pub mod conntrack;
pub mod diff;
pub mod error_chain;
pub mod event_limit;
mod failures;
#[cfg(feature = "testing")]
pub mod fake;
mod health_checks;
mod ids;
pub mod image;
pub mod invariants;
pub mod log_once;
pub mod model;
pub mod op;
pub mod plan;
pub mod planner;
pub mod ports;
pub mod serving;
pub mod writer;

pub use svclb_common as abi;
