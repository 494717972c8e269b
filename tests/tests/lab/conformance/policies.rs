//! Traffic policies, and endpoints that terminate.

mod external;
mod traffic_distribution;

use svclb_tests::Transport;
use svclb_tests::manifests::Endpoint;

use super::super::scene::{TARGET, v4, web};
use super::ask::{KINDS, answered_by, refused, served};
use super::cluster::{Cluster, Member, one_family, with_spec};

/// `web` with `internalTrafficPolicy: Local`.
fn local(cluster: &Cluster, endpoints: &[Endpoint]) {
    cluster.put(&with_spec("internalTrafficPolicy", "Local", endpoints));
}

/// Two nodes, and `web` as both are given it without that policy: with an endpoint on the
/// first one alone, so that what `Local` takes from the second was there before.
fn shared(endpoint: impl Fn(&Member) -> Endpoint) -> (Cluster, Endpoint) {
    let cluster = Cluster::new(2);
    for place in [&cluster[0], &cluster[1]] {
        for transport in [Transport::Tcp, Transport::Udp] {
            place.node.serve(transport, TARGET).unwrap();
        }
    }
    let endpoint = endpoint(&cluster[0]);
    let service = one_family();
    cluster.put(&[service.object(), service.slice(&[endpoint.ip()])]);
    for place in [&cluster[0], &cluster[1]] {
        for client in place.clients() {
            served(client, web(v4(10)));
        }
    }
    (cluster, endpoint)
}

#[test]
fn should_respect_internal_traffic_policy_local_pod_to_pod() {
    let (cluster, endpoint) = shared(Member::endpoint);
    local(&cluster, &[endpoint]);
    for kind in KINDS {
        answered_by(&cluster[0].client, kind, web(v4(10)), &["a"]);
    }
    refused(&cluster[1].client, web(v4(10)));
    // With one on each node, each keeps to its own.
    local(&cluster, &[cluster[0].endpoint(), cluster[1].endpoint()]);
    for (number, name) in [(0, "a"), (1, "b")] {
        answered_by(&cluster[number].client, KINDS[0], web(v4(10)), &[name]);
    }
}

#[test]
fn should_respect_internal_traffic_policy_local_pod_with_host_network_to_pod() {
    let (cluster, endpoint) = shared(Member::endpoint);
    local(&cluster, &[endpoint]);
    for kind in KINDS {
        answered_by(&cluster[0].node, kind, web(v4(10)), &["a"]);
    }
    refused(&cluster[1].node, web(v4(10)));
}

#[test]
fn should_respect_internal_traffic_policy_local_pod_and_node_to_pod_with_host_network() {
    let (cluster, endpoint) = shared(Member::host_endpoint);
    local(&cluster, &[endpoint]);
    cluster[0].is_given(web(v4(10)), &["node1"]);
    for client in cluster[1].clients() {
        refused(client, web(v4(10)));
    }
}

#[test]
fn should_fallback_to_terminating_endpoints_internal_traffic_policy_cluster() {
    let cluster = Cluster::new(2);
    let put = |endpoints: &[Endpoint]| {
        cluster.put(&with_spec("internalTrafficPolicy", "Cluster", endpoints));
    };
    put(&[cluster[0].endpoint(), cluster[1].endpoint()]);
    for place in [&cluster[0], &cluster[1]] {
        place.is_given(web(v4(10)), &["a", "b"]);
    }
    // The one that serves while it terminates is the last resort; one that doesn't is none.
    put(&[
        cluster[0].endpoint().terminating(true),
        cluster[1].endpoint().terminating(false),
    ]);
    for place in [&cluster[0], &cluster[1]] {
        place.is_given(web(v4(10)), &["a"]);
    }
    put(&[
        cluster[0].endpoint().terminating(true),
        cluster[1].endpoint(),
    ]);
    for place in [&cluster[0], &cluster[1]] {
        place.is_given(web(v4(10)), &["b"]);
    }
}

#[test]
fn should_fallback_to_local_terminating_endpoints_internal_traffic_policy_local() {
    let (cluster, endpoint) = shared(Member::endpoint);
    local(&cluster, &[endpoint.terminating(true)]);
    cluster[0].is_given(web(v4(10)), &["a"]);
    for client in cluster[1].clients() {
        refused(client, web(v4(10)));
    }
    // A ready one elsewhere changes nothing here.
    local(
        &cluster,
        &[
            cluster[0].endpoint().terminating(true),
            cluster[1].endpoint(),
        ],
    );
    cluster[1].is_given(web(v4(10)), &["b"]);
    cluster[0].is_given(web(v4(10)), &["a"]);
}
