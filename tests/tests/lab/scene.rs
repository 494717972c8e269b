//! What every scenario begins with.

use std::sync::{Mutex, MutexGuard, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

/// Waits until no other scenario of this process runs.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    // A scenario that failed says so itself; the next one starts afresh.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
