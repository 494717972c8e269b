//! Packet programs on frames that never were on a wire.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys;

/// What a packet program did with a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestRun {
    /// What it returned: an `XDP_…` or a `TC_ACT_…` (include/uapi/linux/bpf.h, pkt_cls.h).
    pub verdict: i32,
    /// The frame as it left it.
    pub frame: Vec<u8>,
    /// How long a run took, in nanoseconds.
    pub nanoseconds: u32,
}

/// Runs a packet program on a frame.
pub(crate) fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<TestRun> {
    let mut left = vec![0; frame.len() + 256];
    let (verdict, length, nanoseconds) = sys::test_run(program, frame, &mut left, repeat)?;
    left.truncate(length);
    Ok(TestRun {
        verdict: verdict.cast_signed(),
        frame: left,
        nanoseconds,
    })
}

/// An XDP program that does nothing: what is measured of it, a benchmark takes off the others.
#[derive(Debug)]
pub struct Passing(OwnedFd);

impl Passing {
    /// Loads it.
    ///
    /// # Errors
    /// What the system said.
    pub fn load() -> io::Result<Self> {
        sys::load_passing().map(Self)
    }

    /// Runs it on a frame.
    ///
    /// # Errors
    /// What the system said.
    pub fn test_run(&self, frame: &[u8]) -> io::Result<TestRun> {
        run(self.0.as_fd(), frame, 1)
    }
}
