//! Tests that no proxy can fail.

use super::{Section, not_applicable};

pub(super) const SECTION: Section = Section {
    title: "The API server alone",
    tests: &[
        not_applicable(
            "should find a service from listing all namespaces [Conformance]",
            "asserts nothing of a proxy",
        ),
        not_applicable(
            "should complete a service status lifecycle [Conformance]",
            "asserts nothing of a proxy",
        ),
        not_applicable(
            "should delete a collection of services [Conformance]",
            "asserts nothing of a proxy",
        ),
        not_applicable(
            "should test the lifecycle of an Endpoint [Conformance]",
            "asserts nothing of a proxy",
        ),
        not_applicable(
            "should support creating EndpointSlice API operations [Conformance]",
            "asserts nothing of a proxy",
        ),
        not_applicable(
            "should support ServiceCIDR and IPAddress API operations [Conformance]",
            "asserts nothing of a proxy",
        ),
        not_applicable(
            "Proxy subresource tests (Proxy version v1) [Conformance]",
            "asserts nothing of a proxy",
        ),
    ],
};
