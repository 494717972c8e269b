//! Endpoints that come and go, many times a second, in front of servers that are there only as
//! long as they may be asked.
//!
//! That a client was given an endpoint which was not one at that instant shows by itself: a
//! server is closed a while after its endpoint went, so that a client that still comes is refused; and
//! each Service has a port of its own at the backends, which every answer names.

mod plan;
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::manifests::{Endpoint, Manifests, Service};
use crate::{Pod, Tally, Transport};
use plan::{Plan, State};

pub use world::{Options, World};

/// A backend and where it is.
pub(crate) struct Backend {
    pub(crate) pod: Pod,
    pub(crate) node: String,
}

/// A Service whose endpoints change.
struct Churned {
    service: Service,
    target: u16,
    plan: Plan,
    /// Of each backend, whether it serves.
    serves: Vec<bool>,
}

/// An endpoint that is gone, and whose server is to go too.
struct Gone {
    since: Instant,
    service: usize,
    backend: usize,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// How many times a Service was written.
    pub changes: u64,
    /// How many servers were closed.
    pub closed: u64,
    /// For each of them that was asked after its endpoint had gone: over what, and for how long.
    pub late: Vec<(Transport, Duration)>,
}

/// What the clients got.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// How many questions were answered: a TCP connection or a UDP socket each.
    pub answered: u64,
    /// Those that were not, by client, address and error.
    pub failures: BTreeMap<String, u64>,
    /// UDP sockets that were destroyed while they waited for an answer: the endpoint that they
    /// were connected to had gone without a time to terminate.
    pub aborted: u64,
    /// How many were shown a name that they had not asked.
    pub wrong_names: u64,
    /// How long the slowest connect took, in nanoseconds.
    pub slowest: u64,
}

impl Results {
    fn add(&mut self, client: &str, tally: &Tally) {
        self.answered += tally.answered();
        self.wrong_names += tally.wrong_names;
        self.slowest = self.slowest.max(tally.connect.max);
        for (failure, count) in &tally.failures {
            if failure.starts_with("Udp to") && failure.ends_with("ECONNABORTED") {
                self.aborted += count;
            } else {
                let whose = format!("{client}: {failure}");
                *self.failures.entry(whose).or_default() += count;
            }
        }
    }

    /// How many questions failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Whether all is as it should be.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.wrong_names == 0
    }
}

/// Changes Services, one at a time.
pub struct Churn {
    manifests: Manifests,
    backends: Vec<Backend>,
    services: Vec<Churned>,
    gone: VecDeque<Gone>,
    /// How long a server outlives its endpoint.
    grace: Duration,
    /// Since when every agent runs; none while one of them is away.
    all_run_since: Option<Instant>,
    rng: fastrand::Rng,
    done: Done,
}

impl Churn {
    fn new(
        manifests: Manifests,
        backends: Vec<Backend>,
        grace: Duration,
        rng: fastrand::Rng,
    ) -> Self {
        Self {
            manifests,
            backends,
            services: Vec::new(),
            gone: VecDeque::new(),
            grace,
            all_run_since: Some(Instant::now()),
            rng,
            done: Done::default(),
        }
    }

    /// Adds a Service which the backends answer at their port `target`.
    fn add(&mut self, service: Service, target: u16) -> Result<()> {
        let count = self.backends.len();
        self.services.push(Churned {
            service,
            target,
            plan: Plan::new(count, &mut self.rng),
            serves: vec![false; count],
        });
        self.publish(self.services.len() - 1)
    }

    /// Makes the next change of some Service, and closes the servers whose time has come.
    fn step(&mut self) -> Result<()> {
        let index = self.rng.usize(..self.services.len());
        let before = self.services[index].plan.clone();
        self.services[index].plan.step(&mut self.rng);
        self.publish(index)?;
        let after = &self.services[index].plan;
        for (backend, (was, is)) in before.states().zip(after.states()).enumerate() {
            if was != State::Out && is == State::Out {
                self.gone.push_back(Gone {
                    since: Instant::now(),
                    service: index,
                    backend,
                });
            }
        }
        self.done.changes += 1;
        self.close()
    }

    /// Changes Services at this rate, until then.
    fn run_until(&mut self, end: Instant, each: Duration) -> Result<()> {
        let mut next = Instant::now();
        while Instant::now() < end {
            self.step()?;
            // Late steps are made up for, but not by a burst without end.
            next = (next + each).max(Instant::now().checked_sub(each * 10).unwrap_or(next));
            sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// Writes a Service, whose endpoints serve by then.
    fn publish(&mut self, index: usize) -> Result<()> {
        let churned = &mut self.services[index];
        let mut objects = vec![churned.service.object()];
        let mut slices = [Vec::new(), Vec::new()];
        for (number, state) in churned.plan.states().enumerate() {
            let backend = &self.backends[number];
            if state == State::Out {
                continue;
            }
            if !churned.serves[number] {
                for transport in [Transport::Tcp, Transport::Udp] {
                    backend.pod.serve(transport, churned.target)?;
                }
                churned.serves[number] = true;
            }
            let ips = [IpAddr::from(backend.pod.v4()), backend.pod.v6().into()];
            for (slice, ip) in slices.iter_mut().zip(ips) {
                let endpoint = Endpoint::new(ip).on(&backend.node);
                slice.push(match state {
                    State::Terminating => endpoint.terminating(true),
                    _ => endpoint,
                });
            }
        }
        objects.extend(slices.iter().map(|slice| churned.service.slice_of(slice)));
        let file = format!("{}.yaml", churned.service.name());
        self.manifests.put(&file, &objects)
    }

    /// Closes servers whose endpoints have been gone for long enough. While an agent is away
    /// its programs go on choosing them.
    fn close(&mut self) -> Result<()> {
        let Some(since) = self.all_run_since else {
            return Ok(());
        };
        while let Some(gone) = self.gone.front() {
            if gone.since.max(since).elapsed() < self.grace {
                break;
            }
            let Some(gone) = self.gone.pop_front() else {
                break;
            };
            let churned = &mut self.services[gone.service];
            let again = churned.plan.state(gone.backend) != State::Out;
            let waits = self
                .gone
                .iter()
                .any(|other| (other.service, other.backend) == (gone.service, gone.backend));
            if again || waits || !churned.serves[gone.backend] {
                continue;
            }
            churned.serves[gone.backend] = false;
            let pod = &self.backends[gone.backend].pod;
            for transport in [Transport::Tcp, Transport::Udp] {
                let idle = pod.withdraw(transport, churned.target)?;
                let late = idle.and_then(|idle| gone.since.elapsed().checked_sub(idle));
                let late = late.filter(|late| !late.is_zero());
                self.done.late.extend(late.map(|late| (transport, late)));
            }
            self.done.closed += 1;
        }
        Ok(())
    }

    /// What the maps of a dump have otherwise than they should; none if all is as it should be.
    fn differs(&self, dump: &Value) -> Result<Option<String>> {
        let ports = dump["services"]
            .as_array()
            .context("no services in the dump")?;
        for churned in &self.services {
            let name = churned.service.name();
            let mut wanted: Vec<_> = self.ready(churned);
            wanted.sort();
            let its = ports.iter().filter(|port| port["name"] == *name);
            for family in ["IPv4", "IPv6"] {
                for port in its.clone().filter(|port| port["family"] == family) {
                    let mut found: Vec<_> = port["backends"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter(|backend| backend["internal"] == true)
                        .filter_map(|backend| backend["address"].as_str())
                        .map(str::to_owned)
                        .collect();
                    found.sort();
                    let of_family = wanted
                        .iter()
                        .filter(|address| address.starts_with('[') == (family == "IPv6"));
                    if !found.iter().eq(of_family.clone()) {
                        let wanted: Vec<_> = of_family.collect();
                        return Ok(Some(format!(
                            "{name} ({family}) has {found:?}, and not {wanted:?}"
                        )));
                    }
                }
            }
            if its.count() != 4 {
                return Ok(Some(format!("{name} has not two ports in two families")));
            }
        }
        Ok(None)
    }

    fn ready(&self, churned: &Churned) -> Vec<String> {
        let ready = churned.plan.states().zip(&self.backends);
        let ready = ready.filter(|(state, _)| *state == State::Ready);
        let target = churned.target;
        ready
            .flat_map(|(_, backend)| [backend.pod.v4_at(target), backend.pod.v6_at(target)])
            .map(|address| address.to_string())
            .collect()
    }
}
