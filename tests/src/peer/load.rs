//! Questions in the background, while something else happens.

use std::mem::take;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use super::protocol::{Kind, Tally};
use super::sockets::{Count, ask};

/// A thread that asks until it is dropped.
pub(super) struct Load {
    count: Arc<Mutex<Count>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(kind: Kind, to: SocketAddr, pause: Duration) -> Self {
        let count = Arc::new(Mutex::new(Count::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let result = ask(kind, to);
                    count
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(kind, to, result);
                    sleep(pause);
                }
            }
        });
        Self {
            count,
            stop,
            thread: Some(thread),
        }
    }

    /// What was counted since the last time.
    pub(super) fn take(&self) -> Tally {
        take(&mut *self.count.lock().unwrap_or_else(PoisonError::into_inner)).tally()
    }

    /// The same, after the last question has been answered.
    pub(super) fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        self.take()
    }
}
