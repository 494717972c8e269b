//! Session affinity at node ports and load balancers.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::thread::sleep;
use std::time::Duration;

use svclb_tests::manifests::Service;
use svclb_tests::{Peer, SOON, wait_until};

use super::super::ask::{KINDS, TCP};
use super::super::front::{Front, NODE_PORT, balanced, balancer, given, node_port};

const ALL: [&str; 3] = ["a", "b", "c"];
/// Those of the node that the load balancer chooses.
const LOCAL: [&str; 2] = ["a", "c"];

/// The client ports before affinity is switched on again, and afterwards.
const OLD_PORTS: RangeInclusive<u16> = 32_768..=45_999;
const NEW_PORTS: RangeInclusive<u16> = 46_000..=60_999;

/// Waits until a client is answered by one backend alone, and then insists on it. Without
/// affinity, sixteen questions go to one of three backends once in fourteen million.
fn stays(peer: &Peer, to: SocketAddr) {
    for kind in KINDS {
        let mut backends = Vec::new();
        let settled = wait_until(SOON, || {
            let tally = peer.repeat(kind, to, 16).unwrap();
            assert_eq!(tally.failed(), 0, "{tally:?}");
            backends = tally.answers.into_keys().collect();
            backends.len() == 1
        });
        assert!(settled, "{kind:?} to {to}: {backends:?}");
        // From here on it is tied, so that not even one may go elsewhere.
        let tally = peer.repeat(kind, to, 15).unwrap();
        assert!(
            tally.answers.keys().eq(&backends),
            "{kind:?} to {to}: {backends:?} {tally:?}"
        );
    }
}

/// Affinity is there, then it isn't, then it is again.
fn switches(service: &Service, addresses: impl FnOnce(&Front) -> Vec<SocketAddr>, names: &[&str]) {
    let sticky = service.clone().sticky(100);
    let front = Front::new(&sticky, &ALL);
    front.asks_from(&OLD_PORTS);
    let addresses = addresses(&front);
    let all_stay = || {
        for to in &addresses {
            for peer in front.all_clients() {
                stays(peer, *to);
            }
        }
    };
    all_stay();
    front.put(service, &ALL);
    for to in &addresses {
        for kind in KINDS {
            given(&front.client, kind, *to, names);
            given(&front.pods[0], kind, *to, &ALL);
        }
    }
    // A datagram from a port that was just used belongs to the flow of the one before it,
    // which is known for half a minute and stays where it is. The port is drawn by chance.
    front.asks_from(&NEW_PORTS);
    front.put(&sticky, &ALL);
    all_stay();
}

/// With new nodes, every client stays from the very first connection on.
fn works(service: &Service, addresses: impl FnOnce(&Front) -> Vec<SocketAddr>, names: &[&str]) {
    let front = Front::new(&service.clone().sticky(100), &ALL);
    for to in addresses(&front) {
        for peer in front.all_clients() {
            for kind in KINDS {
                let tally = peer.repeat(kind, to, 15).unwrap();
                let one = (tally.answers.len(), tally.failed()) == (1, 0);
                assert!(one, "{kind:?} to {to}: {tally:?}");
            }
        }
        let answer = front.client.ask(TCP, to).unwrap();
        assert!(names.contains(&&*answer.backend), "{answer:?}");
    }
}

fn everywhere(front: &Front) -> Vec<SocketAddr> {
    front.everywhere(NODE_PORT)
}

fn at_balancer(_: &Front) -> Vec<SocketAddr> {
    balancer().into()
}

#[test]
fn should_have_session_affinity_work_for_node_port_service() {
    works(&node_port(), everywhere, &ALL);
}

#[test]
fn should_have_session_affinity_timeout_work_for_node_port_service() {
    let front = Front::new(&node_port().sticky(1), &ALL);
    for to in front.at(1, NODE_PORT) {
        for peer in [&*front.client, &*front.pods[1]] {
            let first = peer.ask(TCP, to).unwrap().backend;
            // A time-out that never ends passes with 3^-12.
            let moved = (0..12).any(|_| {
                sleep(Duration::from_millis(1_050));
                peer.ask(TCP, to).unwrap().backend != first
            });
            assert!(moved, "{to}: still {first}");
        }
    }
}

#[test]
fn should_be_able_to_switch_session_affinity_for_node_port_service() {
    switches(&node_port(), everywhere, &ALL);
}

#[test]
fn should_have_session_affinity_work_for_load_balancer_service_with_local_traffic_policy() {
    works(&balanced().external_local(), at_balancer, &LOCAL);
}

#[test]
fn should_have_session_affinity_work_for_load_balancer_service_with_cluster_traffic_policy() {
    works(&balanced(), at_balancer, &ALL);
}

#[test]
fn should_be_able_to_switch_session_affinity_for_load_balancer_service_with_local_traffic_policy() {
    switches(&balanced().external_local(), at_balancer, &LOCAL);
}

#[test]
fn should_be_able_to_switch_session_affinity_for_load_balancer_service_with_cluster_traffic_policy()
{
    switches(&balanced(), at_balancer, &ALL);
}
