//! The contract between svclb's two halves.
//!
//! The eBPF programs and the agent meet in maps and nowhere else. This crate holds the
//! layout of every one of them, their names and default sizes, and the few pure functions
//! that both sides must agree on. It knows neither aya nor Kubernetes, allocates nothing,
//! and builds for the host and for `bpfel-unknown-none` alike.
//!
//! # Rules for a layout
//! * `#[repr(C)]`, no padding: the zerocopy derives refuse to compile a padded type. (A
//!   padded key is accepted by the verifier and then silently misses.)
//! * Plain integers only. An enum, `bool` or `Option` would make some bit patterns
//!   undefined, and the kernel may hand us any.
//! * Byte order is a type: [`Addr16`] and [`PortBe`] are network order, everything else
//!   is host order.
//! * Changing a layout means a new [`ABI_VERSION`]; the assertions beside each layout notice.
#![no_std]
#![forbid(unsafe_code)]

mod addr;
mod confirm;
pub mod contract;
mod counter;
mod flow;
mod frontend;
pub mod maps;
mod meta;
mod pick;
mod service;
mod socket;
mod source;

pub use addr::{Addr16, PortBe, Proto};
pub use confirm::{Reading, read_confirmed};
pub use counter::Counter;
pub use flow::{
    DeviceFlags, DeviceValue, FlowFlags, FlowKey, FlowState, FlowValue, FragmentKey, FragmentValue,
    Hook, LinkAddr, Tuple,
};
pub use frontend::{
    BackendId, BackendValue, FrontendFlags, FrontendKey, FrontendValue, Generation, Locality,
    Scope, ServiceId, SlotIndex, SlotKey, SlotRange, SlotValue,
};
pub use meta::{ABI_VERSION, MAGIC, Meta};
pub use pick::{pick, spread};
pub use service::{Label, LabelTooLong, ServiceFamily, ServiceRecord};
pub use socket::{
    AffinityKey, AffinityValue, ClientKind, OVERFLOW_LEN, OverflowKey, OverflowValue, PeerSlot,
    RING_LEN, Translation, TranslationRing,
};
pub use source::{Source, SourceKey, SourceRange};
