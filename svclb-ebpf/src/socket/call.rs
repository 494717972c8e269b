//! What a hook is called for: to connect, or to send.

use svclb_common::Counter;

/// What a hook is called for.
pub(crate) trait Call {
    /// Whether the address becomes the socket's peer.
    const CONNECTS: bool;
    /// What is counted.
    const COUNTER: Counter;
}

pub(crate) struct Connect;
pub(crate) struct Send;

impl Call for Connect {
    const CONNECTS: bool = true;
    const COUNTER: Counter = Counter::Connected;
}

impl Call for Send {
    const CONNECTS: bool = false;
    const COUNTER: Counter = Counter::Sent;
}
