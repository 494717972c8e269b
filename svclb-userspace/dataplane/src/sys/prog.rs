//! Programs of a few instructions.

use std::io;
use std::os::fd::OwnedFd;

use super::call::{address, bpf_fd};

const PROG_LOAD: libc::c_int = 5;

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// What kind of program is loaded.
#[derive(Default)]
pub(super) struct Kind {
    /// `enum bpf_prog_type`.
    pub(super) program: u32,
    /// `enum bpf_attach_type`; zero where the program type has none.
    pub(super) attach: u32,
    /// The kernel function that it is attached to, by its id in the kernel's BTF; zero without.
    pub(super) btf_id: u32,
}

/// Loads a program of these instructions.
pub(super) fn load(instructions: &[u64], kind: &Kind) -> io::Result<OwnedFd> {
    /// A signal interrupts the verifier (`bpf_check` returns EAGAIN).
    const ATTEMPTS: u32 = 10;
    let license = b"GPL\0";
    let mut attr = ProgLoad {
        prog_type: kind.program,
        expected_attach_type: kind.attach,
        attach_btf_id: kind.btf_id,
        insn_count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        insns: address(instructions),
        license: address(license.as_slice()),
        ..ProgLoad::default()
    };
    let mut attempts = 1;
    loop {
        // SAFETY: the instructions and the licence live through the call.
        match unsafe { bpf_fd(PROG_LOAD, &mut attr) } {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && attempts < ATTEMPTS => {
                attempts += 1;
            }
            loaded => return loaded,
        }
    }
}

/// Whether the kernel accepts a cgroup socket-address program of these instructions.
pub(crate) fn accepts(instructions: &[u64], attach_type: u32) -> io::Result<()> {
    const CGROUP_SOCK_ADDR: u32 = 18;
    let kind = Kind {
        program: CGROUP_SOCK_ADDR,
        attach: attach_type,
        ..Kind::default()
    };
    load(instructions, &kind).map(drop)
}

/// An XDP program that passes every frame.
pub(crate) fn load_passing() -> io::Result<OwnedFd> {
    const XDP: u32 = 6;
    /// `r0 = XDP_PASS; exit`
    const PASS: [u64; 2] = [0xb7 | 2 << 32, 0x95];
    let kind = Kind {
        program: XDP,
        ..Kind::default()
    };
    load(&PASS, &kind)
}
