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
    /// The packet's mark as the program left it; zero after XDP.
    pub mark: u32,
}

/// Where a frame is, and what the kernel keeps beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TestFrame<'a> {
    /// The bytes, from the link header on.
    pub bytes: &'a [u8],
    /// The interface index of the device that it comes in, or goes out, by; zero is the loopback
    /// device. Any other is of the calling thread's network namespace (tc since Linux 5.9, XDP since
    /// 5.18).
    pub device: u32,
    /// The packet's mark; tc alone.
    pub mark: u32,
}

/// Runs a packet program on a frame.
pub(crate) fn run(program: &Program, frame: &TestFrame<'_>, repeat: u32) -> io::Result<TestRun> {
    match program {
        Program::SchedClassifier(program) => {
            let context_in = skb_context(frame);
            // More than any kernel has: less is an error.
            let mut context = [0; 1024];
            let run = with_room(frame.bytes, repeat, |options| {
                program.test_run(TestRunOptions {
                    ctx_in: Some(&context_in),
                    ctx_out: Some(&mut context),
                    ..options
                })
            })?;
            let mark = word(&context, SKB_MARK).map_or(0, u32::from_ne_bytes);
            Ok(TestRun { mark, ..run })
        }
        Program::Xdp(program) => {
            let context = xdp_context(frame);
            with_room(frame.bytes, repeat, |options| {
                program.test_run(TestRunOptions {
                    ctx_in: (frame.device > 0).then_some(&context),
                    ..options
                })
            })
        }
        _ => Err(io_error(ProgramError::NotLoaded)),
    }
}

/// Where members of `struct __sk_buff` are, in words (include/uapi/linux/bpf.h).
const SKB_MARK: usize = 2;
const SKB_IFINDEX: usize = 10;
const SKB_LENGTH: usize = 11 * 4;
/// The same of `struct xdp_md`.
const XDP_DATA_END: usize = 1;
const XDP_INGRESS_IFINDEX: usize = 3;
const XDP_LENGTH: usize = 6 * 4;

/// The beginning of a `struct __sk_buff`. The kernel takes the rest for zeros.
fn skb_context(frame: &TestFrame<'_>) -> [u8; SKB_LENGTH] {
    let mut context = [0; SKB_LENGTH];
    set_word(&mut context, SKB_MARK, frame.mark);
    set_word(&mut context, SKB_IFINDEX, frame.device);
    context
}

/// A `struct xdp_md`: `data_end` has to be the length of the frame.
fn xdp_context(frame: &TestFrame<'_>) -> [u8; XDP_LENGTH] {
    let mut context = [0; XDP_LENGTH];
    let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
    set_word(&mut context, XDP_DATA_END, length);
    set_word(&mut context, XDP_INGRESS_IFINDEX, frame.device);
    context
}

fn set_word(context: &mut [u8], index: usize, value: u32) {
    if let Some(word) = context.chunks_exact_mut(4).nth(index) {
        word.copy_from_slice(&value.to_ne_bytes());
    }
}

fn word(context: &[u8], index: usize) -> Option<[u8; 4]> {
    context.chunks_exact(4).nth(index)?.try_into().ok()
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
        mark: 0,
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
