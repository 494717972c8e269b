//! Fragments: only the first one of a datagram carries ports.

use etherparse::{IpFragOffset, Ipv4Header};

use super::frames::{Family, Frame, Transport};
use super::world::{self, HOOKS, PASS, World};

const LINK: usize = 14;
const HEADER: usize = 20;
/// How many bytes of the first fragment follow its network header.
const FIRST: usize = 16;

/// A packet of IPv4 as two fragments of the datagram `id`.
fn fragments(whole: &[u8], id: u16) -> [Vec<u8>; 2] {
    let (header, _) = Ipv4Header::from_slice(&whole[LINK..]).unwrap();
    let (first, later) = whole[LINK + HEADER..].split_at(FIRST);
    [(first, 0), (later, FIRST)].map(|(data, at)| {
        let mut header = header.clone();
        header.identification = id;
        header.dont_fragment = false;
        header.more_fragments = at == 0;
        header.fragment_offset = IpFragOffset::try_new(u16::try_from(at / 8).unwrap()).unwrap();
        header.set_payload_len(data.len()).unwrap();
        let mut bytes = whole[..LINK].to_vec();
        header.write(&mut bytes).unwrap();
        bytes.extend_from_slice(data);
        bytes
    })
}

#[test]
fn every_fragment_of_a_flow_is_translated_and_those_of_other_datagrams_do_not_change_that() {
    const ID: u16 = 7;
    /// Several times what the map holds.
    const OTHERS: u16 = 30_000;
    let family = Family::V4;
    let world = World::new();
    let request = Frame::new(family, Transport::Udp)
        .to(family.node(), world::NODE_PORT)
        .data(32);
    let [first, later] = fragments(&request.bytes(), ID);
    let ingress = HOOKS[1];
    let first = world.run(ingress, &first).frame;
    let inside = request.to(family.backend(), world::TARGET);
    let sent = fragments(&inside.by_port_of(&first).bytes(), ID);
    assert_eq!(first, sent[0]);
    let other = request.to(family.router(), 9).bytes();
    for id in 0..OTHERS {
        let [first, _] = fragments(&other, id);
        let run = world.run(ingress, &first);
        assert_eq!((run.verdict, run.frame), (PASS(ingress), first));
    }
    assert_eq!(world.run(ingress, &later).frame, sent[1]);
}
