//! `bpf(2)`: the commands that aya has no wrapper for.
//!
//! Each structure here is the part of `union bpf_attr` (include/uapi/linux/bpf.h) that its
//! command reads; the kernel takes what is missing behind it as zero.

#![expect(unsafe_code, reason = "the wrappers over bpf(2)")]

use std::ffi::CString;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zerocopy::{FromBytes, Immutable, IntoBytes};

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_TEST_RUN: libc::c_int = 10;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const MAP_UPDATE_BATCH: libc::c_int = 26;
const MAP_DELETE_BATCH: libc::c_int = 27;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const ITER_CREATE: libc::c_int = 33;
const LINK_DETACH: libc::c_int = 34;

/// `attr` must be laid out as the command's part of `union bpf_attr`, and every address
/// in it must be valid for what the command does with it.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's promise; the size is the structure's own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// As [`bpf`], for a command that returns a new descriptor.
unsafe fn bpf_fd<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise, and the kernel's that the descriptor is new.
    unsafe { Ok(OwnedFd::from_raw_fd(bpf(command, attr)?)) }
}

fn address<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<u8>() as u64
}

fn address_mut<T: ?Sized>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).cast::<u8>() as u64
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[repr(C)]
struct ObjectPath {
    pathname: u64,
    fd: u32,
    flags: u32,
}

/// Opens what is pinned at a path.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjectPath {
        pathname: address(path.as_bytes_with_nul()),
        fd: 0,
        flags: 0,
    };
    // SAFETY: the path is a C string that lives through the call.
    unsafe { bpf_fd(OBJ_GET, &mut attr) }
}

/// Pins an object at a path in a bpffs.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectPath {
        pathname: address(path.as_bytes_with_nul()),
        fd: number(object),
        flags: 0,
    };
    // SAFETY: the path is a C string that lives through the call.
    unsafe { bpf(OBJ_PIN, &mut attr).map(drop) }
}

/// A map, with the size of its keys and values.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    /// The kernel's number of it.
    pub(crate) id: u32,
    pub(crate) key_size: usize,
    pub(crate) value_size: usize,
    pub(crate) max_entries: u32,
}

#[repr(C)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    /// The value, or where the next key goes.
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    elem_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct InfoRequest {
    fd: u32,
    len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct MapInfo {
    map_type: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// How a batch ended.
pub(crate) struct BatchEnd {
    /// How many elements were done.
    pub(crate) done: usize,
    /// Why no more were.
    pub(crate) error: Option<io::Error>,
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Map {
    /// Opens a pinned map.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let fd = open_pin(path)?;
        let mut info = MapInfo::default();
        get_info(fd.as_fd(), &mut info)?;
        Ok(Self {
            fd,
            id: info.id,
            key_size: info.key_size as usize,
            value_size: info.value_size as usize,
            max_entries: info.max_entries,
        })
    }

    fn element(&self, key: u64, value: u64) -> Element {
        Element {
            map: number(self.fd.as_fd()),
            reserved: 0,
            key,
            value,
            flags: 0,
        }
    }

    fn check(&self, keys: &[u8], values: Option<&[u8]>, count: usize) -> io::Result<()> {
        let fits = keys.len() >= self.key_size * count
            && values.is_none_or(|values| values.len() >= self.value_size * count);
        if fits {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a buffer shorter than its elements",
            ))
        }
    }

    /// Reads an element; `false` if there is none. `value` takes the value size rounded up to
    /// eight, times the number of possible CPUs for a per-CPU map.
    pub(crate) fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.check(key, Some(value), 1)?;
        let mut attr = self.element(address(key), address_mut(value));
        // SAFETY: both buffers live through the call; the caller sizes a per-CPU value.
        match unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes an element.
    pub(crate) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key, Some(value), 1)?;
        let mut attr = self.element(address(key), address(value));
        // SAFETY: both buffers are long enough and live through the call.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut attr).map(drop) }
    }

    /// Removes an element.
    pub(crate) fn delete(&self, key: &[u8]) -> io::Result<()> {
        self.check(key, None, 1)?;
        let mut attr = self.element(address(key), 0);
        // SAFETY: the key is long enough and lives through the call.
        unsafe { bpf(MAP_DELETE_ELEM, &mut attr).map(drop) }
    }

    /// The key after `key` (the first without one); `false` at the end.
    pub(crate) fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        self.check(next, None, 1)?;
        if let Some(key) = key {
            self.check(key, None, 1)?;
        }
        let mut attr = self.element(key.map_or(0, address), address_mut(next));
        // SAFETY: both buffers are long enough and live through the call.
        match unsafe { bpf(MAP_GET_NEXT_KEY, &mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes `count` elements (Linux 5.6 for hash maps).
    pub(crate) fn update_batch(&self, keys: &[u8], values: &[u8], count: usize) -> BatchEnd {
        self.batch(MAP_UPDATE_BATCH, keys, Some(values), count)
    }

    /// Removes `count` elements; stops at one that is not there.
    pub(crate) fn delete_batch(&self, keys: &[u8], count: usize) -> BatchEnd {
        self.batch(MAP_DELETE_BATCH, keys, None, count)
    }

    fn batch(
        &self,
        command: libc::c_int,
        keys: &[u8],
        values: Option<&[u8]>,
        count: usize,
    ) -> BatchEnd {
        if let Err(error) = self.check(keys, values, count) {
            return BatchEnd {
                done: 0,
                error: Some(error),
            };
        }
        let mut attr = Batch {
            in_batch: 0,
            out_batch: 0,
            keys: address(keys),
            values: values.map_or(0, address),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            map: number(self.fd.as_fd()),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: both buffers hold `count` elements and live through the call.
        match unsafe { bpf(command, &mut attr) } {
            Ok(_) => BatchEnd {
                done: count,
                error: None,
            },
            // The kernel writes back how many it did, except where it refuses the whole
            // call; then the count is still ours and tells nothing.
            Err(error) => BatchEnd {
                done: match attr.count as usize {
                    done if done < count => done,
                    _ => 0,
                },
                error: Some(error),
            },
        }
    }

    /// Reads elements from the position `at` on; returns how many, and whether there are
    /// more (Linux 5.6 for hash maps).
    pub(crate) fn lookup_batch(
        &self,
        at: &mut Option<u32>,
        keys: &mut [u8],
        values: &mut [u8],
        count: usize,
    ) -> io::Result<(usize, bool)> {
        self.check(keys, Some(values), count)?;
        let (start, mut next) = (at.unwrap_or_default(), 0_u32);
        let mut attr = Batch {
            in_batch: if at.is_some() { address(&start) } else { 0 },
            out_batch: address_mut(&mut next),
            keys: address_mut(keys),
            values: address_mut(values),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            map: number(self.fd.as_fd()),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: all buffers are long enough and live through the call; a hash map's
        // position is a u32.
        match unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) } {
            Ok(_) => {
                *at = Some(next);
                Ok((attr.count as usize, true))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                Ok((attr.count as usize, false))
            }
            Err(error) => Err(error),
        }
    }
}

fn get_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = InfoRequest {
        fd: number(object),
        len: u32::try_from(size_of::<T>()).unwrap_or(u32::MAX),
        info: address_mut(info),
    };
    // SAFETY: the buffer has the length that it is said to have; `T` is plain integers.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr).map(drop) }
}

#[repr(C)]
#[derive(Default)]
struct CgroupLinkInfo {
    link_type: u32,
    id: u32,
    program: u32,
    reserved: u32,
    cgroup: u64,
    attach_type: u32,
    padding: u32,
}

/// The id of the cgroup that a link is attached to; zero if the cgroup is gone.
pub(crate) fn link_cgroup(link: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = CgroupLinkInfo::default();
    get_info(link, &mut info)?;
    Ok(info.cgroup)
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a cgroup, beside whatever else is attached there (Linux 5.7).
pub(crate) fn create_link(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    link(program, number(cgroup), attach_type, 0)
}

/// Attaches a program to a network device (XDP: Linux 5.9, tcx: 6.6).
pub(crate) fn create_device_link(
    program: BorrowedFd<'_>,
    device: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    link(program, device, attach_type, flags)
}

fn link(program: BorrowedFd<'_>, target: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        program: number(program),
        target,
        attach_type,
        flags,
    };
    // SAFETY: no addresses.
    unsafe { bpf_fd(LINK_CREATE, &mut attr) }
}

/// Replaces a link's program, without a moment in which there is none (Linux 5.7).
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [number(link), number(program), 0, 0];
    // SAFETY: no addresses.
    unsafe { bpf(LINK_UPDATE, &mut attr).map(drop) }
}

/// Detaches a link, whoever else still holds it (Linux 5.9).
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = number(link);
    // SAFETY: no addresses.
    unsafe { bpf(LINK_DETACH, &mut attr).map(drop) }
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
}

const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// A map of one map, whose update waits for running programs.
///
/// Replacing an element of a map-in-map returns only after every program that was running
/// has finished, since a program may hold the element that was replaced (Linux 4.20,
/// commit 1ae80cf31938: `maybe_wait_bpf_programs`). Unlike `membarrier(2)` with
/// `MEMBARRIER_CMD_GLOBAL`, it holds with one CPU and with `nohz_full` too.
#[derive(Debug)]
pub(crate) struct WaitingMap {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl WaitingMap {
    pub(crate) fn new() -> io::Result<Self> {
        let mut attr = MapCreate {
            map_type: MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            ..MapCreate::default()
        };
        // SAFETY: no addresses.
        let inner = unsafe { bpf_fd(MAP_CREATE, &mut attr) }?;
        attr.map_type = MAP_TYPE_ARRAY_OF_MAPS;
        attr.inner = number(inner.as_fd());
        // SAFETY: no addresses.
        let outer = unsafe { bpf_fd(MAP_CREATE, &mut attr) }?;
        Ok(Self { outer, inner })
    }

    /// Waits for every program that is running now.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let (key, value) = (0_u32, number(self.inner.as_fd()));
        let mut attr = Element {
            map: number(self.outer.as_fd()),
            reserved: 0,
            key: address(&key),
            value: address(&value),
            flags: 0,
        };
        // SAFETY: key and value are four bytes each and live through the call.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut attr).map(drop) }
    }
}

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

/// Loads a program of these instructions; the rest is in `attr`.
fn load(instructions: &[u64], mut attr: ProgLoad) -> io::Result<OwnedFd> {
    let license = b"GPL\0";
    attr.insn_count = u32::try_from(instructions.len()).unwrap_or(u32::MAX);
    attr.insns = address(instructions);
    attr.license = address(license.as_slice());
    // SAFETY: the instructions and the licence live through the call.
    unsafe { bpf_fd(PROG_LOAD, &mut attr) }
}

/// Whether the kernel accepts a cgroup socket-address program of these instructions.
pub(crate) fn accepts(instructions: &[u64], attach_type: u32) -> io::Result<()> {
    const CGROUP_SOCK_ADDR: u32 = 18;
    let attr = ProgLoad {
        prog_type: CGROUP_SOCK_ADDR,
        expected_attach_type: attach_type,
        ..ProgLoad::default()
    };
    load(instructions, attr).map(drop)
}

/// An XDP program that passes every frame.
pub(crate) fn load_passing() -> io::Result<OwnedFd> {
    const XDP: u32 = 6;
    /// `r0 = XDP_PASS; exit`
    const PASS: [u64; 2] = [0xb7 | 2 << 32, 0x95];
    let attr = ProgLoad {
        prog_type: XDP,
        ..ProgLoad::default()
    };
    load(&PASS, attr)
}

/// `BPF_TRACE_ITER`.
const TRACE_ITER: u32 = 28;

/// Loads an iterator program; `target` is the id of its `bpf_iter_` function in the kernel's
/// BTF (Linux 5.8).
pub(crate) fn load_iterator(instructions: &[u64], target: u32) -> io::Result<OwnedFd> {
    const TRACING: u32 = 26;
    let attr = ProgLoad {
        prog_type: TRACING,
        expected_attach_type: TRACE_ITER,
        attach_btf_id: target,
        ..ProgLoad::default()
    };
    load(instructions, attr)
}

#[repr(C)]
struct IteratorLink {
    link: LinkCreate,
    info: u64,
    info_len: u32,
    reserved: u32,
}

/// Ties an iterator program to the map whose elements it is run for (Linux 5.9).
pub(crate) fn link_iterator(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // `union bpf_iter_link_info`.
    let info = number(map);
    let mut attr = IteratorLink {
        link: LinkCreate {
            program: number(program),
            target: 0,
            attach_type: TRACE_ITER,
            flags: 0,
        },
        info: address(&info),
        info_len: 4,
        reserved: 0,
    };
    // SAFETY: the information is four bytes and lives through the call.
    unsafe { bpf_fd(LINK_CREATE, &mut attr) }
}

/// A file that runs the iterator as it is read (Linux 5.8).
pub(crate) fn start_iterator(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = [number(link), 0];
    // SAFETY: no addresses.
    unsafe { bpf_fd(ITER_CREATE, &mut attr) }
}

/// What `BPF_PROG_TEST_RUN` takes, up to where what it is for ends.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context: [u32; 2],
    contexts: [u64; 2],
}

/// Runs a packet program on a frame, which it may change (Linux 4.12). Returns what the program
/// returned, the length of the frame in `out`, and how long a run took, in nanoseconds.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    out: &mut [u8],
    repeat: u32,
) -> io::Result<(u32, usize, u32)> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut attr = TestRun {
        program: number(program),
        size_in: length(frame),
        size_out: length(out),
        data_in: address(frame),
        data_out: address_mut(out),
        repeat,
        ..TestRun::default()
    };
    // SAFETY: both buffers are as long as said and live through the call.
    unsafe { bpf(PROG_TEST_RUN, &mut attr) }?;
    Ok((attr.result, attr.size_out as usize, attr.duration))
}

/// The cookie of the caller's network namespace (Linux 5.14).
pub(crate) fn netns_cookie() -> io::Result<u64> {
    /// include/uapi/asm-generic/socket.h
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// The kernel's release, as `uname -r` prints it.
pub(crate) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// The bytes of a value that has a defined layout.
pub(crate) fn bytes<T: IntoBytes + Immutable>(value: &T) -> &[u8] {
    value.as_bytes()
}

/// A value from the front of a buffer.
pub(crate) fn value<T: FromBytes>(bytes: &[u8]) -> io::Result<T> {
    T::read_from_prefix(bytes)
        .map(|(value, _)| value)
        .or(Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a map element is too short",
        )))
}
