//! Attaching programs, by links that are pinned and so outlive the agent.

pub(crate) mod cgroup;
pub(crate) mod device;
pub(crate) mod links;
mod xdp_mode;
