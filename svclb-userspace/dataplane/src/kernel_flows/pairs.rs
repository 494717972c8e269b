//! Which entries of `FLOWS` have a flow of the kernel's left alone.

use svclb_common::{BackendId, FlowFlags, FlowKey, FlowValue, Hook, PortBe, Tuple};

use super::ctnetlink::Translated;

/// The two directions of a pair, each with its key.
pub(super) type Pair = [(FlowKey, FlowValue); 2];

/// The pairs of a flow. The first one is of its packets at our hooks, both ways: from the client as they
/// come in, before netfilter gives them the backend's address; and back as they leave, after netfilter
/// gave them the frontend's.
///
/// The others keep our own flows off the addresses that the backend sees:
/// * where its replies come in at one of the ports that the programs look at (`looks_at`): a reply would
///   be taken for a client's packet, and a flow of ours could be given that port;
/// * where the backend sees the client itself, by a port that a flow of ours may be given.
///
/// `backend` is its id, or zero for a flow that may stay with whatever the kernel gave it.
pub(super) fn pairs(
    flow: &Translated,
    backend: BackendId,
    now_ns: u64,
    looks_at: impl Fn(PortBe) -> bool,
) -> Vec<Pair> {
    let (original, leaves) = (flow.original, flow.reply.reversed());
    // Flows of ours are given no port above those (ADR 7).
    const GIVEN: u16 = 30_000;
    let keeps_client = (leaves.src, leaves.src_port) == (original.src, original.src_port)
        && leaves.src_port.get() < GIVEN;
    let first = pair(flow, original, Hook::INGRESS, backend, now_ns);
    let is_looked_at = looks_at(flow.reply.dst_port);
    let none = BackendId::new(0);
    let replies = is_looked_at.then(|| pair(flow, leaves, Hook::EGRESS, none, now_ns));
    let kept = keeps_client.then(|| pair(flow, leaves, Hook::INGRESS, none, now_ns));
    [Some(first), replies, kept].into_iter().flatten().collect()
}

/// The pair of a flow that does not go through a frontend, and whose replies could be mistaken: as it leaves,
/// and back as its replies come in.
pub(super) fn replies(flow: &Translated, now_ns: u64) -> Pair {
    let leaves = flow.reply.reversed();
    pair(flow, leaves, Hook::EGRESS, BackendId::new(0), now_ns)
}

/// A pair that leaves packets as they are: `tuple` as they come from the client at a hook, and turned round
/// at the other hook.
fn pair(flow: &Translated, tuple: Tuple, hook: Hook, backend: BackendId, now_ns: u64) -> Pair {
    let (other_hook, flag_of_client, flag_of_reply) = match hook {
        Hook::EGRESS => (Hook::INGRESS, FlowFlags::NONE, FlowFlags::OTHER_AT_EGRESS),
        _ => (Hook::EGRESS, FlowFlags::OTHER_AT_EGRESS, FlowFlags::NONE),
    };
    let own = FlowFlags::OWN;
    let value = |tuple, flags: FlowFlags| FlowValue {
        tuple,
        flags: flags.union(own),
        backend,
        last_seen_ns: now_ns,
        ..FlowValue::default()
    };
    let of_client = flow.of_client.union(flag_of_client);
    let of_reply = flow.of_reply.union(flag_of_reply);
    let reply = tuple.reversed();
    [
        (
            FlowKey::new(tuple, flow.proto, hook),
            value(tuple, of_client.union(FlowFlags::FROM_CLIENT)),
        ),
        (
            FlowKey::new(reply, flow.proto, other_hook),
            value(reply, of_reply),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::SocketAddr;

    use svclb_common::{Addr16, Proto};

    use super::*;

    const CLIENT: &str = "198.51.100.1:20000";
    const FRONTEND: &str = "203.0.113.10:80";
    const BACKEND: &str = "10.244.2.2:8080";
    const NODE: &str = "192.0.2.1:50123";

    fn tuple(src: &str, dst: &str) -> Tuple {
        let [src, dst] = [src, dst].map(|at| at.parse::<SocketAddr>().unwrap());
        Tuple {
            src: Addr16::from_ip(src.ip()),
            dst: Addr16::from_ip(dst.ip()),
            src_port: PortBe::new(src.port()),
            dst_port: PortBe::new(dst.port()),
        }
    }

    fn flow(seen_as: &str) -> Translated {
        Translated {
            proto: Proto::TCP,
            original: tuple(CLIENT, FRONTEND),
            reply: tuple(BACKEND, seen_as),
            of_client: FlowFlags::SEEN,
            of_reply: FlowFlags::SEEN.union(FlowFlags::FIN),
            is_redirected: true,
        }
    }

    fn entries(seen_as: &str) -> HashMap<FlowKey, FlowValue> {
        let ours = |port: PortBe| (50_000..51_000).contains(&port.get());
        let pairs = pairs(&flow(seen_as), BackendId::new(3), 7, ours);
        pairs.into_iter().flatten().collect()
    }

    fn key(src: &str, dst: &str, hook: Hook) -> FlowKey {
        FlowKey::new(tuple(src, dst), Proto::TCP, hook)
    }

    #[test]
    fn each_entry_leaves_its_packets_as_they_are_and_knows_its_other_direction() {
        for seen_as in [NODE, CLIENT, "192.0.2.1:33333"] {
            let entries = entries(seen_as);
            for (key, value) in &entries {
                assert_eq!(value.tuple, key.tuple);
                assert!(value.flags.contains(FlowFlags::OWN));
                let other = entries[&value.other(key.proto)];
                assert_eq!(other.other(key.proto), *key);
                let of_clients =
                    [value, &other].map(|value| value.flags.contains(FlowFlags::FROM_CLIENT));
                assert_ne!(of_clients[0], of_clients[1]);
            }
        }
    }

    #[test]
    fn packets_and_replies_are_known_as_they_pass_the_hooks() {
        let entries = entries(NODE);
        let comes = entries[&key(CLIENT, FRONTEND, Hook::INGRESS)];
        assert!(comes.flags.contains(FlowFlags::FROM_CLIENT));
        assert!(!comes.flags.contains(FlowFlags::FIN));
        assert_eq!(comes.backend, BackendId::new(3));
        let back = entries[&key(FRONTEND, CLIENT, Hook::EGRESS)];
        assert!(back.flags.contains(FlowFlags::FIN.union(FlowFlags::SEEN)));
    }

    #[test]
    fn the_port_that_the_node_gave_a_flow_is_no_other_flows() {
        let replies = key(BACKEND, NODE, Hook::INGRESS);
        assert!(entries(NODE).contains_key(&replies));
        // No program looks at what comes in at another port, and no flow of ours is given one.
        let elsewhere = entries("192.0.2.1:33333");
        assert_eq!(elsewhere.len(), 2);
    }

    #[test]
    fn the_replies_to_a_masqueraded_flow_are_no_others() {
        let [(leaves, of_client), (back, _)] = replies(&flow(NODE), 7);
        assert_eq!(leaves, key(NODE, BACKEND, Hook::EGRESS));
        assert!(
            of_client
                .flags
                .contains(FlowFlags::OWN.union(FlowFlags::FROM_CLIENT))
        );
        assert_eq!(back, key(BACKEND, NODE, Hook::INGRESS));
    }

    #[test]
    fn a_client_that_its_backend_sees_keeps_its_port_to_itself() {
        assert!(entries(CLIENT).contains_key(&key(BACKEND, CLIENT, Hook::EGRESS)));
        assert!(!entries(NODE).contains_key(&key(BACKEND, CLIENT, Hook::EGRESS)));
    }
}
