//! Maps: their elements, singly and in batches.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::call::{address, address_mut, bpf, bpf_fd, get_info, number, open_pin};

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const MAP_UPDATE_BATCH: libc::c_int = 26;
const MAP_DELETE_BATCH: libc::c_int = 27;

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
