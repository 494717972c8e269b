//! What a kernel has not, by the scenarios that need it.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::thread;

/// Says that this scenario cannot be played, or not all of it, because the kernel has not what it
/// needs. Where `SVCLB_LACKS` names a file it is written down there too, for `cargo xtask test vm`
/// to compare with what it expects of the kernel.
///
/// # Panics
/// If the file cannot be written.
pub fn lacks(feature: &str) {
    println!("LACKS: {feature}");
    if let Some(path) = env::var_os("SVCLB_LACKS") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        // libtest names a thread after its test.
        let thread = thread::current();
        let scenario = thread.name().unwrap_or("?");
        file.and_then(|mut file| writeln!(file, "{scenario}: {feature}"))
            .expect("SVCLB_LACKS names a file that can be written");
    }
}
