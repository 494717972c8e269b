//! Tests of loadbalancer.go.

use super::{Section, outward};

pub(super) const SECTION: Section = Section {
    title: "LoadBalancer",
    tests: &[
        outward(
            "should be able to change the type and ports of a TCP service",
            &[
                "lab::conformance::load_balancers::should_be_able_to_change_the_type_and_ports_of_a_tcp_service",
            ],
        ),
        outward(
            "should be able to change the type and ports of a UDP service",
            &[
                "lab::conformance::load_balancers::should_be_able_to_change_the_type_and_ports_of_a_udp_service",
            ],
        ),
        outward(
            "should only allow access from service loadbalancer source ranges",
            &[
                "lab::conformance::load_balancers::should_only_allow_access_from_service_loadbalancer_source_ranges",
            ],
        ),
        outward(
            "should be able to create LoadBalancer Service without NodePort and change it",
            &[
                "lab::conformance::load_balancers::should_be_able_to_create_load_balancer_service_without_node_port_and_change_it",
            ],
        ),
        outward(
            "should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on different nodes",
            &[
                "lab::conformance::udp::outside::should_be_able_to_preserve_udp_traffic_when_server_pod_cycles_for_a_load_balancer_service_on_different_nodes",
            ],
        ),
        outward(
            "should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on the same nodes",
            &[
                "lab::conformance::udp::outside::should_be_able_to_preserve_udp_traffic_when_server_pod_cycles_for_a_load_balancer_service_on_the_same_nodes",
            ],
        ),
        outward(
            "should not have connectivity disruption during rolling update with externalTrafficPolicy=Cluster",
            &[
                "lab::conformance::load_balancers::should_not_have_connectivity_disruption_during_rolling_update_with_external_traffic_policy_cluster",
            ],
        ),
        outward(
            "should not have connectivity disruption during rolling update with externalTrafficPolicy=Local",
            &[
                "lab::conformance::load_balancers::should_not_have_connectivity_disruption_during_rolling_update_with_external_traffic_policy_local",
            ],
        ),
        outward(
            "ExternalTrafficPolicy: Local: should work for type=LoadBalancer",
            &["lab::conformance::policies::external::should_work_for_type_load_balancer"],
        ),
        outward(
            "ExternalTrafficPolicy: Local: should only target nodes with endpoints",
            &["lab::conformance::policies::external::should_only_target_nodes_with_endpoints"],
        ),
        outward(
            "ExternalTrafficPolicy: Local: should target all nodes with endpoints",
            &["lab::conformance::policies::external::should_target_all_nodes_with_endpoints"],
        ),
        outward(
            "ExternalTrafficPolicy: Local: should work from pods",
            &["lab::conformance::policies::external::should_work_from_pods"],
        ),
    ],
};
