//! UDP sockets follow their backends: one that is connected to a backend that no longer
//! serves is destroyed, so that its program connects again. So is one that was refused by
//! being connected elsewhere (before Linux 5.18), once its Service has an endpoint.
//!
//! What is looked for are sockets that must not be, and not what an event did: a scan sees
//! endpoints that went, Services that went, ports that changed, and what completion while no
//! agent ran, all alike. A socket that talks to a pod directly is never touched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use svclb_core::planner::Planner;
use svclb_dataplane::{
    Dataplane, Destroyed, ScanError, UdpSocket, UdpSockets, UdpSocketsError, can_destroy,
};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, info, warn};

use super::udp_changes::{Changes, backend, frontend};

/// At most so often the sockets of all namespaces are listed.
const PAUSE: Duration = Duration::from_millis(200);
/// And so often they are without a reason: one may have connected to a backend just as it
/// went, or have been passed over.
const AUDIT: Duration = Duration::from_secs(30);

/// What runs on another thread.
enum Working {
    Scan(JoinHandle<Result<Vec<UdpSocket>, ScanError>>),
    Destroy(JoinHandle<Destroyed>),
}

/// What it came to.
pub(super) enum Done {
    Scanned(Result<Vec<UdpSocket>, ScanError>),
    Destroyed(Destroyed),
    /// Nothing; a scan may start.
    Nothing,
}

/// The follower.
pub(crate) struct UdpSocketReaper {
    /// None where the kernel cannot destroy sockets.
    sockets: Option<Arc<UdpSockets>>,
    /// The first full sync is done: before, nobody knows what serves.
    ready: bool,
    working: Option<Working>,
    pub(super) changes: Changes,
    looked: Option<Instant>,
    /// Whether the last scan failed, and that was told.
    failing: bool,
}

impl UdpSocketReaper {
    /// Asks the kernel whether it can destroy sockets, and says so if it can't.
    pub(crate) fn new(dataplane: &Dataplane) -> anyhow::Result<Self> {
        let sockets = match dataplane.udp_sockets() {
            Ok(sockets) if can_destroy() => Some(Arc::new(sockets)),
            Ok(_) => {
                warn_of_staying("it has no CONFIG_INET_DIAG_DESTROY or CONFIG_INET_UDP_DIAG");
                None
            }
            Err(UdpSocketsError::Iterator(error)) => {
                warn_of_staying(&error.to_string());
                None
            }
            Err(error) => return Err(error).context("the pinned maps cannot be read back"),
        };
        Ok(Self {
            sockets,
            ready: false,
            working: None,
            changes: Changes::default(),
            looked: None,
            failing: false,
        })
    }

    /// The first full sync is done: what went while no agent ran is found now.
    pub(super) fn ready(&mut self) {
        self.ready = true;
        self.changes.set_due(true);
    }

    /// Starts a scan if one is due. Call it at least every second.
    pub(super) fn start(&mut self) {
        let Some(sockets) = self.sockets.as_ref().filter(|_| self.ready) else {
            return;
        };
        let since = self.looked.map(|looked| looked.elapsed());
        let rested = since.is_none_or(|since| since >= PAUSE);
        let old = since.is_some_and(|since| since >= AUDIT);
        if self.working.is_some() || !(self.changes.is_due() && rested || old) {
            return;
        }
        self.changes.set_due(false);
        self.looked = Some(Instant::now());
        let sockets = Arc::clone(sockets);
        self.working = Some(Working::Scan(spawn_blocking(move || sockets.scan())));
    }

    /// Resolves when what runs is done, or a scan that is due may start.
    pub(super) async fn next_completion(&mut self) -> Done {
        let worked = match &mut self.working {
            Some(Working::Scan(scan)) => scan.await.map(Done::Scanned),
            Some(Working::Destroy(destroy)) => destroy.await.map(Done::Destroyed),
            None if self.changes.is_due() && self.ready && self.sockets.is_some() => {
                let since = self.looked.map_or(PAUSE, |looked| looked.elapsed());
                tokio::time::sleep(PAUSE.saturating_sub(since)).await;
                return Done::Nothing;
            }
            None => std::future::pending().await,
        };
        self.working = None;
        // A thread that panicked: what it was to do is found by the next look.
        worked.unwrap_or(Done::Nothing)
    }

    /// Takes in what came out, and destroys what must not be. How many sockets were
    /// destroyed.
    pub(super) fn handle(&mut self, worked: Done, planner: &Planner) -> usize {
        match worked {
            Done::Scanned(Ok(found)) => {
                if std::mem::take(&mut self.failing) {
                    info!("UDP sockets are followed again");
                }
                self.destroy(found, planner);
                0
            }
            Done::Scanned(Err(error)) => {
                if !std::mem::replace(&mut self.failing, true) {
                    warn!("UDP sockets cannot be followed now: {error}");
                }
                0
            }
            Done::Destroyed(done) => {
                if done.destroyed > 0 {
                    debug!(
                        sockets = done.destroyed,
                        "UDP sockets of backends that are gone were destroyed"
                    );
                    // What was passed over, or connected meanwhile, is found by another look.
                    self.changes.set_due(true);
                }
                if let Some(error) = done.failed.first() {
                    warn!(
                        sockets = done.failed.len(),
                        "UDP sockets of backends that are gone cannot be destroyed: {error}"
                    );
                }
                done.destroyed
            }
            Done::Nothing => 0,
        }
    }

    fn destroy(&mut self, mut found: Vec<UdpSocket>, planner: &Planner) {
        let connected = found.len();
        found.retain(|socket| {
            let frontend = frontend(socket.frontend);
            let may_stay = match socket.backend {
                Some(addr) => planner.serves(&frontend, &backend(addr)),
                None => planner.refuses(&frontend),
            };
            !may_stay
        });
        debug!(connected, stale = found.len(), "looked at UDP sockets");
        let Some(sockets) = self.sockets.as_ref().filter(|_| !found.is_empty()) else {
            return;
        };
        let sockets = Arc::clone(sockets);
        self.working = Some(Working::Destroy(spawn_blocking(move || {
            sockets.destroy(&found)
        })));
    }
}

fn warn_of_staying(why: &str) {
    warn!(
        "this kernel cannot find or destroy UDP sockets ({why}): one that stays connected keeps \
         its backend also when that is gone; resolvers that open a socket for each query are \
         not affected"
    );
}
