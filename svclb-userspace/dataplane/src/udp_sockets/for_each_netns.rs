//! Work inside each network namespace of this node.

use std::{io, panic, thread};

use nix::sched::{CloneFlags, setns};

use super::namespace_id::NamespaceId;
use super::netns_paths::NetnsPaths;

/// What failed, and in which namespace; `None` stands for the processes whose namespace cannot be
/// opened.
pub(super) type Failures = Vec<(Option<NamespaceId>, io::Error)>;

/// No namespace could be entered.
pub(super) enum NetnsError {
    /// No thread could be started.
    Thread(io::Error),
    /// The processes cannot be listed.
    Processes(io::Error),
}

/// Runs `work` inside every wanted namespace, one after the other, in a thread that ends
/// with it: a namespace belongs to a thread, and the caller's must not change.
pub(super) fn for_each_netns(
    paths: &NetnsPaths,
    wanted: impl Fn(NamespaceId) -> bool + Send,
    mut work: impl FnMut(NamespaceId) -> io::Result<()> + Send,
) -> Result<Failures, NetnsError> {
    let walk = move || {
        let mut failures = Failures::new();
        let unseen = paths.each(|id, file| {
            if wanted(id) {
                let done = setns(file, CloneFlags::CLONE_NEWNET)
                    .map_err(io::Error::from)
                    .and_then(|()| work(id));
                failures.extend(done.err().map(|error| (Some(id), error)));
            }
        })?;
        failures.extend(unseen.map(|error| (None, error)));
        Ok(failures)
    };
    thread::scope(|scope| {
        thread::Builder::new()
            .name("svclb-netns".to_owned())
            .spawn_scoped(scope, walk)
            .map_err(NetnsError::Thread)?
            .join()
            .unwrap_or_else(|reason| panic::resume_unwind(reason))
            .map_err(NetnsError::Processes)
    })
}
