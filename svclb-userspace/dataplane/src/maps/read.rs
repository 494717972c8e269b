//! Reading a whole map, or one element.

use std::io;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::sys::{self, BatchRead, Map, is_unsupported};

/// How many elements are read at once, at first.
const BATCH: usize = 4096;

/// Every element of a hash map, an array or a trie, in no order. Elements that are written or
/// removed meanwhile may be missing, or in a trie be there twice.
///
/// # Errors
/// The system's error; EINTR where the map changes faster than it can be read.
pub(crate) fn read_all<K: FromBytes, V: FromBytes>(map: &Map) -> io::Result<Vec<(K, V)>> {
    /// How often a batch is read again that changed meanwhile (EINTR).
    const ATTEMPTS: u32 = 10;
    let mut batch = BATCH;
    let mut keys = vec![0; batch * map.key_size];
    let mut values = vec![0; batch * map.value_size];
    let mut all = Vec::new();
    let mut cursor = map.cursor();
    let mut attempts = 1;
    loop {
        let BatchRead { count, more } =
            match map.lookup_batch(&mut cursor, &mut keys, &mut values, batch) {
                Ok(read) => read,
                Err(error) if is_unsupported(&error) => return read_singly(map),
                // A bucket of a hash map is longer than the batch.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC)
                        && batch < map.max_entries as usize =>
                {
                    batch *= 2;
                    keys.resize(batch * map.key_size, 0);
                    values.resize(batch * map.value_size, 0);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted && attempts < ATTEMPTS => {
                    attempts += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
        attempts = 1;
        let elements = keys
            .chunks_exact(map.key_size)
            .zip(values.chunks_exact(map.value_size))
            .take(count);
        for (key, value) in elements {
            all.push((sys::value(key)?, sys::value(value)?));
        }
        if !more {
            return Ok(all);
        }
        check_end(map, all.len())?;
    }
}

/// One element of a hash map, if it is there.
///
/// # Errors
/// The system's error.
pub(crate) fn read_one<K, V>(map: &Map, key: &K) -> io::Result<Option<V>>
where
    K: IntoBytes + Immutable,
    V: FromBytes,
{
    // The kernel copies whole words.
    let mut value = vec![0; map.value_size.next_multiple_of(8)];
    if !map.lookup(sys::bytes(key), &mut value)? {
        return Ok(None);
    }
    sys::value(&value).map(Some)
}

/// A trie is read from its beginning again where the key at which a batch begins was removed
/// (`trie_get_next_key`), so that reading might never end.
fn check_end(map: &Map, read: usize) -> io::Result<()> {
    if read > 2 * map.max_entries as usize {
        return Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the map changes faster than it can be read",
        ));
    }
    Ok(())
}

/// Where the kernel has no batches for the map.
fn read_singly<K: FromBytes, V: FromBytes>(map: &Map) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    let mut key = vec![0; map.key_size];
    let mut next = key.clone();
    let mut value = vec![0; map.value_size];
    let mut more = map.next_key(None, &mut next)?;
    while more {
        key.copy_from_slice(&next);
        if map.lookup(&key, &mut value)? {
            all.push((sys::value(&key)?, sys::value(&value)?));
        }
        check_end(map, all.len())?;
        more = map.next_key(Some(&key), &mut next)?;
    }
    Ok(all)
}
