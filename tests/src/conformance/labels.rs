//! Tests of service.go about labels, and about Services without endpoints.

use super::{Section, inside};

pub(super) const SECTION: Section = Section {
    title: "Labels and rejection",
    tests: &[
        inside(
            "should implement service.kubernetes.io/service-proxy-name",
            &["lab::conformance::labels::should_implement_service_proxy_name"],
        ),
        inside(
            "should implement service.kubernetes.io/headless",
            &["lab::conformance::labels::should_implement_headless"],
        ),
        inside(
            "should be rejected when no endpoints exist",
            &[
                "lab::refusal::tcp_is_refused_at_once_for_pods_and_the_host_in_both_families",
                "lab::refusal::a_connected_udp_socket_is_refused",
                "lab::refusal::an_unconnected_udp_socket_is_refused_where_the_kernel_can_say_so",
                "lab::conformance::node_ports::should_be_rejected_when_no_endpoints_exist",
            ],
        ),
        inside(
            "should be rejected for evicted pods (no endpoints exist)",
            &[
                "lab::conformance::labels::should_be_rejected_for_evicted_pods_where_no_endpoints_exist",
            ],
        ),
    ],
};
