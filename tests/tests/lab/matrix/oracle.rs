//! What Kubernetes says a client should meet. Written from its documents (KEP-1669,
//! KEP-2086, KEP-2433, KEP-3015) a second time, and so on nothing but the standard
//! library: an oracle that shared code with the planner would share its mistakes.

use std::collections::BTreeSet;
use std::fmt;

/// The names in a hint.
pub(crate) type Hint = Option<&'static [&'static str]>;

/// An endpoint as its EndpointSlice says it. `None` is a field that is not there.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) name: &'static str,
    pub(crate) node: Option<&'static str>,
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
    pub(crate) for_zones: Hint,
    pub(crate) for_nodes: Hint,
}

/// `internalTrafficPolicy` or `externalTrafficPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Policy {
    Cluster,
    Local,
}

/// Where a client is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) node: &'static str,
    pub(crate) zone: &'static str,
}

/// What becomes of a client's connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Each of these answers some of them, and no other backend any.
    Answers(BTreeSet<String>),
    /// ECONNREFUSED, all of them.
    Refused,
    /// Neither: a refusal that the kernel cannot report.
    NoAnswer,
}

/// The verdict on a client; `hears_refusals` is whether its socket can get one.
pub(crate) fn verdict(
    endpoints: &[Endpoint],
    policy: Policy,
    client: Place,
    sees_refusals: bool,
) -> Verdict {
    let names = chosen(endpoints, policy, client);
    if !names.is_empty() {
        return Verdict::Answers(names);
    }
    // Also under the policy Local while others have endpoints: kube-proxy would drop, but a
    // socket that can get the refusal at once should.
    if sees_refusals {
        Verdict::Refused
    } else {
        Verdict::NoAnswer
    }
}

/// The verdict on a client at an address for clients outside, which the node at `place` serves.
/// One inside the cluster that its own node serves is `inside`: it is treated as if it had gone
/// out and come back in by any node.
pub(crate) fn outward_verdict(
    endpoints: &[Endpoint],
    policy: Policy,
    place: Place,
    inside: bool,
    sees_refusals: bool,
) -> Verdict {
    let cluster_wide = chosen(endpoints, Policy::Cluster, place);
    let names = match policy {
        Policy::Local if !inside => chosen(endpoints, policy, place),
        _ => cluster_wide.clone(),
    };
    if !names.is_empty() {
        return Verdict::Answers(names);
    }
    // While another node could serve, packets are dropped: a load balancer's health check finds that
    // node.
    if cluster_wide.is_empty() && sees_refusals {
        Verdict::Refused
    } else {
        Verdict::NoAnswer
    }
}

fn chosen(endpoints: &[Endpoint], policy: Policy, client: Place) -> BTreeSet<String> {
    // The policy sets the scope first; what is usable is found within it.
    let scope: Vec<&Endpoint> = endpoints
        .iter()
        .filter(|endpoint| policy == Policy::Cluster || endpoint.node == Some(client.node))
        .collect();
    let ready: Vec<&Endpoint> = scope
        .iter()
        .copied()
        .filter(|endpoint| endpoint.ready.unwrap_or(true))
        .collect();
    let usable = if ready.is_empty() {
        // Those that still serve while they go; hints say nothing about them.
        let last = |endpoint: &&Endpoint| {
            endpoint.serving.unwrap_or(true) && endpoint.terminating.unwrap_or(false)
        };
        scope.into_iter().filter(last).collect()
    } else if policy == Policy::Cluster {
        near(ready, client)
    } else {
        ready
    };
    usable.iter().map(|e| e.name.to_owned()).collect()
}

/// What topology hints leave of the endpoints that are ready: those for the client's node,
/// else those for its zone, else all.
fn near(ready: Vec<&Endpoint>, client: Place) -> Vec<&Endpoint> {
    let for_node = meant_for(&ready, |endpoint| endpoint.for_nodes, client.node);
    let near = for_node.or_else(|| meant_for(&ready, |endpoint| endpoint.for_zones, client.zone));
    near.unwrap_or(ready)
}

/// Those that are meant for it, if there are any and each of all has such a hint.
fn meant_for<'a>(
    ready: &[&'a Endpoint],
    hint: fn(&Endpoint) -> Hint,
    wanted: &str,
) -> Option<Vec<&'a Endpoint>> {
    let mut meant = Vec::new();
    for endpoint in ready {
        if hint(endpoint)?.contains(&wanted) {
            meant.push(*endpoint);
        }
    }
    (!meant.is_empty()).then_some(meant)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                write!(f, "{}", names.join(" "))
            }
            Self::Refused => write!(f, "refused"),
            Self::NoAnswer => write!(f, "no answer"),
        }
    }
}

/// For the table: the name, and whatever is not as in an ordinary endpoint.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        let condition = |name: &str, value: Option<bool>, usual: bool| match value {
            None => format!(",{name}=-"),
            Some(value) if value != usual => format!(",{name}={value}"),
            Some(_) => String::new(),
        };
        f.write_str(&condition("ready", self.ready, true))?;
        f.write_str(&condition("serving", self.serving, true))?;
        f.write_str(&condition("terminating", self.terminating, false))?;
        if self.node.is_none() {
            write!(f, ",node=-")?;
        }
        for (name, hints) in [("zones", self.for_zones), ("nodes", self.for_nodes)] {
            if let Some(hints) = hints {
                write!(f, ",{name}={}", hints.join("+"))?;
            }
        }
        Ok(())
    }
}
