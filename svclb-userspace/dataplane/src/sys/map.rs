//! Maps: their elements, singly and in batches.
//!
//! What a batch reads and writes beyond its arguments is in kernel/bpf: `generic_map_…_batch` of
//! syscall.c, and `__htab_map_lookup_and_delete_batch` of hashtab.c.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::util::nr_cpus;
use zerocopy::{FromBytes, IntoBytes};

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
    /// In bytes.
    pub(crate) key_size: usize,
    /// In bytes, as the kernel copies it: for a per-CPU map the value of every possible CPU, each
    /// rounded up to eight bytes (`bpf_map_value_size`).
    pub(crate) value_size: usize,
    pub(crate) max_entries: u32,
}

/// Where the next batch begins. Its bytes mean something to the kernel alone: for a hash map they
/// are the number of a bucket (a u32), for any other map the last key that was read.
#[derive(Debug)]
pub(crate) struct Cursor {
    current: Vec<u8>,
    next: Vec<u8>,
    is_at_start: bool,
}

/// What a batch has read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchRead {
    /// How many elements.
    pub(crate) count: usize,
    /// Whether there may be more behind them.
    pub(crate) more: bool,
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

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default, FromBytes, IntoBytes)]
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
        Self::new(fd)
    }

    /// Makes an array of one element of zeros.
    pub(crate) fn new_array(value_size: u32) -> io::Result<Self> {
        Self::new(create(&mut MapCreate {
            map_type: MAP_TYPE_ARRAY,
            key_size: 4,
            value_size,
            max_entries: 1,
            ..MapCreate::default()
        })?)
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut info = MapInfo::default();
        get_info(fd.as_fd(), &mut info)?;
        let value_size = info.value_size as usize;
        Ok(Self {
            fd,
            id: info.id,
            key_size: info.key_size as usize,
            value_size: if PER_CPU.contains(&info.map_type) {
                value_size.next_multiple_of(8) * possible_cpus()?
            } else {
                value_size
            },
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
        let fits = |buffer: &[u8], size: usize| buffer.len() >= size.saturating_mul(count);
        if fits(keys, self.key_size) && values.is_none_or(|values| fits(values, self.value_size)) {
            Ok(())
        } else {
            Err(too_short())
        }
    }

    /// The size of a cursor, in bytes: a key for the maps whose position is a key, and never less
    /// than the u32 of a hash map.
    fn cursor_size(&self) -> usize {
        self.key_size.max(size_of::<u32>())
    }

    /// The beginning of the map.
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor {
            current: vec![0; self.cursor_size()],
            next: vec![0; self.cursor_size()],
            is_at_start: true,
        }
    }

    /// Reads an element; `false` if there is none.
    pub(crate) fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.check(key, Some(value), 1)?;
        let mut attr = self.element(address(key), address_mut(value));
        // SAFETY: both buffers are long enough and live through the call.
        match unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes an element.
    pub(crate) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        /// `BPF_ANY`.
        const ANY: u64 = 0;
        self.write(key, value, ANY)
    }

    /// Writes an element where there is none: else the error is EEXIST.
    pub(crate) fn insert(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        /// `BPF_NOEXIST`.
        const NO_EXIST: u64 = 1;
        self.write(key, value, NO_EXIST)
    }

    fn write(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        self.check(key, Some(value), 1)?;
        let mut attr = Element {
            flags,
            ..self.element(address(key), address(value))
        };
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
            // call; then the count is still the one that was passed in.
            Err(error) => BatchEnd {
                done: match attr.count as usize {
                    done if done < count => done,
                    _ => 0,
                },
                error: Some(error),
            },
        }
    }

    /// Reads elements from the cursor on, and moves it behind them (Linux 5.6 for hash maps, 5.13
    /// for longest-prefix tries).
    ///
    /// # Errors
    /// ENOSPC: `count` is less than the next bucket of a hash map holds. EINTR: the elements
    /// changed while they were read (before Linux 6.13). The cursor has not moved then.
    /// [`is_unsupported`]: the kernel has no batches for this kind of map.
    pub(crate) fn lookup_batch(
        &self,
        cursor: &mut Cursor,
        keys: &mut [u8],
        values: &mut [u8],
        count: usize,
    ) -> io::Result<BatchRead> {
        let start = (!cursor.is_at_start).then_some(&*cursor.current);
        let read = self.lookup_batch_at(start, &mut cursor.next, keys, values, count)?;
        std::mem::swap(&mut cursor.current, &mut cursor.next);
        cursor.is_at_start = false;
        Ok(read)
    }

    /// As [`lookup_batch`](Self::lookup_batch); `start` is what was written to `next` before.
    fn lookup_batch_at(
        &self,
        start: Option<&[u8]>,
        next: &mut [u8],
        keys: &mut [u8],
        values: &mut [u8],
        count: usize,
    ) -> io::Result<BatchRead> {
        self.check(keys, Some(values), count)?;
        if start.unwrap_or(next).len() < self.cursor_size() || next.len() < self.cursor_size() {
            return Err(too_short());
        }
        let mut attr = Batch {
            in_batch: start.map_or(0, address),
            out_batch: address_mut(next),
            keys: address_mut(keys),
            values: address_mut(values),
            count: u32::try_from(count).map_err(io::Error::other)?,
            map: number(self.fd.as_fd()),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: keys and values hold `count` elements, both cursors hold what the kernel copies
        // for this map, and all live through the call.
        let more = match unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) } {
            Ok(_) => true,
            // The end of the map; elements may have been read before it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
            Err(error) => return Err(error),
        };
        Ok(BatchRead {
            count: attr.count as usize,
            more,
        })
    }
}

/// Whether the kernel has no batches for a kind of map: ENOTSUPP (include/linux/errno.h), which
/// has no name outside of the kernel.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    error.raw_os_error() == Some(ENOTSUPP)
}

fn too_short() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "a buffer is shorter than its elements",
    )
}

/// How many CPUs a per-CPU map has values for.
fn possible_cpus() -> io::Result<usize> {
    nr_cpus().map_err(|(path, error)| io::Error::new(error.kind(), format!("{path}: {error}")))
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

/// `BPF_MAP_TYPE_PERCPU_HASH`, `…_PERCPU_ARRAY`, `…_LRU_PERCPU_HASH` and
/// `…_PERCPU_CGROUP_STORAGE` (include/uapi/linux/bpf.h).
const PER_CPU: [u32; 4] = [5, 6, 10, 21];

const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

fn create(attr: &mut MapCreate) -> io::Result<OwnedFd> {
    // SAFETY: no addresses.
    unsafe { bpf_fd(MAP_CREATE, attr) }
}

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
        let inner = create(&mut attr)?;
        attr.map_type = MAP_TYPE_ARRAY_OF_MAPS;
        attr.inner = number(inner.as_fd());
        Ok(Self {
            outer: create(&mut attr)?,
            inner,
        })
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HASH: u32 = 1;
    const PERCPU_ARRAY: u32 = 6;
    const LPM_TRIE: u32 = 11;
    const NO_PREALLOC: u32 = 1;
    const BATCH: usize = 4096;

    fn map(map_type: u32, key_size: u32, max_entries: u32, flags: u32) -> Map {
        let mut attr = MapCreate {
            map_type,
            key_size,
            value_size: 4,
            max_entries,
            flags,
            ..MapCreate::default()
        };
        let fd = create(&mut attr).unwrap_or_else(|error| {
            panic!("no map can be made: {error}; this test must run as root")
        });
        Map::new(fd).unwrap()
    }

    /// The key of a row of a trie: as long as one of `SOURCES`.
    fn trie_key(row: u32) -> Vec<u8> {
        let mut key = 192_u32.to_ne_bytes().to_vec();
        key.resize(24, 0);
        key.extend(row.to_be_bytes());
        key
    }

    /// All keys of a map, read in batches by cursors with guard bytes behind them.
    fn read(map: &Map) -> (usize, BTreeSet<Vec<u8>>) {
        const GUARD: [u8; 64] = [0xa5; 64];
        let guarded = || [vec![0; map.cursor_size()], GUARD.to_vec()].concat();
        let (mut start, mut next) = (guarded(), guarded());
        let (mut keys, mut values) = (vec![0; BATCH * map.key_size], vec![0; BATCH * 4]);
        let (mut rows, mut found, mut is_first) = (0, BTreeSet::new(), true);
        loop {
            let from = (!is_first).then_some(&start[..map.cursor_size()]);
            let to = &mut next[..map.cursor_size()];
            let read = map
                .lookup_batch_at(from, to, &mut keys, &mut values, BATCH)
                .unwrap();
            assert_eq!(next[map.cursor_size()..], GUARD, "after {rows} rows");
            rows += read.count;
            found.extend(
                keys.chunks_exact(map.key_size)
                    .take(read.count)
                    .map(<[u8]>::to_vec),
            );
            std::mem::swap(&mut start, &mut next);
            is_first = false;
            if !read.more {
                return (rows, found);
            }
            assert!(rows <= 2 * map.max_entries as usize, "it has no end");
        }
    }

    #[test]
    fn a_batch_of_a_trie_writes_a_key_to_its_cursor_and_nothing_behind_it() {
        for count in [0, 1, 4096, 4097, 6000] {
            let map = map(LPM_TRIE, 28, 8192, NO_PREALLOC);
            let written: BTreeSet<_> = (0..count).map(trie_key).collect();
            for key in &written {
                map.update(key, &[1; 4]).unwrap();
            }
            let (rows, found) = read(&map);
            assert_eq!(rows, written.len(), "{count} rows");
            assert!(found == written, "{count} rows");
        }
    }

    #[test]
    fn a_batch_of_a_hash_map_with_a_short_key_has_room_for_the_number_of_a_bucket() {
        let map = map(HASH, 1, 256, 0);
        for key in 0..=u8::MAX {
            map.update(&[key], &[1; 4]).unwrap();
        }
        let (rows, found) = read(&map);
        assert_eq!((rows, found.len()), (256, 256));
    }

    #[test]
    fn a_bucket_longer_than_a_batch_is_named_by_its_error() {
        let map = map(HASH, 4, 256, 0);
        for key in 0..256_u32 {
            map.update(&key.to_ne_bytes(), &[1; 4]).unwrap();
        }
        let (mut cursor, mut rows, mut refused) = (map.cursor(), 0, false);
        let (mut keys, mut values) = (vec![0; 256 * 4], vec![0; 256 * 4]);
        let mut count = 1;
        loop {
            match map.lookup_batch(&mut cursor, &mut keys, &mut values, count) {
                Ok(read) => {
                    rows += read.count;
                    if !read.more {
                        break;
                    }
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
                    refused = true;
                    count *= 2;
                }
            }
        }
        assert!(refused);
        assert_eq!(rows, 256);
    }

    #[test]
    fn a_value_of_a_per_cpu_map_has_room_for_every_possible_cpu() {
        let map = map(PERCPU_ARRAY, 4, 1, 0);
        assert_eq!(map.value_size, 8 * possible_cpus().unwrap());
        let key = 0_u32.to_ne_bytes();
        let error = map.lookup(&key, &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let mut value = vec![0; map.value_size];
        assert!(map.lookup(&key, &mut value).unwrap());
    }
}
