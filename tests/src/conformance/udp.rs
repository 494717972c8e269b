//! Tests of conntrack.go, and what svclb owes besides to sockets that are connected.

use super::{Section, inside, not_applicable, outward};

pub(super) const SECTION: Section = Section {
    title: "Conntrack and UDP",
    tests: &[
        outward(
            "should be able to preserve UDP traffic when server pod cycles for a NodePort service",
            &[
                "lab::conformance::udp::outside::should_be_able_to_preserve_udp_traffic_when_server_pod_cycles_for_a_node_port_service",
            ],
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
        outward(
            "should be able to cleanup conntrack entries when UDP service target port changes for a NodePort service",
            &[
                "lab::conformance::udp::outside::should_be_able_to_cleanup_conntrack_entries_when_udp_service_target_port_changes_for_a_node_port_service",
            ],
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
        inside(
            "beyond upstream: a connected socket, when the server pod cycles",
            &[
                "lab::udp_reaper::a_connected_socket_of_a_pod_or_the_host_moves_when_its_backend_is_replaced",
            ],
        ),
        inside(
            "beyond upstream: a connected socket, with InternalTrafficPolicy Local",
            &[
                "lab::udp_reaper::with_internal_policy_local_a_connected_socket_moves_within_its_node",
            ],
        ),
        inside(
            "beyond upstream: a connected socket, when the client is hostNetwork",
            &[
                "lab::udp_reaper::a_connected_socket_of_a_pod_or_the_host_moves_when_its_backend_is_replaced",
            ],
        ),
        inside(
            "beyond upstream: a connected socket, when unready endpoints get ready",
            &[
                "lab::udp_reaper::a_socket_that_was_refused_reaches_the_first_endpoint_that_gets_ready",
            ],
        ),
        inside(
            "beyond upstream: a connected socket, when the target port changes",
            &["lab::udp_reaper::when_the_target_port_changes_a_connected_socket_is_destroyed"],
        ),
        inside(
            "beyond upstream: a connected socket, scaled to 0 and back",
            &[
                "lab::udp_reaper::after_the_last_endpoint_a_connected_socket_gets_an_error_and_later_an_answer",
            ],
        ),
        inside(
            "beyond upstream: a connected socket, when the Service is deleted",
            &["lab::udp_reaper::when_the_service_is_deleted_a_connected_socket_gets_an_error"],
        ),
    ],
};
