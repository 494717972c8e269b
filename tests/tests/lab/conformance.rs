//! Upstream's end-to-end tests, by their names: what Kubernetes' own suite asserts of a
//! service proxy, with labs in place of clusters.
//!
//! What follows from which of them is in `svclb_tests::conformance`, and for people in
//! docs/conformance.md. A test that another scenario already asserts is not repeated here.

mod affinity;
mod ask;
mod basics;
mod cluster;
mod document;
mod front;
mod labels;
mod load_balancers;
mod node_ports;
mod policies;
mod process;
mod slices;
mod type_changes;
mod udp;
