//! The kernel's own conntrack, read by ctnetlink
//! (include/uapi/linux/netfilter/nfnetlink_conntrack.h).

use std::io;

use netlink_packet_core::{Emitable as _, Nla as _, ParseableParametrized as _};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Status,
    Tuple as TuplePart,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use svclb_common::{Addr16, FlowFlags, PortBe, Proto, Tuple};

use crate::netlink::Netlink;

/// `NFNL_SUBSYS_CTNETLINK`, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = SUBSYSTEM | 1;
const IPCTNL_MSG_CT_NEW: u8 = 0;

/// A flow to which the kernel gives another destination, or another source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Translated {
    /// TCP or UDP.
    pub(super) proto: Proto,
    /// Its packets as its client sends them.
    pub(super) original: Tuple,
    /// Its replies as its backend sends them.
    pub(super) reply: Tuple,
    /// What was seen of its client.
    pub(super) of_client: FlowFlags,
    /// What was seen of its backend.
    pub(super) of_reply: FlowFlags,
    /// Whether its destination is another one.
    pub(super) is_redirected: bool,
}

/// How many flows the kernel's conntrack of this network namespace has. None if it isn't there: then
/// nothing uses it, and asking for its flows would load it.
pub(super) fn count() -> usize {
    let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    let count = count.ok().and_then(|text| text.trim().parse().ok());
    count.unwrap_or(0)
}

/// Hands out the flows that the kernel gives another destination (`Status::DstNat`) or source
/// (`Status::SrcNat`), one by one. They change meanwhile: what is handed out was so at some moment.
///
/// # Errors
/// The system's error; where the kernel has no ctnetlink, or the caller may not use it, too; and the first
/// one of `each`, which is handed no more then.
pub(super) fn dump(
    status: Status,
    mut each: impl FnMut(&Translated) -> io::Result<()>,
) -> io::Result<()> {
    let mut netlink = Netlink::netfilter()?;
    let mut taken = Ok(());
    let listed = netlink.dump(IPCTNL_MSG_CT_GET, &request(status), |message| {
        if taken.is_ok()
            && let Some(flow) = parse(message)
        {
            taken = each(&flow);
        }
    });
    match listed {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => taken,
        Err(error) => Err(error),
        Ok(()) => taken,
    }
}

/// Asks for flows with a status. A kernel that does not know how to select hands out all.
fn request(status: Status) -> Vec<u8> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let status = ConntrackAttribute::CtaStatus(status);
    let message = NetfilterMessage::new(header, ConntrackMessage::Get(vec![status]));
    let mut request = vec![0; message.buffer_len()];
    message.emit(&mut request);
    request
}

/// The flow of a message, if it is of TCP or UDP and its destination or source is translated.
fn parse(message: &[u8]) -> Option<Translated> {
    const CTA_ZONE: u16 = 18;
    let (_header, attributes) = message.split_first_chunk::<4>()?;
    let parsed = ConntrackMessage::parse_with_param(attributes, IPCTNL_MSG_CT_NEW).ok()?;
    let ConntrackMessage::New(attributes) = parsed else {
        return None;
    };
    let (mut original, mut reply, mut state) = (None, None, TcpState::default());
    let mut status = Status::empty();
    for attribute in &attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = tuple(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = tuple(parts),
            ConntrackAttribute::CtaStatus(bits) => status = *bits,
            ConntrackAttribute::CtaProtoInfo(parts) => state = TcpState::of(parts),
            // Of a network of its own, whose addresses may be the node's, too.
            ConntrackAttribute::Other(other) if other.kind() == CTA_ZONE => return None,
            _ => {}
        }
    }
    let ((proto, original), (_, reply)) = (original?, reply?);
    let is_redirected = status.contains(Status::DstNat);
    let is_translated = is_redirected || status.contains(Status::SrcNat);
    if !is_translated || status.contains(Status::Dying) {
        return None;
    }
    let (of_client, of_reply) = if proto == Proto::UDP {
        seen_of_udp(status)
    } else {
        state.seen()
    };
    Some(Translated {
        proto,
        original,
        reply,
        of_client,
        of_reply,
        is_redirected,
    })
}

/// A tuple of TCP or UDP.
fn tuple(parts: &[TuplePart]) -> Option<(Proto, Tuple)> {
    let (mut src, mut dst) = (None, None);
    let (mut proto, mut src_port, mut dst_port) = (None, None, None);
    for part in parts {
        match part {
            TuplePart::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(ip) => src = Some(Addr16::from_ip(*ip)),
                        IPTuple::DestinationAddress(ip) => dst = Some(Addr16::from_ip(*ip)),
                        _ => {}
                    }
                }
            }
            TuplePart::Proto(numbers) => {
                for number in numbers {
                    match number {
                        ProtoTuple::Protocol(number) => proto = Some(u8::from(*number)),
                        ProtoTuple::SourcePort(port) => src_port = Some(PortBe::new(*port)),
                        ProtoTuple::DestinationPort(port) => dst_port = Some(PortBe::new(*port)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let proto = [Proto::TCP, Proto::UDP]
        .into_iter()
        .find(|known| Some(known.number()) == proto)?;
    let tuple = Tuple {
        src: src?,
        dst: dst?,
        src_port: src_port?,
        dst_port: dst_port?,
    };
    Some((proto, tuple))
}

/// What was seen of a UDP flow: a reply at all, and whether it goes on for longer.
const fn seen_of_udp(status: Status) -> (FlowFlags, FlowFlags) {
    let of_client = if status.contains(Status::Assured) {
        FlowFlags::SEEN.union(FlowFlags::STREAM)
    } else {
        FlowFlags::SEEN
    };
    let of_reply = if status.contains(Status::SeenReply) {
        FlowFlags::SEEN
    } else {
        FlowFlags::NONE
    };
    (of_client, of_reply)
}

/// `enum tcp_conntrack`, and which side ended the connection first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct TcpState {
    state: u8,
    client_ended: bool,
    backend_ended: bool,
}

impl TcpState {
    fn of(parts: &[ProtoInfo]) -> Self {
        const IP_CT_TCP_FLAG_CLOSE_INIT: u8 = 4;
        let mut state = Self::default();
        for part in parts {
            let ProtoInfo::TCP(facts) = part else {
                continue;
            };
            for fact in facts {
                match fact {
                    ProtoInfoTCP::State(number) => state.state = *number,
                    ProtoInfoTCP::OriginalFlags(bits) => {
                        state.client_ended = bits.flags & IP_CT_TCP_FLAG_CLOSE_INIT != 0;
                    }
                    ProtoInfoTCP::ReplyFlags(bits) => {
                        state.backend_ended = bits.flags & IP_CT_TCP_FLAG_CLOSE_INIT != 0;
                    }
                    _ => {}
                }
            }
        }
        state
    }

    /// What was seen of client and backend.
    const fn seen(self) -> (FlowFlags, FlowFlags) {
        const SYN_RECV: u8 = 2;
        const ESTABLISHED: u8 = 3;
        const FIN_WAIT: u8 = 4;
        const CLOSE_WAIT: u8 = 5;
        const LAST_ACK: u8 = 6;
        const TIME_WAIT: u8 = 7;
        const CLOSE: u8 = 8;
        const SEEN: FlowFlags = FlowFlags::SEEN;
        const ENDED: FlowFlags = SEEN.union(FlowFlags::FIN);
        match self.state {
            SYN_RECV => (FlowFlags::NONE, SEEN),
            ESTABLISHED => (SEEN, SEEN),
            FIN_WAIT | CLOSE_WAIT => (
                if self.client_ended { ENDED } else { SEEN },
                if self.backend_ended { ENDED } else { SEEN },
            ),
            LAST_ACK | TIME_WAIT => (ENDED, ENDED),
            CLOSE => (SEEN.union(FlowFlags::RST), SEEN),
            _ => (FlowFlags::NONE, FlowFlags::NONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux 6.18 sent of a connection of 192.0.2.1:40000 to 203.0.113.10:80 that was given the
    /// backend 10.244.2.2:8080, and of a datagram from port 40001 there.
    const TCP: &str = "02000000\
        340001801400018008000100c000020108000200cb00710a\
        1c0002800500010006000000060002009c400000060003000050\
        0000\
        3400028014000180080001000af4020208000200c0000201\
        1c0002800500010006000000060002001f900000060003009c400000\
        08000300000001ae\
        080008000000000008000c0002beeb0908000b0000000001\
        0800070000069780\
        300004802c0001800500010003000000050002000a000000050003000a000000\
        06000400230000000600050023000000";
    const UDP: &str = "02000000\
        340001801400018008000100c000020108000200cb00710a\
        1c0002800500010011000000060002009c4100000600030000500000\
        3400028014000180080001000af4020208000200c0000201\
        1c0002800500010011000000060002001f900000060003009c410000\
        08000300000001a8\
        080008000000000008000c0051ea8bb108000b0000000001\
        080007000000001d";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex
            .chars()
            .map(|digit| digit.to_digit(16).unwrap())
            .collect();
        let pairs = digits.chunks(2);
        pairs
            .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
            .collect()
    }

    fn tuple_of(src: &str, dst: &str) -> Tuple {
        let [src, dst] = [src, dst].map(|at| at.parse::<std::net::SocketAddr>().unwrap());
        Tuple {
            src: Addr16::from_ip(src.ip()),
            dst: Addr16::from_ip(dst.ip()),
            src_port: PortBe::new(src.port()),
            dst_port: PortBe::new(dst.port()),
        }
    }

    /// The same message with other bytes in the place of some.
    fn with(message: &[u8], old: &str, new: &str) -> Vec<u8> {
        let (old, new) = (bytes(old), bytes(new));
        let at = message.windows(old.len()).position(|window| window == old);
        let at = at.expect("the message has the bytes");
        [&message[..at], &new, &message[at + old.len()..]].concat()
    }

    #[test]
    fn a_connection_has_both_tuples_and_what_was_seen_of_it() {
        let flow = parse(&bytes(TCP)).unwrap();
        assert_eq!(
            flow,
            Translated {
                proto: Proto::TCP,
                original: tuple_of("192.0.2.1:40000", "203.0.113.10:80"),
                reply: tuple_of("10.244.2.2:8080", "192.0.2.1:40000"),
                of_client: FlowFlags::SEEN,
                of_reply: FlowFlags::SEEN,
                is_redirected: true,
            }
        );
        let masqueraded = parse(&with(&bytes(TCP), "000001ae", "0000019e")).unwrap();
        assert!(!masqueraded.is_redirected);
    }

    #[test]
    fn a_datagram_without_a_reply_is_a_flow() {
        let flow = parse(&bytes(UDP)).unwrap();
        assert_eq!(
            (flow.proto, flow.original.src_port.get()),
            (Proto::UDP, 40_001)
        );
        assert_eq!(
            (flow.of_client, flow.of_reply),
            (FlowFlags::SEEN, FlowFlags::NONE)
        );
        // A reply, and one for longer.
        let answered = parse(&with(&bytes(UDP), "000001a8", "000001aa")).unwrap();
        assert_eq!(
            (answered.of_client, answered.of_reply),
            (FlowFlags::SEEN, FlowFlags::SEEN)
        );
        let stream = parse(&with(&bytes(UDP), "000001a8", "000001ae")).unwrap();
        assert!(stream.of_client.contains(FlowFlags::STREAM));
    }

    #[test]
    fn what_was_seen_of_a_connection_follows_from_its_state() {
        let seen = |state: &str, of_client: &str| {
            let message = with(
                &bytes(TCP),
                "0500010003000000",
                &format!("05000100{state}000000"),
            );
            let message = with(
                &message,
                "0600040023000000",
                &format!("06000400{of_client}230000"),
            );
            let flow = parse(&message).unwrap();
            (flow.of_client, flow.of_reply)
        };
        let (none, both) = (FlowFlags::NONE, FlowFlags::SEEN);
        let ended = both.union(FlowFlags::FIN);
        assert_eq!(seen("01", "03"), (none, none));
        assert_eq!(seen("02", "03"), (none, both));
        assert_eq!(seen("04", "07"), (ended, both));
        assert_eq!(seen("05", "03"), (both, both));
        assert_eq!(seen("07", "07"), (ended, ended));
        assert!(seen("08", "03").0.contains(FlowFlags::RST));
    }

    #[test]
    fn what_the_kernel_does_not_translate_or_is_about_to_forget_is_passed_over() {
        for status in ["0000018e", "000003ae"] {
            assert_eq!(parse(&with(&bytes(TCP), "000001ae", status)), None);
        }
        // ICMP, and a network of its own.
        assert_eq!(
            parse(&with(&bytes(TCP), "0500010006000000", "0500010001000000")),
            None
        );
        let zone = [bytes(TCP), bytes("0600120000070000")].concat();
        assert_eq!(parse(&zone), None);
    }

    #[test]
    fn a_cut_message_is_passed_over_and_never_a_panic() {
        let whole = bytes(TCP);
        for length in 0..whole.len() {
            let _flow = parse(&whole[..length]);
        }
        for fill in [0, 1, 0x7f, 0xff] {
            assert_eq!(parse(&[fill; 64]), None);
        }
    }

    #[test]
    fn flows_with_another_destination_are_asked_for() {
        assert_eq!(request(Status::DstNat), bytes("000000000800030000000020"));
    }
}
