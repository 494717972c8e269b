//! Reading and rewriting over a plain buffer, against an independent implementation (`etherparse`)
//! and against the definitions of RFC 1071.
#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails, so that the line shows"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpHeaders, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket};
use etherparse::{TransportSlice, icmpv4, icmpv6};
use proptest::prelude::*;
use svclb_common::{Addr16, PortBe, Tuple};
use svclb_packet::buffer::Buffer;
use svclb_packet::checksum;
use svclb_packet::parse::{Kind, Packet, Part, parse};
use svclb_packet::reject::{self, Reject};
use svclb_packet::rewrite::{decrement_hop_limit, rewrite};

const HEADROOM: usize = 64;
const LINK: usize = 14;

/// A frame of TCP or UDP, sound in all its checksums.
#[derive(Clone, Debug)]
struct Sample {
    tuple: Tuple,
    is_tcp: bool,
    hop_limit: u8,
    flags: u8,
    data: Vec<u8>,
}

impl Sample {
    fn bytes(&self) -> Vec<u8> {
        let (src, dst) = (self.tuple.src.to_ip(), self.tuple.dst.to_ip());
        let ip = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => IpHeaders::Ipv4(
                Ipv4Header::new(0, self.hop_limit, 0.into(), src.octets(), dst.octets()).unwrap(),
                Default::default(),
            ),
            (IpAddr::V6(src), IpAddr::V6(dst)) => IpHeaders::Ipv6(
                Ipv6Header {
                    source: src.octets(),
                    destination: dst.octets(),
                    hop_limit: self.hop_limit,
                    ..Default::default()
                },
                Default::default(),
            ),
            families => panic!("{families:?}"),
        };
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ip(ip);
        let (from, to) = (self.tuple.src_port.get(), self.tuple.dst_port.get());
        let mut bytes = Vec::new();
        if self.is_tcp {
            let mut tcp = builder.tcp(from, to, 77, 1000);
            tcp = if self.flags & 1 != 0 { tcp.fin() } else { tcp };
            tcp = if self.flags & 2 != 0 { tcp.syn() } else { tcp };
            tcp = if self.flags & 4 != 0 { tcp.rst() } else { tcp };
            tcp = if self.flags & 16 != 0 {
                tcp.ack(4242)
            } else {
                tcp
            };
            tcp.write(&mut bytes, &self.data).unwrap();
        } else {
            builder.udp(from, to).write(&mut bytes, &self.data).unwrap();
        }
        bytes
    }
}

fn v4() -> impl Strategy<Value = Addr16> {
    // No loopback and no "this network", which parsing leaves to the kernel.
    (1_u8..=223, any::<[u8; 3]>())
        .prop_filter("loopback", |(a, _)| *a != 127)
        .prop_map(|(a, [b, c, d])| Addr16::from_ip(Ipv4Addr::new(a, b, c, d).into()))
}

fn v6() -> impl Strategy<Value = Addr16> {
    any::<[u8; 15]>().prop_map(|rest| {
        let mut octets = [0x20; 16];
        octets[1..].copy_from_slice(&rest);
        Addr16::from_ip(Ipv6Addr::from(octets).into())
    })
}

fn tuples() -> impl Strategy<Value = (Tuple, Tuple)> {
    let ports = || [1_u16.., 1.., 1.., 1..];
    let tuple = |src, dst, src_port, dst_port| Tuple {
        src,
        dst,
        src_port: PortBe::new(src_port),
        dst_port: PortBe::new(dst_port),
    };
    let addresses = prop_oneof![
        [v4(), v4(), v4(), v4()].prop_map(|a| a),
        [v6(), v6(), v6(), v6()].prop_map(|a| a)
    ];
    (addresses, ports())
        .prop_map(move |([a, b, c, d], [e, f, g, h])| (tuple(a, b, e, f), tuple(c, d, g, h)))
}

/// A frame, and the tuple that it is to get.
fn samples() -> impl Strategy<Value = (Sample, Tuple)> {
    let data = proptest::collection::vec(any::<u8>(), 0..80);
    (tuples(), any::<bool>(), 2_u8.., any::<u8>(), data).prop_map(
        |((tuple, to), is_tcp, hop_limit, flags, data)| {
            let sample = Sample {
                tuple,
                is_tcp,
                hop_limit,
                flags,
                data,
            };
            (sample, to)
        },
    )
}

/// Does something with a frame, and returns what is left in its place.
fn with<const XDP: bool, T>(
    bytes: &[u8],
    work: impl FnOnce(&Buffer<'_, XDP>) -> T,
) -> (T, Vec<u8>) {
    let mut whole = vec![0; HEADROOM];
    whole.extend_from_slice(bytes);
    let frame = Buffer::new(&mut whole, HEADROOM);
    let result = work(&frame);
    let range = frame.range();
    (result, whole[range].to_vec())
}

fn parsed<const XDP: bool>(bytes: &[u8]) -> (Kind, Packet) {
    let mut packet = Packet::EMPTY;
    let (kind, _) = with::<XDP, _>(bytes, |frame| parse(frame, &mut packet));
    (kind, packet)
}

/// Panics unless all checksums of a frame are those of what it holds.
fn assert_sound(bytes: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    let transport = sliced.transport.as_ref().unwrap();
    match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let own = header.to_header().calc_header_checksum();
            assert_eq!(own, header.header_checksum(), "IPv4 header");
            let (from, to) = (header.source(), header.destination());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    assert_eq!(tcp.calc_checksum_ipv4(from, to).unwrap(), tcp.checksum());
                }
                TransportSlice::Udp(udp) => {
                    let header = udp.to_header();
                    let sum = header.calc_checksum_ipv4_raw(from, to, udp.payload());
                    assert_eq!(sum.unwrap(), header.checksum);
                }
                TransportSlice::Icmpv4(icmp) => {
                    let sum = icmp.icmp_type().calc_checksum(icmp.payload());
                    assert_eq!(sum, icmp.checksum());
                }
                other => panic!("{other:?}"),
            }
        }
        NetSlice::Ipv6(ip) => {
            let (from, to) = (ip.header().source(), ip.header().destination());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    assert_eq!(tcp.calc_checksum_ipv6(from, to).unwrap(), tcp.checksum());
                }
                TransportSlice::Udp(udp) => {
                    let header = udp.to_header();
                    let sum = header.calc_checksum_ipv6_raw(from, to, udp.payload());
                    assert_eq!(sum.unwrap(), header.checksum);
                }
                TransportSlice::Icmpv6(icmp) => {
                    let sum = icmp.icmp_type().calc_checksum(from, to, icmp.payload());
                    assert_eq!(sum.unwrap(), icmp.checksum());
                }
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn headers_are_read_as_they_were_written_in_xdp_and_in_tc((sample, _) in samples()) {
        let bytes = sample.bytes();
        for (kind, packet) in [parsed::<true>(&bytes), parsed::<false>(&bytes)] {
            prop_assert_eq!(kind, Kind::Packet);
            prop_assert_eq!(packet.tuple, sample.tuple);
            prop_assert_eq!(packet.is_tcp(), sample.is_tcp);
            prop_assert_eq!(packet.hop_limit, sample.hop_limit);
            prop_assert_eq!(packet.part, Part::Whole);
            prop_assert_eq!(packet.length as usize, bytes.len() - LINK);
            prop_assert_eq!(packet.tcp.rst(), sample.is_tcp && sample.flags & 4 != 0);
        }
    }

    #[test]
    fn a_rewritten_frame_is_the_frame_that_a_sender_of_the_new_tuple_would_make(
        (sample, to) in samples()
    ) {
        let bytes = sample.bytes();
        let (_, packet) = parsed::<false>(&bytes);
        let (written, left) = with::<true, _>(&bytes, |frame| {
            decrement_hop_limit(frame, packet.is_v4, packet.hop_limit)?;
            rewrite(frame, &packet, &to)
        });
        prop_assert_eq!(written, Some(()));
        let hop_limit = sample.hop_limit - 1;
        let expected = Sample { tuple: to, hop_limit, ..sample.clone() };
        prop_assert_eq!(&left, &expected.bytes());
        assert_sound(&left);
        // And back again.
        let (_, packet) = parsed::<false>(&left);
        let (_, back) = with::<true, _>(&left, |frame| rewrite(frame, &packet, &sample.tuple));
        let original = Sample { hop_limit, ..sample };
        prop_assert_eq!(back, original.bytes());
    }

    #[test]
    fn the_sum_of_a_whole_packet_stays_right_for_fragments_too(
        (sample, to) in samples(), part in 0..3_u8
    ) {
        let mut bytes = sample.bytes();
        // The kernel sums what follows the link header, here an even number of bytes.
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        match part {
            0 => {}
            1 => into_fragment(&mut bytes, 1),
            _ => into_fragment(&mut bytes, 8 << 3),
        }
        let (kind, mut packet) = parsed::<false>(&bytes);
        prop_assert_eq!(kind == Kind::LaterFragment, part == 2);
        if part == 2 {
            // As of the first fragment.
            let ports = [sample.tuple.src_port, sample.tuple.dst_port];
            prop_assert!(packet.set_ports(ports.map(PortBe::bits)).is_some());
        }
        let (change, left) = with::<false, _>(&bytes, |frame| {
            decrement_hop_limit(frame, packet.is_v4, packet.hop_limit)?;
            rewrite(frame, &packet, &to)?;
            Some(frame.sum_change())
        });
        let sum = checksum::apply(!sum_of(&bytes), change.unwrap());
        // Both ways to write zero are one.
        prop_assert_eq!(!sum % 0xffff, sum_of(&left) % 0xffff);
    }

    #[test]
    fn a_udp_datagram_of_ipv4_without_a_checksum_stays_without_one(
        (sample, to) in samples().prop_filter("UDP over IPv4", |(sample, _)| {
            !sample.is_tcp && sample.tuple.src.is_v4()
        })
    ) {
        let mut bytes = sample.bytes();
        bytes[40..42].fill(0);
        let (_, packet) = parsed::<false>(&bytes);
        let (_, left) = with::<true, _>(&bytes, |frame| rewrite(frame, &packet, &to));
        prop_assert_eq!(&left[40..42], [0, 0]);
    }

    #[test]
    fn a_reject_is_sound_goes_back_and_carries_what_its_receiver_looks_for(
        (sample, _) in samples(), which in 0..3_u8, mtu in 68_u32..65_536
    ) {
        let bytes = sample.bytes();
        let (_, packet) = parsed::<false>(&bytes);
        let reject = [Reject::Unserved, Reject::HopLimit, Reject::TooBig(mtu)][usize::from(which)];
        let (link, left) = with::<false, _>(&bytes, |frame| reject::write(frame, &packet, reject));
        if reject == Reject::Unserved && packet.tcp.rst() {
            // Nothing is sent in reply to a reset.
            prop_assert_eq!(link, None);
            return Ok(());
        }
        prop_assert_eq!(link, Some([2_u8, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1].map(|n| 3 - n)));
        assert_sound(&left);
        let sliced = SlicedPacket::from_ethernet(&left).unwrap();
        let (from, to) = match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => (
                IpAddr::from(ip.header().source_addr()),
                IpAddr::from(ip.header().destination_addr()),
            ),
            NetSlice::Ipv6(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(from, sample.tuple.dst.to_ip());
        prop_assert_eq!(to, sample.tuple.src.to_ip());
        let carried = match sliced.transport.unwrap() {
            TransportSlice::Tcp(tcp) => {
                prop_assert_eq!(reject, Reject::Unserved);
                prop_assert!(tcp.rst());
                prop_assert_eq!(tcp.source_port(), sample.tuple.dst_port.get());
                prop_assert_eq!(tcp.destination_port(), sample.tuple.src_port.get());
                if sample.flags & 16 != 0 {
                    prop_assert_eq!((tcp.sequence_number(), tcp.ack()), (4242, false));
                } else {
                    let counted = (sample.flags & 1) + (sample.flags >> 1 & 1);
                    let next = 77 + sample.data.len() as u32 + u32::from(counted);
                    prop_assert_eq!((tcp.acknowledgment_number(), tcp.ack()), (next, true));
                }
                return Ok(());
            }
            TransportSlice::Icmpv4(icmp) => {
                use etherparse::Icmpv4Type::{DestinationUnreachable, TimeExceeded};
                let expected = match reject {
                    Reject::Unserved => DestinationUnreachable(icmpv4::DestUnreachableHeader::Port),
                    Reject::HopLimit => {
                        TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)
                    }
                    Reject::TooBig(mtu) => {
                        let next_hop_mtu = mtu as u16;
                        DestinationUnreachable(
                            icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
                        )
                    }
                };
                prop_assert_eq!(icmp.icmp_type(), expected);
                icmp.payload().to_vec()
            }
            TransportSlice::Icmpv6(icmp) => {
                use etherparse::Icmpv6Type::{DestinationUnreachable, PacketTooBig, TimeExceeded};
                let expected = match reject {
                    Reject::Unserved => DestinationUnreachable(icmpv6::DestUnreachableCode::Port),
                    Reject::HopLimit => TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
                    Reject::TooBig(mtu) => PacketTooBig { mtu },
                };
                prop_assert_eq!(icmp.icmp_type(), expected);
                icmp.payload().to_vec()
            }
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(&carried[..], &bytes[LINK..][..carried.len()]);
        // The ports are in it.
        let least = if packet.is_v4 { 28 } else { 48 };
        prop_assert!(carried.len() >= least);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic_and_alike(
        bytes in proptest::collection::vec(any::<u8>(), 0..128),
        kind in prop_oneof![Just([8_u8, 0]), Just([0x86, 0xdd]), any::<[u8; 2]>()],
        first in any::<u8>().prop_map(|n| [0x45, 0x60, n][usize::from(n) % 3]),
    ) {
        let mut bytes = bytes;
        if bytes.len() > LINK {
            bytes[12..14].copy_from_slice(&kind);
            bytes[LINK] = first;
        }
        let (by_xdp, xdp) = parsed::<true>(&bytes);
        let (by_tc, tc) = parsed::<false>(&bytes);
        if by_xdp == Kind::Packet {
            prop_assert_eq!(by_tc, Kind::Packet);
            prop_assert_eq!((xdp.tuple, xdp.length), (tc.tuple, tc.length));
        }
        // Whatever was read can be rewritten and rejected within the frame.
        if by_tc == Kind::Packet {
            let to = tc.tuple.reversed();
            let (_, left) = with::<false, _>(&bytes, |frame| rewrite(frame, &tc, &to));
            prop_assert_eq!(left.len(), bytes.len());
            for reject in [Reject::Unserved, Reject::HopLimit, Reject::TooBig(1280)] {
                with::<false, _>(&bytes, |frame| reject::write(frame, &tc, reject));
            }
        }
    }

    #[test]
    fn changes_add_up(old in any::<[u32; 2]>(), new in any::<[u32; 2]>(), field in any::<u16>()) {
        let together = checksum::change(old, new);
        let apart = checksum::add(
            checksum::change([old[0]], [new[0]]),
            checksum::change([old[1]], [new[1]]),
        );
        prop_assert_eq!(checksum::apply(field, together), checksum::apply(field, apart));
    }

    #[test]
    fn a_changed_field_is_the_field_of_what_it_covers_now(
        constant in 1_u32.., old in any::<[u32; 4]>(), new in any::<[u32; 4]>()
    ) {
        let of = |[a, b, c, d]: [u32; 4]| checksum::of([constant, a, b, c, d], 0);
        prop_assert_eq!(checksum::apply(of(old), checksum::change(old, new)), of(new));
    }
}

/// Makes a frame one fragment of a packet: with this offset and flag, in host order.
fn into_fragment(bytes: &mut Vec<u8>, field: u16) {
    if bytes[LINK] >> 4 == 4 {
        const FIELD: usize = LINK + 6;
        // The flag is the lowest bit in IPv6, and the third highest here, before the offset.
        let field = field >> 3 | (field & 1) << 13;
        bytes[FIELD..FIELD + 2].copy_from_slice(&field.to_be_bytes());
        bytes[LINK + 10..LINK + 12].fill(0);
        let own = !sum_of(&bytes[..LINK + 20]);
        bytes[LINK + 10..LINK + 12].copy_from_slice(&own.to_ne_bytes());
        return;
    }
    const HEADER: usize = 40;
    const FRAGMENT: u8 = 44;
    let length = u16::from_be_bytes([bytes[LINK + 4], bytes[LINK + 5]]) + 8;
    bytes[LINK + 4..LINK + 6].copy_from_slice(&length.to_be_bytes());
    let next = core::mem::replace(&mut bytes[LINK + 6], FRAGMENT);
    let [high, low] = field.to_be_bytes();
    let header = [next, 0, high, low, 0, 0, 0, 1];
    bytes.splice(LINK + HEADER..LINK + HEADER, header);
}

/// The sum of what follows the link header, as words in memory.
fn sum_of(bytes: &[u8]) -> u16 {
    let words = bytes[LINK..].chunks_exact(2);
    let words: Vec<_> = words
        .map(|word| u16::from_ne_bytes([word[0], word[1]]))
        .collect();
    !by_definition(&words)
}

/// The definition of RFC 1071: the ones' complement of the ones' complement sum of 16-bit words.
fn by_definition(words: &[u16]) -> u16 {
    let mut sum = 0_u16;
    for word in words {
        let (low, carry) = sum.overflowing_add(*word);
        sum = low + u16::from(carry);
    }
    !sum
}

#[test]
fn each_value_of_a_word_may_become_each_other_one() {
    // Exhaustive over the new word, and over old words that differ in what they carry. 0xffff covers
    // nothing but zeros, which no real header is (RFC 1624 section 3).
    const CONSTANT: u32 = 0x4500_0028;
    let halves = |word: u32| [word as u16, (word >> 16) as u16];
    for old in [0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff, 0xffff_0000, u32::MAX] {
        let before = checksum::of([CONSTANT, old], 0);
        for low in 0..=u16::MAX {
            for high in [0, 1, 0xfffe, 0xffff] {
                let new = u32::from(low) | high << 16;
                let after = checksum::apply(before, checksum::change([old], [new]));
                let [a, b] = halves(CONSTANT);
                let [c, d] = halves(new);
                assert_eq!(after, by_definition(&[a, b, c, d]), "{old:x} -> {new:x}");
            }
        }
    }
}

#[test]
fn no_udp_field_is_written_as_zero_and_none_is_made() {
    for field in 0..=u16::MAX {
        for change in [0, 1, 0xffff, u32::from(field), u32::from(!field), u32::MAX] {
            let udp = checksum::apply_transport(field, change, true);
            assert_eq!(udp == 0, field == 0);
            let tcp = checksum::apply_transport(field, change, false);
            assert!(udp == tcp || field == 0 || (udp, tcp) == (0xffff, 0));
        }
    }
}

#[test]
fn the_example_of_rfc_1071_section_3() {
    let words = [
        u32::from_ne_bytes([0, 1, 0xf2, 3]),
        u32::from_ne_bytes([0xf4, 0xf5, 0xf6, 0xf7]),
    ];
    assert_eq!(checksum::of(words, 0).to_ne_bytes(), [!0xdd, !0xf2]);
}
