//! Tests of service.go about types and node ports.

use super::{Outcome, Part, Section, Test, inside, outward};

pub(super) const SECTION: Section = Section {
    title: "Type changes and node ports",
    tests: &[
        outward(
            "should be able to create a functioning NodePort service [Conformance]",
            &[
                "lab::conformance::node_ports::should_be_able_to_create_a_functioning_node_port_service",
            ],
        ),
        inside(
            "should be able to change the type from ExternalName to ClusterIP [Conformance]",
            &[
                "lab::conformance::type_changes::should_be_able_to_change_the_type_from_external_name_to_cluster_ip",
            ],
        ),
        outward(
            "should be able to change the type from ExternalName to NodePort [Conformance]",
            &[
                "lab::conformance::node_ports::should_be_able_to_change_the_type_from_external_name_to_node_port",
            ],
        ),
        inside(
            "should be able to change the type from ClusterIP to ExternalName [Conformance]",
            &[
                "lab::conformance::type_changes::should_be_able_to_change_the_type_from_cluster_ip_to_external_name",
            ],
        ),
        outward(
            "should be able to change the type from NodePort to ExternalName [Conformance]",
            &[
                "lab::conformance::node_ports::should_be_able_to_change_the_type_from_node_port_to_external_name",
            ],
        ),
        outward(
            "should be able to update service type to NodePort listening on same port number but different protocols",
            &[
                "lab::conformance::node_ports::should_be_able_to_update_service_type_to_node_port_listening_on_same_port_number_but_different_protocols",
            ],
        ),
        Test {
            name: "should prevent NodePort collisions",
            part: Part::Outside,
            outcome: Outcome::NotApplicable("the API server alone"),
        },
        Test {
            name: "should check NodePort out-of-range",
            part: Part::Outside,
            outcome: Outcome::NotApplicable("the API server alone"),
        },
        outward(
            "should release NodePorts on delete",
            &["lab::conformance::node_ports::should_release_node_ports_on_delete"],
        ),
        outward(
            "should be possible to connect to a service via ExternalIP when the external IP is not assigned to a node",
            &[
                "lab::outward::pods_and_the_host_reach_load_balancer_and_external_ips_that_no_interface_owns",
            ],
        ),
        outward(
            "should serve endpoints on same port and different protocol for internal traffic on Type LoadBalancer",
            &[
                "lab::outward::pods_and_the_host_reach_load_balancer_and_external_ips_that_no_interface_owns",
            ],
        ),
    ],
};
