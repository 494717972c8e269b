//! Map elements as bytes.

use std::io;

use zerocopy::{FromBytes, Immutable, IntoBytes};

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
