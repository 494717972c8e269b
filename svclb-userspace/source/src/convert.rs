//! Kubernetes' objects to the few facts that load balancing needs: the one copy of these
//! rules, for both sources.
//!
//! A value that can't be used is left out and reported as a [`Problem`]; the rest of its
//! object is kept.

mod address;
mod endpoints;
mod names;
mod node;
mod service;
mod slice;
#[cfg(test)]
mod tests;

use std::fmt;
use svclb_common::Proto;

use crate::objects::Labels;
use address::{address, range};
pub use endpoints::endpoints;
pub use names::Names;
pub use node::node;
pub use service::service;
pub use slice::endpoint_slice;

/// Something in an object that can't be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The path of the field, as `spec.ports[0].port`.
    pub field: String,
    /// What is wrong, and what was done about it.
    pub reason: String,
}

impl Problem {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// Whether a label gives the Service to another proxy, or to none. Any value counts.
///
/// kube-proxy has the API server leave out the same ones, with [`SELECTOR`].
pub const fn not_ours(labels: &Labels) -> bool {
    labels.service_proxy_name.is_some() || labels.headless.is_some()
}

/// The label selector for what is ours, of Services and EndpointSlices alike.
pub const SELECTOR: &str =
    "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// A port number that can be used.
fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// `protocol`, which is TCP by default.
fn protocol(name: Option<&str>) -> Option<Proto> {
    match name {
        None | Some("" | "TCP") => Some(Proto::TCP),
        Some("UDP") => Some(Proto::UDP),
        Some("SCTP") => Some(Proto::SCTP),
        Some(_) => None,
    }
}
