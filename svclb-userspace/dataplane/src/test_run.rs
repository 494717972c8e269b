//! Packet programs on frames that never were on a wire.

use std::os::fd::AsFd;
use std::{fs, io, process};

use aya::programs::{Program, ProgramError, TestRun as _, TestRunOptions, TestRunResult, Xdp};
use aya_obj::programs::XdpAttachType;

use crate::mounts::find_bpffs;
use crate::sys;

/// What a packet program did with a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestRun {
    /// What it returned: an `XDP_…` or a `TC_ACT_…` (include/uapi/linux/bpf.h, pkt_cls.h).
    pub verdict: i32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// How long a run took, in nanoseconds.
    pub nanoseconds: u32,
}

/// Runs a packet program on a frame.
pub(crate) fn run(program: &Program, frame: &[u8], repeat: u32) -> io::Result<TestRun> {
    with_room(frame, repeat, |options| match program {
        Program::SchedClassifier(program) => program.test_run(options),
        Program::Xdp(program) => program.test_run(options),
        _ => Err(ProgramError::NotLoaded),
    })
}

/// Room for the frame, and for what a program may put before it.
fn with_room(
    frame: &[u8],
    repeat: u32,
    run: impl FnOnce(TestRunOptions<'_>) -> Result<TestRunResult, ProgramError>,
) -> io::Result<TestRun> {
    let mut left = vec![0; frame.len() + 256];
    let result = run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut left),
        repeat,
        ..TestRunOptions::new()
    })
    .map_err(io_error)?;
    left.truncate(result.data_size_out as usize);
    Ok(TestRun {
        verdict: result.return_value.cast_signed(),
        frame: left,
        nanoseconds: u32::try_from(result.duration.as_nanos()).unwrap_or(u32::MAX),
    })
}

fn io_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

/// An XDP program that passes every frame: a benchmark subtracts its time from that of others.
#[derive(Debug)]
pub struct Passing(Xdp);

impl Passing {
    /// Loads it. Needs a bpffs: aya takes a program that it did not load from a pin alone.
    ///
    /// # Errors
    /// The system's error.
    pub fn load() -> io::Result<Self> {
        let program = sys::load_passing()?;
        let bpffs = find_bpffs().map_err(io::Error::other)?;
        let path = bpffs.join(format!("svclb-passing-{}", process::id()));
        sys::pin(program.as_fd(), &path)?;
        let adopted = Xdp::from_pin(&path, XdpAttachType::Interface).map_err(io_error);
        fs::remove_file(&path)?;
        adopted.map(Self)
    }

    /// Runs it on a frame.
    ///
    /// # Errors
    /// The system's error.
    pub fn test_run(&self, frame: &[u8]) -> io::Result<TestRun> {
        with_room(frame, 1, |options| self.0.test_run(options))
    }
}
