//! Where the agent learns of Services: a folder of manifests, or the Kubernetes API.
//!
//! Both sources say the same: batches of [`Event`](svclb_core::model::Event)s, of which
//! `Synced` comes once, after everything that exists has been said. A source remembers
//! what it has said, so that a second listing becomes the differences alone, and what it
//! can no longer read stays said: a broken file or an API server that is away takes
//! nothing from what is served.
#![forbid(unsafe_code)]

pub mod convert;
mod error;
mod event_sender;
mod fingerprint;
mod kube_events;
mod kubernetes;
mod manifests;
mod problems;
mod relist_guard;
mod status;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::SourceError;
pub use kube_events::{EventRecorder, KubeEvent, event_recorder};
pub use kubernetes::{KubeOptions, kubernetes};
pub use manifests::{FolderOptions, manifests};
pub use relist_guard::GuardTimeouts;
pub use status::Status;

/// How many events a batch holds at most.
pub const BATCH: usize = 512;
