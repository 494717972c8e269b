//! Destroys connected UDP sockets whose backend no longer serves, so that their program connects
//! again. The same goes for a socket that was refused by being connected to an address without a
//! listener (before Linux 5.18), once its Service has an endpoint.
//!
//! A scan compares all sockets with what serves now, and not with what an event changed. So it
//! covers removed endpoints and Services, changed ports, and changes while no agent ran. A socket
//! that is connected to a pod directly is never touched.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use svclb_core::planner::Planner;
use svclb_core::serving::{ChangedServices, ServingIndex};
use svclb_dataplane::{
    Dataplane, Destroyed, ScanError, UdpSocket, UdpSockets, UdpSocketsError, can_destroy,
};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, info, warn};

use super::udp_changes::{UdpChanges, backend, frontend};

/// The least time between two scans of the sockets of all namespaces.
const PAUSE: Duration = Duration::from_millis(200);
/// The same after a scan that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How often there is a scan without a change: a socket may have connected to a backend that was
/// just being removed, or have been missed while the list changed.
const AUDIT: Duration = Duration::from_secs(30);

/// What runs on another thread.
enum Working {
    Scan(JoinHandle<Result<Vec<UdpSocket>, ScanError>>),
    Destroy(JoinHandle<Destroyed>),
}

/// What ended.
pub(super) enum Done {
    Scanned(Result<Vec<UdpSocket>, ScanError>),
    Destroyed(Destroyed),
    /// The thread panicked.
    Panicked,
    /// The pause before a scan that is due.
    Paused,
}

/// Scans for UDP sockets and destroys them.
pub(crate) struct UdpSocketReaper {
    /// None where the kernel cannot destroy sockets.
    sockets: Option<Arc<UdpSockets>>,
    /// Whether the first full sync is done. Before, it is unknown what serves.
    ready: bool,
    working: Option<Working>,
    pub(super) changes: UdpChanges,
    scanned: Option<Instant>,
    /// Whether the last scan failed, and that was logged.
    failing: bool,
}

impl UdpSocketReaper {
    /// Probes whether the kernel can destroy sockets, and logs a warning if it cannot.
    pub(crate) fn new(dataplane: &Dataplane) -> anyhow::Result<Self> {
        let sockets = match dataplane.udp_sockets() {
            Ok(sockets) if can_destroy() => Some(Arc::new(sockets)),
            Ok(_) => {
                warn_unsupported("it has no CONFIG_INET_DIAG_DESTROY or CONFIG_INET_UDP_DIAG");
                None
            }
            Err(UdpSocketsError::Iterator(error)) => {
                warn_unsupported(&error.to_string());
                None
            }
            Err(error) => return Err(error).context("the pinned maps cannot be read back"),
        };
        Ok(Self {
            sockets,
            ready: false,
            working: None,
            changes: UdpChanges::default(),
            scanned: None,
            failing: false,
        })
    }

    /// The first full sync is done: what was removed while no agent ran is found now.
    pub(super) fn ready(&mut self) {
        self.ready = true;
        self.changes.request(ChangedServices::all());
    }

    /// Starts a scan if one is due. Call it at least every second.
    pub(super) fn start(&mut self, now: Instant) {
        let Some(sockets) = self.sockets.as_ref().filter(|_| self.ready) else {
            return;
        };
        let since = self
            .scanned
            .map(|scanned| now.saturating_duration_since(scanned));
        let is_old = since.is_some_and(|since| since >= AUDIT);
        let is_changed = self.changes.is_due() && self.pause(now).is_zero();
        if self.working.is_some() || !(is_changed || is_old) {
            return;
        }
        // A scan looks at all sockets.
        self.changes.take_due();
        self.scanned = Some(now);
        let sockets = Arc::clone(sockets);
        self.working = Some(Working::Scan(spawn_blocking(move || sockets.scan())));
    }

    /// How long until a scan for a change may start.
    fn pause(&self, now: Instant) -> Duration {
        let pause = if self.failing {
            PAUSE_AFTER_FAILURE
        } else {
            PAUSE
        };
        self.scanned.map_or(Duration::ZERO, |scanned| {
            pause.saturating_sub(now.saturating_duration_since(scanned))
        })
    }

    /// Resolves when what runs is done, or a scan that is due may start.
    pub(super) async fn next_completion(&mut self) -> Done {
        let worked = match &mut self.working {
            Some(Working::Scan(scan)) => scan.await.map(Done::Scanned),
            Some(Working::Destroy(destroy)) => destroy.await.map(Done::Destroyed),
            None if self.changes.is_due() && self.ready && self.sockets.is_some() => {
                tokio::time::sleep(self.pause(Instant::now())).await;
                return Done::Paused;
            }
            None => std::future::pending().await,
        };
        self.working = None;
        worked.unwrap_or(Done::Panicked)
    }

    /// Takes a result in, and destroys what must not stay. Returns how many sockets were
    /// destroyed.
    pub(super) fn handle(&mut self, worked: Done, planner: &Planner) -> usize {
        match worked {
            Done::Scanned(Ok(found)) => {
                if std::mem::take(&mut self.failing) {
                    info!("UDP sockets are checked again");
                }
                self.destroy(found, planner);
                0
            }
            Done::Scanned(Err(error)) => {
                self.fail(&error.to_string());
                0
            }
            Done::Panicked => {
                self.fail("a thread panicked");
                0
            }
            Done::Destroyed(done) => {
                if done.destroyed > 0 {
                    debug!(
                        sockets = done.destroyed,
                        "UDP sockets of backends that are gone were destroyed"
                    );
                    // Another scan finds what this one missed, or what connected meanwhile.
                    self.changes.request(ChangedServices::all());
                }
                if let Some(error) = done.failed.first() {
                    warn!(
                        sockets = done.failed.len(),
                        "UDP sockets of backends that are gone cannot be destroyed: {error}"
                    );
                }
                done.destroyed
            }
            Done::Paused => 0,
        }
    }

    /// The changes that a scan was for are not checked: another scan is due.
    fn fail(&mut self, why: &str) {
        self.changes.request(ChangedServices::all());
        if !std::mem::replace(&mut self.failing, true) {
            warn!("UDP sockets cannot be checked now: {why}");
        }
    }

    fn destroy(&mut self, mut found: Vec<UdpSocket>, planner: &Planner) {
        let connected = found.len();
        let mut index = ServingIndex::new(planner);
        let mut refusing = HashMap::new();
        found.retain(|socket| {
            let frontend = frontend(socket.frontend);
            let may_stay = match socket.backend {
                Some(addr) => index.serves(&frontend, &backend(addr)),
                None => *refusing
                    .entry(frontend)
                    .or_insert_with(|| planner.refuses(&frontend)),
            };
            !may_stay
        });
        debug!(connected, stale = found.len(), "checked UDP sockets");
        let Some(sockets) = self.sockets.as_ref().filter(|_| !found.is_empty()) else {
            return;
        };
        let sockets = Arc::clone(sockets);
        self.working = Some(Working::Destroy(spawn_blocking(move || {
            sockets.destroy(&found)
        })));
    }
}

fn warn_unsupported(why: &str) {
    warn!(
        "this kernel cannot find or destroy UDP sockets ({why}): one that stays connected keeps \
         its backend also when that is gone; resolvers that open a socket for each query are \
         not affected"
    );
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// One whose scan began a moment ago.
    fn scanning(now: Instant) -> UdpSocketReaper {
        UdpSocketReaper {
            sockets: None,
            ready: true,
            working: None,
            changes: UdpChanges::default(),
            scanned: Some(now),
            failing: false,
        }
    }

    #[test]
    fn a_scan_that_failed_is_due_again_after_a_longer_pause() {
        let now = Instant::now();
        let planner = Planner::new("node1");
        for failed in [
            Done::Scanned(Err(ScanError::Thread(io::ErrorKind::WouldBlock.into()))),
            Done::Panicked,
        ] {
            let mut reaper = scanning(now);
            assert_eq!(reaper.handle(failed, &planner), 0);
            assert!(reaper.changes.is_due(), "its changes are forgotten");
            assert_eq!(reaper.pause(now), PAUSE_AFTER_FAILURE);
            assert_eq!(reaper.pause(now + PAUSE_AFTER_FAILURE), Duration::ZERO);
            reaper.handle(Done::Scanned(Ok(Vec::new())), &planner);
            assert_eq!(reaper.pause(now), PAUSE);
        }
    }
}
