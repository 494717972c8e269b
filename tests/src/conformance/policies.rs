//! Tests of service.go, traffic_distribution.go and topology_hints.go.

use super::{Section, inside, outward};

pub(super) const SECTION: Section = Section {
    title: "Traffic policies and topology",
    tests: &[
        inside(
            "should respect internalTrafficPolicy=Local Pod to Pod",
            &[
                "lab::conformance::policies::should_respect_internal_traffic_policy_local_pod_to_pod",
            ],
        ),
        inside(
            "should respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod",
            &[
                "lab::conformance::policies::should_respect_internal_traffic_policy_local_pod_with_host_network_to_pod",
            ],
        ),
        inside(
            "should respect internalTrafficPolicy=Local Pod and Node, to Pod (hostNetwork: true)",
            &[
                "lab::conformance::policies::should_respect_internal_traffic_policy_local_pod_and_node_to_pod_with_host_network",
            ],
        ),
        outward(
            "should support externalTrafficPolicy=Local for type=NodePort",
            &[
                "lab::conformance::policies::external::should_support_external_traffic_policy_local_for_type_node_port",
            ],
        ),
        outward(
            "should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes",
            &[
                "lab::conformance::policies::external::should_implement_node_port_and_health_check_node_port_correctly_when_external_traffic_policy_changes",
            ],
        ),
        outward(
            "should fail health check node port if there are only terminating endpoints",
            &[
                "lab::conformance::policies::external::should_fail_health_check_node_port_if_there_are_only_terminating_endpoints",
            ],
        ),
        inside(
            "should fallback to terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Cluster",
            &[
                "lab::conformance::policies::should_fallback_to_terminating_endpoints_internal_traffic_policy_cluster",
            ],
        ),
        inside(
            "should fallback to local terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Local",
            &[
                "lab::conformance::policies::should_fallback_to_local_terminating_endpoints_internal_traffic_policy_local",
            ],
        ),
        outward(
            "should fallback to terminating endpoints when there are no ready endpoints with externalTrafficPolicy=Cluster",
            &[
                "lab::conformance::policies::external::should_fallback_to_terminating_endpoints_external_traffic_policy_cluster",
            ],
        ),
        outward(
            "should fallback to local terminating endpoints when there are no ready endpoints with externalTrafficPolicy=Local",
            &[
                "lab::conformance::policies::external::should_fallback_to_local_terminating_endpoints_external_traffic_policy_local",
            ],
        ),
        inside(
            "Traffic Distribution: same zone with PreferClose",
            &[
                "lab::conformance::policies::traffic_distribution::should_route_traffic_to_an_endpoint_in_the_same_zone",
            ],
        ),
        inside(
            "Traffic Distribution: same zone with PreferSameZone",
            &[
                "lab::conformance::policies::traffic_distribution::should_route_traffic_to_an_endpoint_in_the_same_zone",
            ],
        ),
        inside(
            "Traffic Distribution: between pods on multiple nodes",
            &[
                "lab::conformance::policies::traffic_distribution::should_route_traffic_correctly_between_pods_on_multiple_nodes",
            ],
        ),
        inside(
            "Traffic Distribution: PreferSameNode, or fall back to same zone",
            &[
                "lab::conformance::policies::traffic_distribution::should_route_traffic_to_an_endpoint_on_the_same_node_or_fall_back_to_same_zone",
            ],
        ),
        inside(
            "Traffic Distribution: PreferSameNode and fall back when the endpoint becomes unavailable",
            &[
                "lab::conformance::policies::traffic_distribution::should_route_traffic_to_an_endpoint_on_the_same_node_and_fall_back_when_it_becomes_unavailable",
            ],
        ),
        inside(
            "Topology Hints: should distribute endpoints evenly",
            &[
                "lab::conformance::policies::traffic_distribution::should_distribute_endpoints_evenly",
            ],
        ),
    ],
};
