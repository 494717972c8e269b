//! Packets as bytes: reading their headers, and writing other addresses, checksums and rejects
//! into them. No map and no helper of the kernel is used here, so the same code runs in the eBPF
//! programs and, over a plain buffer, in tests on the host.
//!
//! | module | what is there | depends on |
//! |---|---|---|
//! | [`headers`] | the layouts of headers | |
//! | [`checksum`] | the Internet checksum | |
//! | [`frame`] | the trait by which bytes are reached | |
//! | [`buffer`] | that trait over a buffer on the host | `frame`, `checksum` |
//! | [`parse`] | from bytes to addresses, ports and protocol | `headers`, `frame` |
//! | [`rewrite`] | other addresses, ports and hop limits | `parse`, `checksum` |
//! | [`reject`] | resets and ICMP errors in the place of a packet | `rewrite` |
//!
//! Everything is `inline(always)`: the kernel's verifier follows a packet pointer only within one
//! function.
#![no_std]
#![forbid(unsafe_code)]

pub mod buffer;
pub mod checksum;
pub mod frame;
pub mod headers;
pub mod parse;
pub mod reject;
pub mod rewrite;
