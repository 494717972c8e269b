//! Every ring in `UDP_TRANSLATIONS`, by the cookie of its socket.
//!
//! Socket storage has no keys to walk by, and sock_diag(7), which shows the storages of TCP
//! sockets, leaves UDP sockets before it comes to them (`inet_sk_diag_fill` of
//! net/ipv4/inet_diag.c, from Linux 5.7 to this day). What shows them all is an iterator: a
//! program that the kernel runs for each, in all namespaces (Linux 5.9,
//! commit 5ce6e77c7edf).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use svclb_common::TranslationRing;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::btf::Btf;
use crate::sys;

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// What the program writes for each socket: 680 bytes.
#[repr(C)]
#[derive(FromBytes, Immutable, KnownLayout)]
pub(super) struct Record {
    /// Zero if it was never read: the kernel assigns it then.
    pub(super) cookie: u64,
    pub(super) ring: TranslationRing,
}

const RING_SIZE: i32 = size_of::<TranslationRing>() as i32;
const _: () = assert!(size_of::<Record>() == 8 + size_of::<TranslationRing>());

/// An iterator over `UDP_TRANSLATIONS`; it holds the program and the map.
#[derive(Debug)]
pub(super) struct UdpTranslations(OwnedFd);

impl UdpTranslations {
    pub(super) fn open(map: &OwnedFd) -> io::Result<Self> {
        let bytes = fs::read(KERNEL_BTF)?;
        let missing = || io::Error::other(format!("{KERNEL_BTF} lacks what is looked for"));
        let btf = Btf::read(&bytes).ok_or_else(missing)?;
        let target = btf
            .function("bpf_iter_bpf_sk_storage_map")
            .ok_or_else(missing)?;
        // `struct sock` begins with its `struct sock_common`.
        let cookie = btf
            .offset("sock_common", "skc_cookie")
            .and_then(|offset| i16::try_from(offset).ok())
            .ok_or_else(missing)?;
        let program = sys::load_iterator(&program(cookie), target)?;
        sys::link_iterator(program.as_fd(), map.as_fd()).map(Self)
    }

    /// Walks the map. A socket that comes or goes meanwhile may hide another one, or show it
    /// twice.
    pub(super) fn read(&self) -> io::Result<Vec<Record>> {
        let mut file = File::from(sys::start_iterator(self.0.as_fd())?);
        let mut bytes = Vec::new();
        loop {
            match file.read_to_end(&mut bytes) {
                Ok(_) => break,
                // The kernel interrupts a read after a million sockets (`MAX_ITER_OBJECTS`).
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        bytes
            .chunks(size_of::<Record>())
            .map(|record| {
                Record::read_from_bytes(record).map_err(|_length| {
                    io::Error::new(io::ErrorKind::InvalidData, "a record is cut")
                })
            })
            .collect()
    }
}

/// Writes the cookie and the ring of one socket. The context is `struct
/// bpf_iter__bpf_sk_storage_map` (net/core/bpf_sk_storage.c): pointers to the iterator's
/// state, which begins with a pointer to its file, to the map, to the socket and to the
/// value; the last two are null after the last socket.
const fn program(cookie: i16) -> [u64; 19] {
    const LOAD: u8 = 0x79;
    const STORE: u8 = 0x7b;
    const MOVE: u8 = 0xbf;
    const MOVE_CONSTANT: u8 = 0xb7;
    const ADD_CONSTANT: u8 = 0x07;
    const JUMP_IF_EQUAL: u8 = 0x15;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const SEQ_WRITE: i32 = 127;
    [
        instruction(LOAD, 6, 1, 16, 0),
        instruction(JUMP_IF_EQUAL, 6, 0, 15, 0),
        instruction(LOAD, 7, 1, 24, 0),
        instruction(JUMP_IF_EQUAL, 7, 0, 13, 0),
        instruction(LOAD, 8, 1, 0, 0),
        instruction(LOAD, 8, 8, 0, 0),
        instruction(LOAD, 2, 6, cookie, 0),
        instruction(STORE, 10, 2, -8, 0),
        instruction(MOVE, 1, 8, 0, 0),
        instruction(MOVE, 2, 10, 0, 0),
        instruction(ADD_CONSTANT, 2, 0, 0, -8),
        instruction(MOVE_CONSTANT, 3, 0, 0, 8),
        instruction(CALL, 0, 0, 0, SEQ_WRITE),
        instruction(MOVE, 1, 8, 0, 0),
        instruction(MOVE, 2, 7, 0, 0),
        instruction(MOVE_CONSTANT, 3, 0, 0, RING_SIZE),
        instruction(CALL, 0, 0, 0, SEQ_WRITE),
        instruction(MOVE_CONSTANT, 0, 0, 0, 0),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// An eBPF instruction (RFC 9669 section 3).
const fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, constant: i32) -> u64 {
    opcode as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (constant.cast_unsigned() as u64) << 32
}
