//! `bpf(2)`: the commands that aya has no wrapper for.

#![expect(unsafe_code, reason = "the wrappers over bpf(2)")]

mod bytes;
mod call;
mod iter;
mod link;
mod map;
mod netns;
mod prog;
mod sockopt;

pub(crate) use bytes::{bytes, value};
pub(crate) use call::{open_pin, pin};
pub(crate) use iter::{link_iterator, load_iterator, start_iterator};
pub(crate) use link::{create_device_link, create_link, detach_link, link_cgroup, update_link};
pub(crate) use map::{BatchEnd, BatchRead, Map, WaitingMap, is_unsupported};
pub(crate) use netns::netns_cookie;
pub(crate) use prog::{accepts, load_passing};
pub(crate) use sockopt::getsockopt;
