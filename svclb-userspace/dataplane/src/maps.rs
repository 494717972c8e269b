//! The maps, as the agent and the commands read and write them.

pub(crate) mod devices;
pub(crate) mod flows;
pub(crate) mod kernel_maps;
pub(crate) mod meta;
pub(crate) mod planned;
pub(crate) mod ports;
pub(crate) mod read;
