//! Tests of endpointslice.go and endpointslicemirroring.go.

use super::{Section, inside};

pub(super) const SECTION: Section = Section {
    title: "EndpointSlices",
    tests: &[
        inside(
            "should support a Service with multiple ports specified in multiple EndpointSlices [Conformance]",
            &[
                "lab::conformance::slices::should_support_a_service_with_multiple_ports_specified_in_multiple_endpoint_slices",
            ],
        ),
        inside(
            "should support a Service with multiple endpoint IPs specified in multiple EndpointSlices [Conformance]",
            &[
                "lab::conformance::slices::should_support_a_service_with_multiple_endpoint_ips_specified_in_multiple_endpoint_slices",
            ],
        ),
        inside(
            "should mirror a custom Endpoints resource through create update and delete [Conformance]",
            &[
                "lab::conformance::slices::should_mirror_a_custom_endpoints_resource_through_create_update_and_delete",
            ],
        ),
        inside(
            "should mirror a custom Endpoint with multiple subsets and same IP address",
            &[
                "lab::conformance::slices::should_mirror_a_custom_endpoint_with_multiple_subsets_and_same_ip_address",
            ],
        ),
        inside(
            "should create Endpoints and EndpointSlices for Pods matching a Service [Conformance]",
            &[
                "lab::conformance::slices::should_create_endpoints_and_endpoint_slices_for_pods_matching_a_service",
            ],
        ),
    ],
};
