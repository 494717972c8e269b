//! A netlink socket (netlink(7)) of the network namespace in which it is opened.

mod nlmsg;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use self::nlmsg::{Reply, malformed, request};

/// The kernel replies at once; this is for a kernel that does not.
const TIMEOUT_SECONDS: i64 = 5;
/// A list comes in pieces of at most 32 KiB, except where one socket alone needs more.
const BUFFER: usize = 128 << 10;

/// An open socket.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// One for sock_diag(7).
    pub(crate) fn sock_diag() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkSockDiag)
    }

    /// One for rtnetlink(7).
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// One for nf_tables.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        let timeout = TimeVal::seconds(TIMEOUT_SECONDS);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        // Connected to the kernel, so that no process in the namespace can reply for it.
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Requests a list and hands out the payload of each of its messages. The error is
    /// `Interrupted` where the list changed meanwhile: what was handed out is then void.
    pub(crate) fn dump(
        &mut self,
        kind: u16,
        payload: &[u8],
        each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.send(kind, NLM_F_DUMP, payload)?;
        self.receive(each)
    }

    /// Sends a command and waits for its acknowledgement.
    pub(crate) fn command(&mut self, kind: u16, payload: &[u8]) -> io::Result<()> {
        self.get(kind, payload, |_| {})
    }

    /// Requests one object and hands out the payload of each message before the acknowledgement.
    pub(crate) fn get(
        &mut self,
        kind: u16,
        payload: &[u8],
        each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.send(kind, NLM_F_ACK, payload)?;
        self.receive(each)
    }

    fn send(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = request(kind, NLM_F_REQUEST | flags, self.sequence, payload)?;
        // A netlink socket takes a message whole or not at all.
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Reads until the reply's end.
    fn receive(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut reply = Reply::new(self.sequence);
        loop {
            let datagram = self.receive_datagram()?;
            if reply.read(datagram, &mut each)? {
                return Ok(());
            }
        }
    }

    fn receive_datagram(&mut self) -> io::Result<&[u8]> {
        let len = loop {
            // With this flag the length is the datagram's own, also where it was cut.
            match recv(
                self.socket.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_TRUNC,
            ) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("the kernel did not reply for {TIMEOUT_SECONDS} seconds"),
                    ));
                }
                other => break other?,
            }
        };
        self.buffer
            .get(..len)
            .ok_or_else(|| malformed("a reply of the kernel is too long"))
    }
}
