//! Tests of service.go about session affinity.

use super::{Section, inside, outward};

pub(super) const SECTION: Section = Section {
    title: "Session affinity",
    tests: &[
        inside(
            "should have session affinity work for service with type clusterIP [Conformance]",
            &["lab::affinity::a_client_stays_with_the_backend_of_its_first_connection"],
        ),
        outward(
            "should have session affinity work for NodePort service [Conformance]",
            &[
                "lab::conformance::affinity::outside::should_have_session_affinity_work_for_node_port_service",
            ],
        ),
        inside(
            "should have session affinity timeout work for service with type clusterIP",
            &[
                "lab::affinity::a_client_that_was_away_for_longer_than_the_timeout_is_given_any_backend",
                "lab::affinity::connections_within_the_timeout_prolong_it",
            ],
        ),
        outward(
            "should have session affinity timeout work for NodePort service",
            &[
                "lab::conformance::affinity::outside::should_have_session_affinity_timeout_work_for_node_port_service",
            ],
        ),
        inside(
            "should be able to switch session affinity for service with type clusterIP [Conformance]",
            &[
                "lab::conformance::affinity::should_be_able_to_switch_session_affinity_for_service_with_type_cluster_ip",
            ],
        ),
        outward(
            "should be able to switch session affinity for NodePort service [Conformance]",
            &[
                "lab::conformance::affinity::outside::should_be_able_to_switch_session_affinity_for_node_port_service",
            ],
        ),
        outward(
            "should have session affinity work for LoadBalancer service with Local traffic policy",
            &[
                "lab::conformance::affinity::outside::should_have_session_affinity_work_for_load_balancer_service_with_local_traffic_policy",
            ],
        ),
        outward(
            "should have session affinity work for LoadBalancer service with Cluster traffic policy",
            &[
                "lab::conformance::affinity::outside::should_have_session_affinity_work_for_load_balancer_service_with_cluster_traffic_policy",
            ],
        ),
        outward(
            "should be able to switch session affinity for LoadBalancer service with Local traffic policy",
            &[
                "lab::conformance::affinity::outside::should_be_able_to_switch_session_affinity_for_load_balancer_service_with_local_traffic_policy",
            ],
        ),
        outward(
            "should be able to switch session affinity for LoadBalancer service with Cluster traffic policy",
            &[
                "lab::conformance::affinity::outside::should_be_able_to_switch_session_affinity_for_load_balancer_service_with_cluster_traffic_policy",
            ],
        ),
    ],
};
