//! The pure half of the svclb agent. (Being written: see the modules.)
#![forbid(unsafe_code)]

pub mod apply;
pub mod model;
pub mod op;
