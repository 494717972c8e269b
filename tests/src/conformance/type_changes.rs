//! Tests of service.go about types and node ports.

use super::{Outcome, Part, Section, Test, inside, outside};

pub(super) const SECTION: Section = Section {
    title: "Type changes and node ports",
    tests: &[
        outside("should be able to create a functioning NodePort service [Conformance]"),
        inside(
            "should be able to change the type from ExternalName to ClusterIP [Conformance]",
            &[
                "lab::conformance::type_changes::should_be_able_to_change_the_type_from_external_name_to_cluster_ip",
            ],
        ),
        outside("should be able to change the type from ExternalName to NodePort [Conformance]"),
        inside(
            "should be able to change the type from ClusterIP to ExternalName [Conformance]",
            &[
                "lab::conformance::type_changes::should_be_able_to_change_the_type_from_cluster_ip_to_external_name",
            ],
        ),
        outside("should be able to change the type from NodePort to ExternalName [Conformance]"),
        outside(
            "should be able to update service type to NodePort listening on same port number but different protocols",
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
        outside("should release NodePorts on delete"),
        outside(
            "should be possible to connect to a service via ExternalIP when the external IP is not assigned to a node",
        ),
        outside(
            "should serve endpoints on same port and different protocol for internal traffic on Type LoadBalancer",
        ),
    ],
};
