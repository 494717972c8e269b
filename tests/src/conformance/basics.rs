//! Tests of service.go that every Service is under.

use super::{Section, inside};

pub(super) const SECTION: Section = Section {
    title: "Services: basics",
    tests: &[
        inside(
            "should serve a basic endpoint from pods [Conformance]",
            &["lab::conformance::basics::should_serve_a_basic_endpoint_from_pods"],
        ),
        inside(
            "should serve multiport endpoints from pods [Conformance]",
            &["lab::conformance::basics::ports::should_serve_multiport_endpoints_from_pods"],
        ),
        inside(
            "should serve endpoints on same port and different protocols [Conformance]",
            &[
                "lab::conformance::basics::ports::should_serve_endpoints_on_same_port_and_different_protocols",
            ],
        ),
        inside(
            "should be updated after adding or deleting ports",
            &["lab::conformance::basics::ports::should_be_updated_after_adding_or_deleting_ports"],
        ),
        inside(
            "should be able to up and down services",
            &["lab::conformance::basics::should_be_able_to_up_and_down_services"],
        ),
        inside(
            "should work after the service has been recreated",
            &["lab::conformance::basics::should_work_after_the_service_has_been_recreated"],
        ),
        inside(
            "should work after restarting kube-proxy [Disruptive]",
            &[
                "lab::lifecycle::sigterm_ends_the_agent_within_a_second_and_traffic_goes_on",
                "lab::lifecycle::after_a_crash_the_next_start_flushes_nothing_and_keeps_every_id",
                "lab::lifecycle::what_changed_while_the_agent_was_away_is_applied_at_its_start",
            ],
        ),
        inside(
            "should work after restarting apiserver [Disruptive]",
            &["lab::conformance::process::should_work_after_restarting_apiserver"],
        ),
        inside(
            "should preserve source pod IP for traffic thru service cluster IP",
            &[
                "lab::conformance::basics::should_preserve_source_pod_ip_for_traffic_thru_service_cluster_ip",
            ],
        ),
        inside(
            "should allow pods to hairpin back to themselves through services",
            &[
                "lab::conformance::basics::should_allow_pods_to_hairpin_back_to_themselves_through_services",
            ],
        ),
        inside(
            "should not be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is false",
            &[
                "lab::conformance::basics::should_not_be_able_to_connect_to_terminating_and_unready_endpoints_if_publish_not_ready_addresses_is_false",
            ],
        ),
        inside(
            "should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is true",
            &[
                "lab::conformance::basics::should_be_able_to_connect_to_terminating_and_unready_endpoints_if_publish_not_ready_addresses_is_true",
            ],
        ),
        inside(
            "should create endpoints for unready pods",
            &[
                "lab::conformance::basics::should_be_able_to_connect_to_terminating_and_unready_endpoints_if_publish_not_ready_addresses_is_true",
            ],
        ),
        inside(
            "should connect to the ports exposed by restartable init containers",
            &[
                "lab::conformance::basics::ports::should_connect_to_the_named_ports_exposed_by_restartable_init_containers",
            ],
        ),
        inside(
            "should connect to the named ports exposed by restartable init containers",
            &[
                "lab::conformance::basics::ports::should_connect_to_the_named_ports_exposed_by_restartable_init_containers",
            ],
        ),
        inside(
            "should support named targetPorts that resolve to different ports on different endpoints",
            &[
                "lab::conformance::basics::ports::should_support_named_target_ports_that_resolve_to_different_ports_on_different_endpoints",
            ],
        ),
    ],
};
