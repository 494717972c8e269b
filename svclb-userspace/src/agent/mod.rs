//! The agent: `source → planner → writer`, and what goes on beside it.
//!
//! * `run`: the loop. One task waits for events, signals and work on other threads, and does
//!   everything else itself.
//! * `reconcile`: from events to writes, and the deletion of what these leave behind.
//! * `audit`: repairs what others changed.
//! * `context`: the node's addresses; `devices`: its devices and the programs at them.
//! * `conntrack`, `udp_socket_reaper`: flows and UDP sockets whose backend no longer serves.
//! * `kernel_flows`: what the kernel's conntrack translates already is left to it.
//! * `health`, `http`, `metrics`: what is reported, and where.

mod audit;
mod conntrack;
mod context;
mod devices;
mod health;
mod http;
mod kernel_flows;
mod metrics;
mod node_ports;
mod obstacles;
mod reconcile;
mod run;
mod udp_changes;
mod udp_socket_reaper;

pub(crate) use devices::{DeviceChoice, DeviceChoices, PodDevices};
pub(crate) use node_ports::NodePortAddresses;
pub(crate) use run::{Config, Listen, Source, Times, run};
pub(crate) use udp_socket_reaper::UdpSocketReaper;
