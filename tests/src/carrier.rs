//! The process behind a node's `tun0`: it carries packets to and from those of other nodes, each in
//! a UDP datagram.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result};

use crate::peer::peer_binary;
use crate::tun::{TunKind, open_tun};
use crate::uplink::uplink_v4;

/// The port of Flannel's `udp` backend.
const PORT: u16 = 8285;
/// More than any packet of the tunnel.
const SPACE: usize = 4096;
/// The node that gets what is for no pod.
const HUB: u8 = 1;

/// A carrier that runs. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Carrier {
    child: Child,
}

impl Carrier {
    /// Starts it in the namespace and a cgroup of its node.
    pub(crate) fn start(netns: &Path, cgroup: &Path) -> Result<Self> {
        let binary = peer_binary()?;
        let child = Command::new(&binary)
            .arg("--netns")
            .arg(netns)
            .arg("--cgroup")
            .arg(cgroup)
            .arg("carry")
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        Ok(Self { child })
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Carries packets in the namespace of the calling thread until it is killed.
///
/// # Errors
/// If there is no `tun0`, or its port is taken.
pub fn carry() -> Result<()> {
    let tun = open_tun("tun0", TunKind::Tun)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("cannot bind")?;
    let (into, from) = (tun.try_clone()?, socket.try_clone()?);
    thread::spawn(move || unwrap(&from, into));
    wrap(tun, &socket)
}

fn wrap(mut tun: File, socket: &UdpSocket) -> Result<()> {
    let mut space = [0; SPACE];
    loop {
        let length = tun.read(&mut space).context("tun0 is gone")?;
        let packet = space.get(..length).unwrap_or_default();
        if let Some(node) = destination(packet) {
            // A node that is not there refuses.
            drop(socket.send_to(packet, (uplink_v4(node), PORT)));
        }
    }
}

fn unwrap(socket: &UdpSocket, mut tun: File) {
    let mut space = [0; SPACE];
    loop {
        // An error here is another node's refusal of an earlier packet.
        if let Ok(length) = socket.recv(&mut space) {
            // What the kernel takes for no packet is lost, as on a wire.
            drop(tun.write(space.get(..length).unwrap_or_default()));
        }
    }
}

/// The node to which a packet goes; none for multicast.
fn destination(packet: &[u8]) -> Option<u8> {
    match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4Addr::from(*packet.get(16..)?.first_chunk()?);
            match ip.octets() {
                [10, 244, node, _] => Some(node),
                _ => (!ip.is_multicast()).then_some(HUB),
            }
        }
        _ => {
            let ip = Ipv6Addr::from(*packet.get(24..)?.first_chunk()?);
            match ip.segments() {
                // Its hexadecimal digits are the number's decimal ones.
                [0xfd00, 0x10, 0x244, node, ..] => format!("{node:x}").parse().ok(),
                _ => (!ip.is_multicast()).then_some(HUB),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_go_to_the_node_of_their_pod_and_others_to_the_first() {
        let v4 = |to: [u8; 4]| {
            let mut packet = [0; 20];
            packet[0] = 0x45;
            packet[16..].copy_from_slice(&to);
            destination(&packet)
        };
        assert_eq!(v4([10, 244, 12, 10]), Some(12));
        assert_eq!(v4([203, 0, 113, 10]), Some(HUB));
        assert_eq!(v4([224, 0, 0, 22]), None);
        let v6 = |to: &str| {
            let mut packet = [0; 40];
            packet[0] = 0x60;
            packet[24..].copy_from_slice(&to.parse::<Ipv6Addr>().unwrap().octets());
            destination(&packet)
        };
        assert_eq!(v6("fd00:10:244:12::10"), Some(12));
        assert_eq!(v6("fd00:203:0:113::10"), Some(HUB));
        assert_eq!(v6("ff02::2"), None);
        assert_eq!(destination(&[]), None);
        assert_eq!(destination(&[0x45]), None);
    }
}
