//! Tests of networking.go and dual_stack.go.

use super::{Section, inside, outward, packets};

pub(super) const SECTION: Section = Section {
    title: "Networking, granular checks, and dual stack",
    tests: &[
        inside(
            "should function for pod-Service: http, through clusterIP",
            &[
                "lab::tcp::every_backend_is_reached_evenly_and_getpeername_shows_the_service_address",
            ],
        ),
        inside(
            "should function for pod-Service: udp, through clusterIP",
            &[
                "lab::udp::connected_sockets_reach_every_backend_and_see_the_service_as_peer_and_sender",
                "lab::udp::unconnected_sockets_reach_every_backend_and_see_the_service_as_sender",
            ],
        ),
        outward(
            "should function for pod-Service: http, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_pod_service_through_node_port_http_and_udp",
            ],
        ),
        outward(
            "should function for pod-Service: udp, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_pod_service_through_node_port_http_and_udp",
            ],
        ),
        packets("should function for pod-Service: sctp"),
        inside(
            "should function for node-Service: http, through clusterIP",
            &["lab::tcp::sockets_of_the_nodes_host_are_translated_like_those_of_pods"],
        ),
        inside(
            "should function for node-Service: udp, through clusterIP",
            &["lab::conformance::basics::granular::should_function_for_node_service_udp"],
        ),
        outward(
            "should function for node-Service: http, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_node_service_through_node_port_http_and_udp",
            ],
        ),
        outward(
            "should function for node-Service: udp, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_node_service_through_node_port_http_and_udp",
            ],
        ),
        packets("should function for node-Service: sctp"),
        inside(
            "should function for endpoint-Service: http, through clusterIP",
            &[
                "lab::conformance::basics::granular::should_function_for_endpoint_service_http_and_udp",
            ],
        ),
        inside(
            "should function for endpoint-Service: udp, through clusterIP",
            &[
                "lab::conformance::basics::granular::should_function_for_endpoint_service_http_and_udp",
            ],
        ),
        outward(
            "should function for endpoint-Service: http, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_endpoint_service_through_node_port_http_and_udp",
            ],
        ),
        outward(
            "should function for endpoint-Service: udp, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_endpoint_service_through_node_port_http_and_udp",
            ],
        ),
        packets("should function for endpoint-Service: sctp"),
        inside(
            "should function for multiple endpoint-Services with same selector",
            &[
                "lab::conformance::basics::granular::should_function_for_multiple_endpoint_services_with_same_selector",
            ],
        ),
        inside(
            "should update endpoints: http",
            &["lab::conformance::basics::granular::should_update_endpoints_http_and_udp"],
        ),
        inside(
            "should update endpoints: udp",
            &["lab::conformance::basics::granular::should_update_endpoints_http_and_udp"],
        ),
        outward(
            "should update nodePort: http",
            &["lab::conformance::basics::node_ports::should_update_node_port_http_and_udp"],
        ),
        outward(
            "should update nodePort: udp",
            &["lab::conformance::basics::node_ports::should_update_node_port_http_and_udp"],
        ),
        inside(
            "should be able to handle large requests: http",
            &[
                "lab::conformance::basics::granular::should_be_able_to_handle_large_requests_http_and_udp",
            ],
        ),
        inside(
            "should be able to handle large requests: udp",
            &[
                "lab::conformance::basics::granular::should_be_able_to_handle_large_requests_http_and_udp",
            ],
        ),
        inside(
            "should function for service endpoints using hostNetwork",
            &[
                "lab::conformance::basics::granular::should_function_for_service_endpoints_using_host_network",
            ],
        ),
        inside(
            "should function for client IP based session affinity: http",
            &["lab::affinity::a_client_stays_with_the_backend_of_its_first_connection"],
        ),
        inside(
            "should function for client IP based session affinity: udp",
            &["lab::affinity::a_client_stays_with_the_backend_of_its_first_connection"],
        ),
        outward(
            "beyond upstream: large requests through nodeIP:nodePort: http",
            &[
                "lab::conformance::basics::node_ports::should_be_able_to_handle_large_requests_through_node_port_http_and_udp",
            ],
        ),
        outward(
            "beyond upstream: large requests through nodeIP:nodePort: udp",
            &[
                "lab::conformance::basics::node_ports::should_be_able_to_handle_large_requests_through_node_port_http_and_udp",
            ],
        ),
        outward(
            "beyond upstream: large requests through nodeIP:nodePort: udp, by a tunnel of smaller MTU",
            &[
                "lab::conformance::basics::node_ports::should_be_able_to_handle_large_requests_through_node_port_by_a_tunnel_of_smaller_mtu",
            ],
        ),
        inside(
            "secondary family: should function for pod-Service: http, through clusterIP",
            &[
                "lab::tcp::every_backend_is_reached_evenly_and_getpeername_shows_the_service_address",
            ],
        ),
        inside(
            "secondary family: should function for pod-Service: udp, through clusterIP",
            &[
                "lab::udp::connected_sockets_reach_every_backend_and_see_the_service_as_peer_and_sender",
                "lab::udp::unconnected_sockets_reach_every_backend_and_see_the_service_as_sender",
            ],
        ),
        outward(
            "secondary family: should function for pod-Service: http, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_pod_service_through_node_port_http_and_udp",
            ],
        ),
        outward(
            "secondary family: should function for pod-Service: udp, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_pod_service_through_node_port_http_and_udp",
            ],
        ),
        inside(
            "secondary family: should function for node-Service: http, through clusterIP",
            &["lab::tcp::sockets_of_the_nodes_host_are_translated_like_those_of_pods"],
        ),
        inside(
            "secondary family: should function for node-Service: udp, through clusterIP",
            &["lab::conformance::basics::granular::should_function_for_node_service_udp"],
        ),
        outward(
            "secondary family: should function for node-Service: http, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_node_service_through_node_port_http_and_udp",
            ],
        ),
        outward(
            "secondary family: should function for node-Service: udp, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_node_service_through_node_port_http_and_udp",
            ],
        ),
        inside(
            "secondary family: should function for endpoint-Service: http, through clusterIP",
            &[
                "lab::conformance::basics::granular::should_function_for_endpoint_service_http_and_udp",
            ],
        ),
        inside(
            "secondary family: should function for endpoint-Service: udp, through clusterIP",
            &[
                "lab::conformance::basics::granular::should_function_for_endpoint_service_http_and_udp",
            ],
        ),
        outward(
            "secondary family: should function for endpoint-Service: http, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_endpoint_service_through_node_port_http_and_udp",
            ],
        ),
        outward(
            "secondary family: should function for endpoint-Service: udp, through nodeIP:nodePort",
            &[
                "lab::conformance::basics::node_ports::should_function_for_endpoint_service_through_node_port_http_and_udp",
            ],
        ),
        inside(
            "secondary family: should function for multiple endpoint-Services with same selector",
            &[
                "lab::conformance::basics::granular::should_function_for_multiple_endpoint_services_with_same_selector",
            ],
        ),
        inside(
            "secondary family: should update endpoints: http",
            &["lab::conformance::basics::granular::should_update_endpoints_http_and_udp"],
        ),
        inside(
            "secondary family: should update endpoints: udp",
            &["lab::conformance::basics::granular::should_update_endpoints_http_and_udp"],
        ),
        outward(
            "secondary family: should update nodePort: http",
            &["lab::conformance::basics::node_ports::should_update_node_port_http_and_udp"],
        ),
        outward(
            "secondary family: should update nodePort: udp",
            &["lab::conformance::basics::node_ports::should_update_node_port_http_and_udp"],
        ),
        inside(
            "secondary family: should be able to handle large requests: http",
            &[
                "lab::conformance::basics::granular::should_be_able_to_handle_large_requests_http_and_udp",
            ],
        ),
        inside(
            "secondary family: should be able to handle large requests: udp",
            &[
                "lab::conformance::basics::granular::should_be_able_to_handle_large_requests_http_and_udp",
            ],
        ),
        inside(
            "secondary family: should function for service endpoints using hostNetwork",
            &[
                "lab::conformance::basics::granular::should_function_for_service_endpoints_using_host_network",
            ],
        ),
        inside(
            "secondary family: should function for client IP based session affinity: http",
            &["lab::affinity::a_client_stays_with_the_backend_of_its_first_connection"],
        ),
        inside(
            "secondary family: should function for client IP based session affinity: udp",
            &["lab::affinity::a_client_stays_with_the_backend_of_its_first_connection"],
        ),
        inside(
            "should create service with ipv4 cluster ip",
            &[
                "lab::conformance::basics::should_create_service_with_ipv4_ipv6_or_both_cluster_ips_in_either_order",
            ],
        ),
        inside(
            "should create service with ipv6 cluster ip",
            &[
                "lab::conformance::basics::should_create_service_with_ipv4_ipv6_or_both_cluster_ips_in_either_order",
            ],
        ),
        inside(
            "should create service with ipv4,v6 cluster ip",
            &[
                "lab::conformance::basics::should_create_service_with_ipv4_ipv6_or_both_cluster_ips_in_either_order",
            ],
        ),
        inside(
            "should create service with ipv6,v4 cluster ip",
            &[
                "lab::conformance::basics::should_create_service_with_ipv4_ipv6_or_both_cluster_ips_in_either_order",
            ],
        ),
    ],
};
