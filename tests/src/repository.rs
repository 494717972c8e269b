//! Where the checkout is.

use std::env;
use std::path::PathBuf;

/// The root of the checkout: the nearest directory with a `Cargo.lock` above the current one, in
/// which cargo and `cargo xtask test vm` start a test. Found at run time, so that a test that was
/// copied with its checkout reads the copy's files.
pub fn repository() -> PathBuf {
    let current = env::current_dir().unwrap_or_default();
    let root = current
        .ancestors()
        .find(|dir| dir.join("Cargo.lock").is_file());
    root.unwrap_or(&current).to_owned()
}
