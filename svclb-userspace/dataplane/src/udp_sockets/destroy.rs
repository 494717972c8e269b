//! Destroying sockets in the namespaces where they were found.

use std::collections::HashMap;
use std::io;

use nix::errno::Errno;

use super::for_each_netns::{NetnsError, for_each_netns};
use super::inet_diag;
use super::namespace_id::NamespaceId;
use super::netns_paths::NetnsPaths;
use super::socket_id::Identity;
use super::udp_socket::UdpSocket;
use crate::netlink::Netlink;

/// What became of the sockets that were to be destroyed.
#[derive(Default, Debug)]
pub struct Destroyed {
    /// How many were destroyed.
    pub destroyed: usize,
    /// How many were gone already, some with their namespace. (Or are hidden behind a socket
    /// with the same addresses that was not to be destroyed.)
    pub gone: usize,
    /// Why others were not. EOPNOTSUPP: the kernel was built without
    /// CONFIG_INET_DIAG_DESTROY.
    pub failed: Vec<io::Error>,
}

pub(super) fn destroy(paths: &NetnsPaths, sockets: &[UdpSocket]) -> Destroyed {
    let mut result = Destroyed::default();
    if sockets.is_empty() {
        return result;
    }
    let mut by_namespace = HashMap::<NamespaceId, Vec<Identity>>::new();
    for socket in sockets {
        let list = by_namespace.entry(socket.namespace).or_default();
        list.push(socket.identity);
    }
    let mut entered = Vec::new();
    let entered_all = for_each_netns(
        paths,
        |id| by_namespace.contains_key(&id),
        |id| {
            let mut netlink = Netlink::sock_diag()?;
            entered.push(id);
            let wanted = by_namespace.get(&id).cloned().unwrap_or_default();
            destroy_here(&mut netlink, wanted, &mut result);
            Ok(())
        },
    );
    for id in entered {
        by_namespace.remove(&id);
    }
    // What is left is in namespaces that were not entered.
    match entered_all {
        Ok(failures) => {
            for (id, error) in failures {
                let left = id.and_then(|id| by_namespace.remove(&id));
                result.fail(&error, left.map_or(0, |left| left.len()));
            }
            result.gone += by_namespace.values().map(Vec::len).sum::<usize>();
        }
        Err(NetnsError::Thread(error) | NetnsError::Processes(error)) => {
            result.fail(&error, by_namespace.values().map(Vec::len).sum())
        }
    }
    result
}

impl Destroyed {
    /// The same failure for some sockets.
    fn fail(&mut self, error: &io::Error, sockets: usize) {
        let again = || match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        self.failed.extend((0..sockets).map(|_| again()));
    }
}

/// Destroys sockets in the namespace of `netlink`.
///
/// Sockets may share addresses (SO_REUSEPORT), and the kernel finds one of them only; when
/// that one is destroyed it finds the next. So those that were not found are tried again
/// while that gets anywhere.
fn destroy_here(netlink: &mut Netlink, mut wanted: Vec<Identity>, result: &mut Destroyed) {
    loop {
        let before = result.destroyed;
        let mut unfound = Vec::new();
        for socket in wanted {
            match inet_diag::destroy(netlink, &socket) {
                Ok(()) => result.destroyed += 1,
                Err(error) if is_unfound(&error) => unfound.push(socket),
                Err(error) => result.failed.push(error),
            }
        }
        if result.destroyed == before || unfound.is_empty() {
            result.gone += unfound.len();
            return;
        }
        wanted = unfound;
    }
}

/// Whether no socket, or another one, has the addresses.
fn is_unfound(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(code, Some(Errno::ENOENT | Errno::ESTALE))
}
