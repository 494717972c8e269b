//! What a scenario reports besides passing or failing: what the kernel lacks for it, and its time.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::thread;
use std::time::Duration;

/// Reports that this scenario cannot be played, or not all of it, because the kernel has not what it
/// needs. Where `SVCLB_LACKS` names a file it is written there too, for `cargo xtask test vm` to
/// compare with what it expects of the kernel.
///
/// # Panics
/// If the file cannot be written.
pub fn lacks(feature: &str) {
    println!("LACKS: {feature}");
    append("SVCLB_LACKS", &format!(": {feature}"));
}

/// Reports how long a part of this scenario took. Where `SVCLB_TIMES` names a file, a line with the
/// scenario's name and milliseconds is appended to it, for `cargo xtask test` to show the slowest.
///
/// # Panics
/// If the file cannot be written.
pub fn record_time(time: Duration) {
    append("SVCLB_TIMES", &format!(" {}", time.as_millis()));
}

/// Appends the scenario's name and what follows to the file that a variable names, as one write:
/// scenarios run side by side.
fn append(variable: &str, rest: &str) {
    let Some(path) = env::var_os(variable) else {
        return;
    };
    // libtest names a thread after its test.
    let thread = thread::current();
    let line = format!("{}{rest}\n", thread.name().unwrap_or("?"));
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .expect("the file that the variable names can be written");
}
