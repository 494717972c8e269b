//! Questions in the background, while something else happens.

use std::io;
use std::mem::take;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::protocol::{Answer, Failure, Tally, Target};
use super::sockets::{Count, ask, failure};

/// An answer of the port that had to give it, or else a failure that names it.
fn at(port: Option<u16>, answer: Answer) -> Result<Answer, Failure> {
    if port.is_none_or(|port| port == answer.port) {
        return Ok(answer);
    }
    let text = format!("{} answered at {}", answer.backend, answer.port);
    Err(failure("answer", Instant::now(), &io::Error::other(text)))
}

/// A thread that asks until it is dropped.
pub(super) struct Load {
    count: Arc<Mutex<Count>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(targets: Vec<Target>, pause: Duration) -> Self {
        let count = Arc::new(Mutex::new(Count::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
            move || {
                for Target { kind, to, port } in targets.into_iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let result = ask(kind, to).and_then(|answer| at(port, answer));
                    // Who asks one alone knows whom.
                    let result = result.map_err(|failure| match port {
                        Some(_) => failure.of(kind, to),
                        None => failure,
                    });
                    count
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(kind, to, result);
                    if !pause.is_zero() {
                        sleep(pause);
                    }
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
