//! An error with its causes, in one line.

use std::error::Error;

/// The text of an error and of its causes, separated by colons. A cause whose text is already
/// part of it is left out.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
