//! Tests of conntrack.go, and what svclb owes besides to sockets that are connected.

use super::{Section, inside, missing, not_applicable, outside};

const CONNECTED: &str = "sockets that are connected are not moved yet";

pub(super) const SECTION: Section = Section {
    title: "Conntrack and UDP",
    tests: &[
        outside(
            "should be able to preserve UDP traffic when server pod cycles for a NodePort service",
        ),
        inside(
            "should be able to preserve UDP traffic when server pod cycles for a ClusterIP service",
            &[
                "lab::conformance::udp::should_preserve_udp_traffic_when_server_pod_cycles_cluster_ip",
            ],
        ),
        inside(
            "should be able to preserve UDP traffic when server pod cycles for a ClusterIP service with InternalTrafficPolicy set to Local",
            &[
                "lab::conformance::udp::should_preserve_udp_traffic_when_server_pod_cycles_internal_traffic_policy_local",
            ],
        ),
        inside(
            "should be able to preserve UDP traffic when server pod cycles for a ClusterIP service and client is hostNetwork",
            &[
                "lab::conformance::udp::should_preserve_udp_traffic_when_server_pod_cycles_client_is_host_network",
            ],
        ),
        inside(
            "should be able to preserve UDP traffic when initial unready endpoints get ready",
            &[
                "lab::conformance::udp::should_preserve_udp_traffic_when_initial_unready_endpoints_get_ready",
            ],
        ),
        outside(
            "should be able to cleanup conntrack entries when UDP service target port changes for a NodePort service",
        ),
        not_applicable(
            "should not be vulnerable to the invalid conntrack state bug",
            "no packet of a connection is translated, so conntrack has no part in it",
        ),
        inside(
            "beyond upstream: an unconnected socket, scaled to 0 and back",
            &[
                "lab::conformance::udp::a_socket_hears_again_of_a_service_that_had_no_endpoint_for_a_while",
            ],
        ),
        missing(
            "beyond upstream: a connected socket, when the server pod cycles",
            CONNECTED,
        ),
        missing(
            "beyond upstream: a connected socket, with InternalTrafficPolicy Local",
            CONNECTED,
        ),
        missing(
            "beyond upstream: a connected socket, when the client is hostNetwork",
            CONNECTED,
        ),
        missing(
            "beyond upstream: a connected socket, when unready endpoints get ready",
            CONNECTED,
        ),
        missing(
            "beyond upstream: a connected socket, when the target port changes",
            CONNECTED,
        ),
        missing(
            "beyond upstream: a connected socket, scaled to 0 and back",
            CONNECTED,
        ),
        missing(
            "beyond upstream: a connected socket, when the Service is deleted",
            CONNECTED,
        ),
    ],
};
