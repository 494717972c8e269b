//! Reading a whole map.

use std::io;

use zerocopy::FromBytes;

use crate::sys::{self, Map};

/// How many elements are read at once; a hash bucket longer than this is refused.
const BATCH: usize = 4096;

/// Every element of a hash map or an array, in no order.
pub(crate) fn read_all<K: FromBytes, V: FromBytes>(map: &Map) -> io::Result<Vec<(K, V)>> {
    let mut keys = vec![0; BATCH * map.key_size];
    let mut values = vec![0; BATCH * map.value_size];
    let mut all = Vec::new();
    let mut position = None;
    loop {
        let (count, more) = match map.lookup_batch(&mut position, &mut keys, &mut values, BATCH) {
            Ok(read) => read,
            Err(_) if position.is_none() => return read_singly(map),
            Err(error) => return Err(error),
        };
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
    }
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
        more = map.next_key(Some(&key), &mut next)?;
    }
    Ok(all)
}
