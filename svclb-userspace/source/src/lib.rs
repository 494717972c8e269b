//! The sources of Services and endpoints: a folder of manifests, or the Kubernetes API.
//!
//! Both sources send the same: batches of [`Event`](svclb_core::model::Event)s, with one
//! `Synced` after everything that exists was sent. A source keeps a cache of what it has sent,
//! so that a second listing becomes the differences alone. An object that cannot be read any
//! more stays in it: a broken file or an API server that is away takes nothing from what is
//! served.
#![forbid(unsafe_code)]

mod cache;
pub mod convert;
mod error;
mod event_sender;
mod fingerprint;
mod kube;
mod manifests;
pub mod objects;
mod problems;
mod status;
#[cfg(feature = "testing")]
pub mod testing;

pub use self::kube::relist_guard::GuardTimeouts;
pub use self::kube::timeouts::ApiTimeouts;
pub use self::kube::{EventRecorder, KubeEvent, KubeOptions, event_recorder, kubernetes};
pub use error::SourceError;
pub use manifests::{FolderOptions, manifests};
pub use status::Status;

/// How many events a batch holds at most.
pub const BATCH: usize = 512;
