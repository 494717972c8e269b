//! The endpoints that Services of the matrix have, in a shorthand. `a1` and `b1` are on
//! `node1` in the zone `east`, `a2` and `b2` on `node2` in `west`.

use super::oracle::{Endpoint, Place};

/// The nodes, by the digit that the names of their pods end with.
pub(crate) const NODE1: Place = Place {
    node: "node1",
    zone: "east",
};
pub(crate) const NODE2: Place = Place {
    node: "node2",
    zone: "west",
};

/// An endpoint that is ready, on the node of the pod of this name.
fn ready(name: &'static str) -> Endpoint {
    let place = if name.ends_with('1') { NODE1 } else { NODE2 };
    Endpoint {
        name,
        node: Some(place.node),
        ready: Some(true),
        serving: Some(true),
        terminating: Some(false),
        for_zones: None,
        for_nodes: None,
    }
}

/// One that is going and still serves.
fn going(name: &'static str) -> Endpoint {
    Endpoint {
        ready: Some(false),
        terminating: Some(true),
        ..ready(name)
    }
}

/// One that is not ready: it has not come up, or has failed.
fn unready(name: &'static str) -> Endpoint {
    Endpoint {
        ready: Some(false),
        serving: Some(false),
        ..ready(name)
    }
}

/// Where endpoints are, and in which condition.
pub(crate) fn conditions() -> Vec<Vec<Endpoint>> {
    let gone = |name| Endpoint {
        serving: Some(false),
        ..going(name)
    };
    let unspoken = |name| Endpoint {
        ready: None,
        serving: None,
        terminating: None,
        ..ready(name)
    };
    let going_unspoken = |name| Endpoint {
        serving: None,
        ..going(name)
    };
    // Ready decides alone: who serves but is neither ready nor going is not to be used.
    let unready_serving = |name| Endpoint {
        serving: Some(true),
        ..unready(name)
    };
    let nowhere = |name| Endpoint {
        node: None,
        ..ready(name)
    };
    vec![
        vec![],
        vec![ready("a1"), ready("b1")],
        vec![ready("a2"), ready("b2")],
        vec![ready("a1"), ready("b1"), ready("a2"), ready("b2")],
        vec![going("a1"), going("b1")],
        vec![going("a2")],
        vec![going("a1"), going("a2")],
        vec![unready("a1"), unready("a2")],
        // The fallback is each scope's own: Local's on one node does not count elsewhere.
        vec![going("a1"), ready("a2")],
        vec![ready("a1"), going("b1"), going("a2")],
        vec![unready("a1"), ready("b1"), gone("a2"), going("b2")],
        vec![unready("a1"), ready("a2")],
        vec![gone("a1"), gone("a2")],
        vec![gone("a1"), going("a2"), unready("b2")],
        vec![unready_serving("a1"), unready_serving("a2")],
        // A condition that is missing counts as ready, serving, not terminating.
        vec![unspoken("a1"), unspoken("a2")],
        vec![going_unspoken("a1"), going_unspoken("a2")],
        vec![nowhere("a1"), ready("b2")],
    ]
}

/// Where endpoints are, for clients that come by one node or the other.
pub(crate) fn places() -> Vec<Vec<Endpoint>> {
    let nowhere = |name| Endpoint {
        node: None,
        ..ready(name)
    };
    vec![
        vec![],
        vec![ready("a1"), ready("b1")],
        vec![ready("a2"), ready("b2")],
        vec![ready("a1"), ready("b1"), ready("a2"), ready("b2")],
        vec![going("a1"), going("b1")],
        vec![going("a1"), ready("a2")],
        vec![unready("a1"), unready("a2")],
        // An endpoint without a node is local to none, and reached all the same.
        vec![nowhere("a1"), ready("b2")],
    ]
}

/// Whom endpoints are meant for.
pub(crate) fn hints() -> Vec<Vec<Endpoint>> {
    let zones = |zones, endpoint| Endpoint {
        for_zones: Some(zones),
        ..endpoint
    };
    let nodes = |nodes, endpoint| Endpoint {
        for_nodes: Some(nodes),
        ..endpoint
    };
    let east = |name| zones(&["east"], ready(name));
    let west = |name| zones(&["west"], ready(name));
    let north = |name| zones(&["north"], ready(name));
    vec![
        vec![east("a1"), east("b1"), west("a2"), west("b2")],
        // The hint counts and not where the endpoint is.
        vec![west("a1"), east("a2"), east("b2")],
        vec![
            zones(&["east", "west"], ready("a1")),
            east("b1"),
            west("a2"),
        ],
        // One without a hint, and no hint counts.
        vec![east("a1"), west("a2"), ready("b2")],
        // A zone of no node; the zone of one node only.
        vec![north("a1"), north("a2")],
        vec![east("a1"), east("a2"), north("b2")],
        vec![
            nodes(&["node1"], ready("a1")),
            nodes(&["node2"], ready("a2")),
        ],
        vec![
            nodes(&["node2"], ready("a1")),
            nodes(&["node1"], ready("b2")),
        ],
        vec![nodes(&["node1"], ready("a1")), ready("b1"), ready("a2")],
        vec![
            nodes(&["node3"], ready("a1")),
            nodes(&["node3"], ready("a2")),
        ],
        // Nodes go before zones, and where they name none, the zones count.
        vec![
            nodes(&["node1"], east("a1")),
            nodes(&["node3"], east("b1")),
            nodes(&["node3"], west("a2")),
        ],
        vec![
            nodes(&["node1"], east("a1")),
            east("b1"),
            west("a2"),
            west("b2"),
        ],
        // Hints count among those that are ready: one that is not disables nothing.
        vec![east("a1"), unready("b1"), west("a2"), going("b2")],
        // Nor is a hint a way back for one that is not.
        vec![east("a1"), zones(&["west"], unready("a2"))],
        // The last resort has no topology.
        vec![zones(&["east"], going("a1")), zones(&["west"], going("a2"))],
    ]
}
