//! Topology: the hints in slices, which is all of it that a proxy sees.

use serde_json::Value;
use svclb_tests::manifests::{Endpoint, node};

use super::super::super::scene::{v4, web};
use super::super::cluster::{Cluster, with_spec};

/// A cluster whose nodes are in these zones.
fn in_zones(zones: &[&str]) -> Cluster {
    let cluster = Cluster::new(zones.len());
    let nodes: Vec<Value> = zones
        .iter()
        .enumerate()
        .map(|(index, zone)| node(&format!("node{}", index + 1), zone))
        .collect();
    cluster.manifests.put("nodes.yaml", &nodes).unwrap();
    cluster
}

fn put(cluster: &Cluster, distribution: &str, endpoints: &[Endpoint]) {
    cluster.put(&with_spec("trafficDistribution", distribution, endpoints));
}

#[test]
fn should_route_traffic_to_an_endpoint_in_the_same_zone() {
    let cluster = in_zones(&["east", "west"]);
    for distribution in ["PreferClose", "PreferSameZone"] {
        let [a, b] = [0, 1].map(|number| cluster[number].endpoint());
        put(&cluster, distribution, &[a.clone(), b.clone()]);
        for number in [0, 1] {
            cluster[number].is_given(web(v4(10)), &["a", "b"]);
        }
        put(
            &cluster,
            distribution,
            &[a.for_zone("east"), b.for_zone("west")],
        );
        for (number, name) in [(0, "a"), (1, "b")] {
            cluster[number].is_given(web(v4(10)), &[name]);
        }
    }
}

#[test]
fn should_route_traffic_correctly_between_pods_on_multiple_nodes() {
    let zones = ["north", "north", "east", "east", "west", "west"];
    let cluster = in_zones(&zones);
    // Two endpoints in the first zone, one in each other, not on every node.
    let endpoints = [0, 1, 2, 5].map(|number| cluster[number].endpoint().for_zone(zones[number]));
    put(&cluster, "PreferSameZone", &endpoints);
    for (number, names) in [
        (0, &["a", "b"][..]),
        (1, &["a", "b"]),
        (2, &["c"]),
        (3, &["c"]),
        (4, &["f"]),
        (5, &["f"]),
    ] {
        cluster[number].is_given(web(v4(10)), names);
    }
}

#[test]
fn should_route_traffic_to_an_endpoint_on_the_same_node_or_fall_back_to_same_zone() {
    let cluster = in_zones(&["east", "east", "east"]);
    let [a, b, c] = [0, 1, 2].map(|number| cluster[number].endpoint());
    let endpoints = [
        a.for_node("node1").for_zone("east"),
        b.for_node("node2").for_zone("east"),
        // Its pod is somewhere in the lab; by its hints it is on a node far away.
        c.on("node9").for_node("node9").for_zone("west"),
    ];
    put(&cluster, "PreferSameNode", &endpoints);
    for (number, names) in [(0, &["a"][..]), (1, &["b"]), (2, &["a", "b"])] {
        cluster[number].is_given(web(v4(10)), names);
    }
}

#[test]
fn should_route_traffic_to_an_endpoint_on_the_same_node_and_fall_back_when_it_becomes_unavailable()
{
    let cluster = in_zones(&["east", "east"]);
    let [a, b] = [0, 1].map(|number| {
        let name = cluster[number].node.name();
        cluster[number].endpoint().for_node(name).for_zone("east")
    });
    for _ in 0..2 {
        put(&cluster, "PreferSameNode", &[a.clone(), b.clone()]);
        cluster[0].is_given(web(v4(10)), &["a"]);
        put(&cluster, "PreferSameNode", std::slice::from_ref(&b));
        cluster[0].is_given(web(v4(10)), &["b"]);
    }
    // So does one that is there and not ready.
    let endpoints = [a.unready(), b];
    put(&cluster, "PreferSameNode", &endpoints);
    cluster[0].is_given(web(v4(10)), &["b"]);
}

#[test]
fn should_distribute_endpoints_evenly() {
    let cluster = in_zones(&["east", "west"]);
    let [a, b] = [0, 1].map(|number| cluster[number].endpoint());
    let hinted = [a.clone().for_zone("east"), b.clone().for_zone("west")];
    put(&cluster, "PreferClose", &hinted);
    for (number, name) in [(0, "a"), (1, "b")] {
        cluster[number].is_given(web(v4(10)), &[name]);
    }
    // One without a hint, and none of them counts.
    put(&cluster, "PreferClose", &[a.for_zone("east"), b]);
    for number in [0, 1] {
        cluster[number].is_given(web(v4(10)), &["a", "b"]);
    }
}
