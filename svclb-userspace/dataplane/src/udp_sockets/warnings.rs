//! Failures in single namespaces, logged once each while they last.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::for_each_netns::Failures;
use super::namespace_id::NamespaceId;

/// Those that were warned about.
#[derive(Default, Debug)]
pub(super) struct Warnings(Mutex<BTreeSet<Option<NamespaceId>>>);

impl Warnings {
    /// Logs what failed in this scan and did not in the one before.
    pub(super) fn log(&self, failures: &Failures) {
        let mut warned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (namespace, error) in failures {
            match namespace {
                _ if warned.contains(namespace) => {}
                Some(id) => tracing::warn!(
                    "the UDP sockets of the network namespace {id} cannot be listed: {error}; those of a backend that is gone stay there"
                ),
                // Often only those of a sandbox around this one, which have no business with
                // its Services.
                None => tracing::info!(
                    "the network namespaces of some processes cannot be opened: {error}; UDP sockets in them are not destroyed (CAP_SYS_PTRACE is needed)"
                ),
            }
        }
        *warned = failures.iter().map(|(namespace, _)| *namespace).collect();
    }
}
