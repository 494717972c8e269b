//! Tests of loadbalancer.go.

use super::{Section, outside};

pub(super) const SECTION: Section = Section {
    title: "LoadBalancer",
    tests: &[
        outside("should be able to change the type and ports of a TCP service"),
        outside("should be able to change the type and ports of a UDP service"),
        outside("should only allow access from service loadbalancer source ranges"),
        outside("should be able to create LoadBalancer Service without NodePort and change it"),
        outside(
            "should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on different nodes",
        ),
        outside(
            "should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on the same nodes",
        ),
        outside(
            "should not have connectivity disruption during rolling update with externalTrafficPolicy=Cluster",
        ),
        outside(
            "should not have connectivity disruption during rolling update with externalTrafficPolicy=Local",
        ),
        outside("ExternalTrafficPolicy: Local: should work for type=LoadBalancer"),
        outside("ExternalTrafficPolicy: Local: should only target nodes with endpoints"),
        outside("ExternalTrafficPolicy: Local: should target all nodes with endpoints"),
        outside("ExternalTrafficPolicy: Local: should work from pods"),
    ],
};
