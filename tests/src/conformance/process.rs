//! Tests of kube_proxy.go, networking.go, hostport.go and others.

use super::{Outcome, Part, Section, Test, inside, not_applicable, outward};

pub(super) const SECTION: Section = Section {
    title: "The proxy process, and what it leaves alone",
    tests: &[
        inside(
            "should check kube-proxy urls",
            &["lab::conformance::process::should_check_kube_proxy_urls"],
        ),
        not_applicable(
            "KubeProxy should set TCP CLOSE_WAIT timeout",
            "conntrack has no part in a connection that svclb translates",
        ),
        Test {
            name: "should update metric for tracking accepted packets destined for localhost nodeports",
            part: Part::Outside,
            outcome: Outcome::NotApplicable("of the iptables mode alone"),
        },
        inside(
            "should recreate its iptables rules if they are deleted [Disruptive]",
            &["lab::conformance::process::should_recreate_its_programs_if_they_are_detached"],
        ),
        not_applicable(
            "Service endpoints latency should not be very high [Conformance]",
            "it times the controllers, from a Service to its Endpoints, and not the proxy",
        ),
        inside(
            "Service CIDRs should create Services and serve on different Service CIDRs",
            &[
                "lab::conformance::process::should_create_services_and_serve_on_different_service_cidrs",
            ],
        ),
        outward(
            "HostPort validates that there is no conflict between pods with same hostPort but different hostIP and protocol [Conformance]",
            &[
                "lab::conformance::node_ports::should_leave_ports_of_the_host_to_pods_with_the_same_number_at_other_addresses_or_protocols",
            ],
        ),
        inside(
            "NoSNAT should be able to send traffic between Pods without SNAT",
            &[
                "lab::conformance::process::should_be_able_to_send_traffic_between_pods_without_snat",
            ],
        ),
    ],
};
