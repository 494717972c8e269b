//! The invariant on which the project is built: whatever stops between any two operations, a
//! reader sees the old set or the new set, whole; and the next start gets there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use svclb_common::{
    Addr16, BackendValue, FrontendKey, FrontendValue, Label, PortBe, Proto, Scope, ServiceFamily,
    ServiceRecord, SlotRange, SourceRange,
};
use svclb_core::fake::{Contents, Entry, FakeMaps};
use svclb_core::image::Fill;
use svclb_core::invariants;
use svclb_core::op::Op;
use svclb_core::plan::{Frontend, FrontendKind, PortPlan};
use svclb_core::planner::Round;
use svclb_core::ports::{PortBit, PortRules, PortSet};
use svclb_core::writer::{Drift, Writer};

/// Service ports by number; each with its frontends, backends, members flag and source ranges.
type State = BTreeMap<u8, (BTreeSet<u8>, BTreeSet<u8>, bool, BTreeSet<u8>)>;

fn rules() -> PortRules {
    PortRules {
        source_ports: 50_000..=50_001,
        cluster_ips: false,
    }
}

fn state() -> impl Strategy<Value = State> {
    let port = (
        prop::collection::btree_set(0_u8..3, 0..3),
        prop::collection::btree_set(0_u8..9, 0..6),
        any::<bool>(),
        prop::collection::btree_set(0_u8..3, 0..3),
    );
    prop::collection::btree_map(0_u8..4, port, 0..4)
}

fn record(number: u8) -> ServiceRecord {
    ServiceRecord {
        namespace: Label::new("default").unwrap(),
        name: Label::new(&format!("service-{number}")).unwrap(),
        port_name: Label::new("").unwrap(),
        proto: Proto::TCP,
        family: ServiceFamily::V4,
        reserved: [0; 2],
    }
}

/// Frontends 0 and 1 are a Service's own; 2 is one address that all of them may have, so
/// that it moves from one to another.
fn frontend(service: u8, number: u8) -> FrontendKey {
    let host = if number == 2 {
        0
    } else {
        10 * service + number + 1
    };
    FrontendKey {
        addr: Addr16::from_ip([10, 96, 0, host].into()),
        port: PortBe::new(80 + u16::from(number)),
        proto: Proto::TCP,
        scope: Scope::ANY,
    }
}

fn backend(number: u8) -> BackendValue {
    BackendValue::new(
        Addr16::from_ip([10, 244, 0, number].into()),
        PortBe::new(8080 + u16::from(number % 3)),
        Proto::TCP,
    )
}

fn source(number: u8) -> SourceRange {
    SourceRange {
        addr: Addr16::from_ip([192, 0, number, 0].into()),
        bits: 120,
    }
}

fn plans(state: &State) -> Vec<PortPlan> {
    let mut shared_taken = false;
    state
        .iter()
        .map(|(number, (frontends, backends, members, sources))| {
            let range = SlotRange {
                first: 0,
                count: backends.len() as u32,
            };
            PortPlan {
                record: record(*number),
                frontends: frontends
                    .iter()
                    .filter(|f| **f != 2 || !std::mem::replace(&mut shared_taken, true))
                    .map(|f| Frontend {
                        kind: FrontendKind::LoadBalancer,
                        key: frontend(*number, *f),
                    })
                    .collect(),
                slots: backends.iter().map(|b| backend(*b)).collect(),
                internal: range,
                inside: range,
                external: range,
                sources: sources.iter().copied().map(source).collect(),
                own: BTreeSet::new(),
                masquerade: false,
                served: range.count > 0,
                affinity_seconds: 0,
                members: *members,
            }
        })
        .collect()
}

fn round(from: &State, to: &State) -> Round {
    Round {
        plans: plans(to),
        removed: from
            .keys()
            .filter(|n| !to.contains_key(n))
            .map(|n| record(*n))
            .collect(),
        conflicts: Vec::new(),
        health_checks: BTreeMap::new(),
    }
}

/// What a frontend leads to: its backends in order, and the clients that it lets in (`None` for
/// all).
type Target = (Vec<BackendValue>, Option<BTreeSet<SourceRange>>);

/// What every frontend should lead to; absent if it leads nowhere.
fn targets(state: &State) -> BTreeMap<FrontendKey, Target> {
    plans(state)
        .into_iter()
        .flat_map(|plan| {
            let is_limited = !plan.sources.is_empty() && !plan.slots.is_empty();
            let sources = is_limited.then(|| plan.sources.into_iter().collect());
            let target = (plan.slots, sources);
            plan.frontends
                .into_iter()
                .map(move |frontend| (frontend.key, target.clone()))
        })
        .collect()
}

/// What a reader finds in these contents that has a frontend's value already; `None` if a slot is
/// missing.
fn observed(contents: &Contents, value: &FrontendValue) -> Option<Target> {
    let slots = contents.resolve(value).into_iter();
    let backends = slots
        .map(|slot| slot.map(|s| BackendValue::new(s.addr, s.port, Proto::TCP)))
        .collect::<Option<_>>()?;
    Some((backends, contents.sources(value)))
}

fn actual(contents: &Contents) -> BTreeMap<FrontendKey, Target> {
    let frontends = contents.maps.frontends.iter();
    frontends
        .map(|(key, value)| (*key, observed(contents, value).expect("a slot is missing")))
        .collect()
}

/// All contents of the maps, from before the first operation to after the last; and for
/// each how many grace periods had passed.
fn history(start: Contents, journal: &[Entry]) -> Vec<(Contents, usize)> {
    let mut moments = vec![(start.clone(), 0)];
    let (mut contents, mut graces) = (start, 0);
    for entry in journal {
        match entry {
            Entry::Op(op) => contents.perform(op),
            Entry::GracePeriod => graces += 1,
        }
        moments.push((contents.clone(), graces));
    }
    moments
}

fn bring(maps: FakeMaps, from: &State, to: &State) -> Writer<FakeMaps> {
    let mut writer = Writer::adopt(maps, rules()).unwrap();
    let report = writer.commit(&round(from, to));
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    let _collected = writer.settle().unwrap();
    writer
}

const UNLIMITED: Fill = Fill {
    frontends: usize::MAX,
    slots: usize::MAX,
    sources: usize::MAX,
    backends: usize::MAX,
    services: usize::MAX,
};

/// A round, and what is wrong with the maps meanwhile.
#[derive(Clone, Debug)]
struct Attempt {
    to: State,
    /// The operations that fail, by number.
    failing: BTreeSet<usize>,
    /// The operation from which on all fail.
    stop_after: Option<usize>,
    /// How many more entries than now each map may hold.
    spare: Option<usize>,
    /// Whether Service ports that failed before are part of the round.
    retries: bool,
    audits: bool,
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let faults = (
        prop::collection::btree_set(0_usize..40, 0..6),
        prop::option::weighted(0.3, 0_usize..40),
        prop::option::weighted(0.3, 0_usize..6),
    );
    (state(), faults, any::<bool>(), any::<bool>()).prop_map(
        |(to, (failing, stop_after, spare), retries, audits)| Attempt {
            to,
            failing,
            stop_after,
            spare,
            retries,
            audits,
        },
    )
}

/// What the agent does: rounds of what changed, and again of what failed.
struct Agent {
    writer: Writer<FakeMaps>,
    state: State,
    failing: BTreeSet<ServiceRecord>,
    /// The seconds of a clock.
    now: u64,
}

impl Agent {
    fn new() -> Self {
        Self {
            writer: Writer::adopt(FakeMaps::default(), rules()).unwrap(),
            state: State::new(),
            failing: BTreeSet::new(),
            now: 0,
        }
    }

    /// The Service ports that changed, and those of `again`.
    fn round(&self, to: &State, again: &BTreeSet<ServiceRecord>) -> Round {
        let mut round = round(&self.state, to);
        let before = plans(&self.state);
        round
            .plans
            .retain(|plan| again.contains(&plan.record) || !before.contains(plan));
        let there: BTreeSet<_> = to.keys().map(|number| record(*number)).collect();
        let gone = again.difference(&there).copied();
        round.removed = gone.chain(round.removed).collect();
        round.removed.sort_unstable();
        round.removed.dedup();
        round
    }

    fn write(&mut self, to: &State, retries: bool) -> bool {
        let again = match retries {
            true => std::mem::take(&mut self.failing),
            false => BTreeSet::new(),
        };
        let round = self.round(to, &again);
        let planned = round.plans.iter().map(|plan| plan.record);
        for record in planned.chain(round.removed.iter().copied()) {
            self.failing.remove(&record);
        }
        let failed = self.writer.commit(&round).failed;
        self.failing
            .extend(failed.iter().map(|failed| failed.record));
        self.state = to.clone();
        let is_settled = self.writer.settle().is_ok();
        self.now += 20;
        let now = Duration::from_secs(self.now);
        let freed = self.writer.free(now, Duration::from_secs(60));
        failed.is_empty() && is_settled && freed.is_ok()
    }

    fn attempt(&mut self, attempt: &Attempt) {
        let fill = self.writer.fill();
        let maps = self.writer.maps();
        maps.fail_at(attempt.failing.clone());
        maps.stop_after = attempt.stop_after;
        maps.capacity = attempt.spare.map(|spare| Fill {
            frontends: fill.frontends + spare,
            slots: fill.slots + spare,
            sources: fill.sources + spare,
            backends: fill.backends + spare,
            services: fill.services + spare,
        });
        let before = maps.contents.clone();
        let done = maps.journal.len();
        let _is_whole = self.write(&attempt.to, attempt.retries);
        let asked = targets(&attempt.to);
        let served: Vec<_> = before.maps.frontends.keys().copied().collect();
        for (contents, _) in history(before, &self.writer.maps().journal[done..]) {
            let violations = invariants::check(&contents.snapshot(), &rules());
            assert!(violations.is_empty(), "{}", violations[0]);
            for key in served.iter().filter(|key| asked.contains_key(key)) {
                assert!(contents.maps.frontends.contains_key(key), "{key} is absent");
            }
        }
        if attempt.audits {
            assert_eq!(
                self.writer.audit().unwrap(),
                Drift::default(),
                "no other program wrote"
            );
        }
    }

    /// Nothing fails any more, and nothing changes until every id is out of quarantine.
    fn recover(&mut self) {
        let maps = self.writer.maps();
        maps.fail_at(BTreeSet::new());
        maps.stop_after = None;
        maps.capacity = None;
        let state = self.state.clone();
        for _ in 0..5 {
            assert!(self.write(&state, true));
        }
    }
}

/// The maps hold what these states ask for and not a row more.
fn check_nothing_else(contents: &Contents, state: &State) -> Result<(), TestCaseError> {
    prop_assert_eq!(actual(contents), targets(state));
    let plans = plans(state);
    let plans = || plans.iter().filter(|plan| !plan.frontends.is_empty());
    let slots: usize = plans()
        .map(|plan| plan.slots.len() << usize::from(plan.members))
        .sum();
    prop_assert_eq!(contents.slots.len(), slots, "slots");
    let with_slots = plans().filter(|plan| !plan.slots.is_empty());
    let sources: usize = with_slots.map(|plan| plan.sources.len()).sum();
    prop_assert_eq!(contents.maps.sources.len(), sources, "sources");
    let services: BTreeSet<_> = contents.maps.services.values().copied().collect();
    prop_assert_eq!(services.len(), contents.maps.services.len());
    prop_assert_eq!(services, plans().map(|plan| plan.record).collect());
    let backends: BTreeSet<_> = contents.maps.backends.values().copied().collect();
    prop_assert_eq!(backends.len(), contents.maps.backends.len());
    let wanted = plans().flat_map(|plan| plan.slots.iter().copied());
    prop_assert_eq!(backends, wanted.collect());
    Ok(())
}

/// A reader looks a frontend up at one moment and its slots at any later moment before a
/// grace period that began after the first has ended.
fn check_readers(
    moments: &[(Contents, usize)],
    old: &State,
    new: &State,
) -> Result<(), TestCaseError> {
    let (old, new) = (targets(old), targets(new));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    for (at, (first, grace)) in moments.iter().enumerate() {
        let violations = invariants::check(&first.snapshot(), &rules());
        prop_assert!(violations.is_empty(), "after {at}: {}", violations[0]);
        for key in &keys {
            let Some(value) = first.maps.frontends.get(key) else {
                prop_assert!(
                    !(old.contains_key(key) && new.contains_key(key)),
                    "{key} was served and is to be served, and is absent after {at}"
                );
                continue;
            };
            for (later, _) in moments[at..]
                .iter()
                .take_while(|(_, passed)| passed == grace)
            {
                let seen = observed(later, value);
                prop_assert!(seen.is_some(), "{key} of moment {at} misses a slot");
                prop_assert!(
                    seen.as_ref() == old.get(key) || seen.as_ref() == new.get(key),
                    "{key} of moment {at} leads to {seen:?}, a mix"
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_every_prefix_a_reader_sees_the_old_or_the_new_set_whole(
        zero in state(), old in state(), new in state(),
    ) {
        let before = bring(bring(FakeMaps::default(), &State::new(), &zero).maps().clone(), &zero, &old)
            .maps().contents.clone();
        let mut writer = bring(FakeMaps::holding(before.clone()), &old, &new);
        let moments = history(before, &writer.maps().journal);
        check_readers(&moments, &old, &new)?;
        prop_assert_eq!(actual(&writer.maps().contents), targets(&new));
    }

    #[test]
    fn stopping_at_any_operation_and_starting_again_reaches_the_desired_state(
        old in state(), new in state(), stop in 0_usize..60,
    ) {
        let before = bring(FakeMaps::default(), &State::new(), &old).maps().contents.clone();
        let mut writer = Writer::adopt(FakeMaps {
            stop_after: Some(stop),
            ..FakeMaps::holding(before.clone())
        }, rules()).unwrap();
        let _report = writer.commit(&round(&old, &new));
        let _collected = writer.settle();
        let mut journal = writer.maps().journal.clone();
        let left = writer.maps().contents.clone();

        // The next start knows nothing of the old state but what is in the maps.
        let mut again = Writer::adopt(FakeMaps::holding(left), rules()).unwrap();
        let wanted = plans(&new).iter().map(|plan| plan.record).collect();
        let report = again.commit(&round(&State::new(), &new));
        prop_assert!(report.failed.is_empty());
        prop_assert!(again.remove_others(&wanted).failed.is_empty());
        let _collected = again.settle().unwrap();
        journal.extend(again.maps().journal.clone());

        prop_assert_eq!(actual(&again.maps().contents), targets(&new));
        check_readers(&history(before, &journal), &old, &new)?;
        let slots = again.maps().contents.slots.len();
        prop_assert_eq!(slots, again.fill().slots);
        let wanted_slots: usize = plans(&new).iter()
            .filter(|p| !p.frontends.is_empty())
            .map(|p| p.slots.len() << usize::from(p.members)).sum();
        prop_assert_eq!(slots, wanted_slots, "a crash left rows behind");
        let sources = again.maps().contents.maps.sources.len();
        let wanted_sources: usize = plans(&new).iter()
            .filter(|p| !p.frontends.is_empty() && !p.slots.is_empty())
            .map(|p| p.sources.len()).sum();
        prop_assert_eq!(sources, wanted_sources, "a crash left ranges behind");
        prop_assert_eq!(sources, again.fill().sources);
    }

    #[test]
    fn a_second_plan_is_empty(old in state(), new in state()) {
        let maps = bring(FakeMaps::default(), &State::new(), &old).maps().clone();
        let mut writer = bring(maps, &old, &new);
        let (changes, failed) = writer.diff(&round(&new, &new));
        prop_assert!(changes.is_empty() && failed.is_empty(), "{changes:?}");

        let mut adopted = Writer::adopt(writer.maps().clone(), rules()).unwrap();
        let (changes, _) = adopted.diff(&round(&new, &new));
        prop_assert!(changes.is_empty(), "after a restart: {changes:?}");
        prop_assert!(adopted.retire().is_empty());
    }

    #[test]
    fn a_full_map_keeps_what_was_served_and_every_invariant(
        old in state(), new in state(), spare in 0_usize..8,
    ) {
        let before = bring(FakeMaps::default(), &State::new(), &old).maps().contents.clone();
        let capacity = before.slots.len() + spare;
        let mut writer = Writer::adopt(FakeMaps {
            capacity: Some(Fill { slots: capacity, ..UNLIMITED }),
            ..FakeMaps::holding(before.clone())
        }, rules()).unwrap();
        let report = writer.commit(&round(&old, &new));
        prop_assert!(report.failed.iter().all(|failed| failed.full));
        let _collected = writer.settle().unwrap();
        let moments = history(before, &writer.maps().journal);
        let failed: BTreeSet<_> = report.failed.iter().map(|f| f.record).collect();
        let (old_targets, new_targets) = (targets(&old), targets(&new));
        for (contents, _) in &moments {
            prop_assert!(invariants::check(&contents.snapshot(), &rules()).is_empty());
        }
        let now = actual(&writer.maps().contents);
        for plan in plans(&new) {
            for Frontend { key, .. } in plan.frontends {
                if failed.contains(&plan.record) {
                    prop_assert_eq!(now.get(&key), old_targets.get(&key), "{} of a Service that failed", key);
                } else {
                    prop_assert_eq!(now.get(&key), new_targets.get(&key));
                }
            }
        }
    }

    #[test]
    fn a_freed_id_means_nothing_else_before_its_quarantine_is_over(states in prop::collection::vec(state(), 2..8)) {
        let mut writer = Writer::adopt(FakeMaps::default(), rules()).unwrap();
        let mut from = State::new();
        let mut last_seen = BTreeMap::new();
        for (step, to) in states.iter().enumerate() {
            let now = Duration::from_secs(10 * step as u64);
            let _report = writer.commit(&round(&from, to));
            let _collected = writer.settle().unwrap();
            let _freed = writer.free(now, Duration::from_secs(60)).unwrap();
            let contents = &writer.maps().contents;
            for slot in contents.slots.values() {
                let value = (slot.addr, slot.port);
                let before = last_seen.insert(slot.backend, (value, step));
                if let Some((other, seen)) = before {
                    prop_assert!(other == value || step - seen > 6, "id {} changed its meaning", slot.backend);
                }
            }
            from = to.clone();
        }
    }
}

proptest! {
    #[test]
    fn an_audit_finds_whatever_is_missing_and_planning_again_repairs_it(
        state in state(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        starts_again in any::<bool>(),
    ) {
        let mut writer = bring(FakeMaps::default(), &State::new(), &state);
        prop_assert_eq!(writer.audit().unwrap(), Drift::default());
        let contents = &mut writer.maps().contents;
        for pick in picks {
            let rows = rows(contents);
            if !rows.is_empty() {
                contents.perform(&rows[pick.index(rows.len())]);
            }
        }
        if starts_again {
            writer = Writer::adopt(writer.maps().clone(), rules()).unwrap();
        } else {
            prop_assert!(writer.audit().unwrap().total() > 0, "it went unnoticed");
        }
        let report = writer.commit(&round(&State::new(), &state));
        prop_assert!(report.failed.is_empty());
        let wanted = plans(&state).iter().map(|plan| plan.record).collect();
        prop_assert!(writer.remove_others(&wanted).failed.is_empty());
        let _collected = writer.settle().unwrap();
        for seconds in [0, 60] {
            let now = Duration::from_secs(seconds);
            let _freed = writer.free(now, Duration::from_secs(60)).unwrap();
        }
        let contents = &writer.maps().contents;
        let violations = invariants::check(&contents.snapshot(), &rules());
        prop_assert!(violations.is_empty(), "{}", violations[0]);
        check_nothing_else(contents, &state)?;
        prop_assert_eq!(writer.audit().unwrap(), Drift::default());
    }
}

/// What deletes each row and clears each bit.
fn rows(contents: &Contents) -> Vec<Op> {
    let maps = &contents.maps;
    let frontends = maps.frontends.keys().copied().map(Op::DeleteFrontend);
    let slots = contents.slots.keys().copied().map(Op::DeleteSlot);
    let sources = maps.sources.iter().copied().map(Op::DeleteSource);
    let backends = maps.backends.keys().copied().map(Op::DeleteBackend);
    let services = maps.services.keys().copied().map(Op::DeleteService);
    let ports = maps.ports.iter().map(Op::ClearPort);
    let of_services = frontends.chain(slots).chain(sources);
    of_services
        .chain(backends)
        .chain(services)
        .chain(ports)
        .collect()
}

#[test]
fn an_audit_sets_cleared_bits_again_at_once() {
    let one = State::from([(1, has_shared_address([1, 2].into()))]);
    let mut writer = bring(FakeMaps::default(), &State::new(), &one);
    let contents = writer.maps().contents.clone();
    let bits: Vec<_> = contents.maps.ports.iter().collect();
    // Two source ports, one of a frontend, two of slots.
    assert_eq!(bits.len(), 5, "{bits:?}");
    for bit in &bits {
        writer.maps().contents.perform(&Op::ClearPort(*bit));
    }
    let found = writer.audit().unwrap();
    assert_eq!((found.ports, found.total()), (5, 5));
    assert_eq!(writer.maps().contents, contents);
    assert_eq!(writer.audit().unwrap(), Drift::default());
}

#[test]
fn an_audit_that_cannot_write_still_says_that_services_differ() {
    let one = State::from([(1, has_shared_address([1, 2].into()))]);
    let mut writer = bring(FakeMaps::default(), &State::new(), &one);
    let stranger = FrontendValue {
        service: svclb_common::ServiceId::new(77),
        ..FrontendValue::default()
    };
    let contents = &mut writer.maps().contents;
    contents.maps.frontends.clear();
    contents.maps.frontends.insert(frontend(1, 1), stranger);
    contents.maps.backends.clear();
    // Neither the backends can be written again nor the frontend be deleted.
    writer.maps().stop_after = Some(0);
    let error = writer.audit().unwrap_err();
    assert_eq!((error.drift.services, error.drift.backends), (2, 2));
    writer.maps().stop_after = None;
    // Another program deletes that frontend: no later audit finds anything wrong with it.
    writer.maps().contents.maps.frontends.clear();
    let found = writer.audit().unwrap();
    assert_eq!(found.backends, 2);
    let report = writer.commit(&round(&State::new(), &one));
    assert!(report.failed.is_empty());
    let contents = &writer.maps().contents;
    assert_eq!(actual(contents), targets(&one));
    assert!(invariants::check(&contents.snapshot(), &rules()).is_empty());
}

#[test]
fn records_and_backends_keep_their_ids_when_their_rows_are_deleted() {
    let one = State::from([(1, has_shared_address([1, 2].into()))]);
    let mut writer = bring(FakeMaps::default(), &State::new(), &one);
    let contents = writer.maps().contents.clone();
    let maps = &mut writer.maps().contents.maps;
    maps.services.clear();
    maps.backends.clear();
    let found = writer.audit().unwrap();
    assert_eq!((found.services, found.backends), (1, 2));
    assert_eq!(writer.maps().contents, contents);
}

#[test]
fn a_start_keeps_every_bit_until_those_that_nothing_needs_are_cleared() {
    let one = State::from([(1, has_shared_address([1].into()))]);
    let mut writer = bring(FakeMaps::default(), &State::new(), &one);
    let _report = writer.commit(&round(&one, &State::new()));
    let _collected = writer.settle().unwrap();
    let [of_frontend, of_slot] = [
        PortBit::ingress(PortBe::new(82)),
        PortBit::egress(PortBe::new(8081)),
    ];
    let ports = writer.maps().contents.maps.ports.clone();
    assert!(
        ports.contains(of_frontend) && ports.contains(of_slot),
        "flows may go on"
    );

    let mut maps = FakeMaps::holding(writer.maps().contents.clone());
    maps.flow_ports.insert(of_slot);
    let mut writer = Writer::adopt(maps, rules()).unwrap();
    assert_eq!(
        writer.maps().contents.maps.ports,
        ports,
        "programs of before run on"
    );
    assert_eq!(writer.clear_ports().unwrap(), 1);
    let ports = writer.maps().contents.maps.ports.clone();
    assert!(!ports.contains(of_frontend) && ports.contains(of_slot));
    assert_eq!(writer.clear_ports().unwrap(), 0);
    // What is cleared is set again with what needs it.
    let report = writer.commit(&round(&State::new(), &one));
    assert!(report.failed.is_empty());
    let contents = writer.maps().contents.snapshot();
    assert!(invariants::check(&contents, &rules()).is_empty());
    // What flows need is set where it was not: the map may be another one.
    let mut maps = FakeMaps::default();
    maps.flow_ports.insert(of_slot);
    let mut writer = Writer::adopt(maps, rules()).unwrap();
    assert!(writer.maps().contents.maps.ports.contains(of_slot));
}

#[test]
fn other_settings_need_other_bits_and_no_frontend_is_written_for_it() {
    let one = State::from([(1, has_shared_address([1].into()))]);
    let mut writer = bring(FakeMaps::default(), &State::new(), &one);
    let mut maps = FakeMaps::holding(writer.maps().contents.clone());
    maps.contents.maps.ports = PortSet::default();
    let mut writer = Writer::adopt(
        maps,
        PortRules {
            source_ports: 7..=7,
            ..rules()
        },
    )
    .unwrap();
    let ports: Vec<_> = writer.maps().contents.maps.ports.iter().collect();
    let expected = [
        PortBit::ingress(PortBe::new(7)),
        PortBit::ingress(PortBe::new(82)),
        PortBit::egress(PortBe::new(8081)),
    ];
    assert_eq!(ports, expected);
    let (changes, failed) = writer.diff(&round(&State::new(), &one));
    assert!(changes.is_empty() && failed.is_empty());
}

#[test]
fn a_frontend_that_names_no_service_is_removed_by_an_audit() {
    let mut writer = bring(FakeMaps::default(), &State::new(), &State::new());
    let stranger = svclb_common::FrontendValue {
        service: svclb_common::ServiceId::new(77),
        ..svclb_common::FrontendValue::default()
    };
    let contents = &mut writer.maps().contents;
    contents.maps.frontends.insert(frontend(1, 1), stranger);
    assert_eq!(writer.audit().unwrap().services, 1);
    assert!(writer.maps().contents.maps.frontends.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_failed_nothing_stays_that_no_object_asks_for(
        attempts in prop::collection::vec(attempt(), 1..6),
    ) {
        let mut agent = Agent::new();
        for attempt in &attempts {
            agent.attempt(attempt);
        }
        agent.recover();
        check_nothing_else(&agent.writer.maps().contents, &agent.state)?;
        prop_assert_eq!(agent.writer.audit().unwrap(), Drift::default());
        prop_assert!(agent.writer.retire().is_empty());
    }
}

/// Frontend 2 is the address that several Services may have.
fn has_shared_address(backends: BTreeSet<u8>) -> (BTreeSet<u8>, BTreeSet<u8>, bool, BTreeSet<u8>) {
    ([2].into(), backends, false, [].into())
}

#[test]
fn a_frontend_whose_new_service_is_never_written_goes_with_that_service() {
    let mut agent = Agent::new();
    let [one, other] =
        [1, 2].map(|number| State::from([(number, has_shared_address([number].into()))]));
    assert!(agent.write(&one, false));
    agent.writer.maps().capacity = Some(Fill {
        slots: 1,
        ..UNLIMITED
    });
    assert!(!agent.write(&other, false), "there is no room for its slot");
    assert_eq!(
        actual(&agent.writer.maps().contents),
        targets(&one),
        "the address stays"
    );
    agent.writer.maps().capacity = None;
    assert!(agent.write(&State::new(), false));
    assert_eq!(actual(&agent.writer.maps().contents), BTreeMap::new());
}

#[test]
fn a_service_whose_last_frontend_another_one_takes_leaves_no_slots() {
    let mut agent = Agent::new();
    let [one, other] =
        [1, 2].map(|number| State::from([(number, has_shared_address([number].into()))]));
    assert!(agent.write(&one, false));
    assert!(agent.write(&other, false));
    assert_eq!(agent.writer.maps().contents.slots.len(), 1);
}

#[test]
fn a_removal_that_failed_is_made_by_the_next_round() {
    let mut agent = Agent::new();
    let one = State::from([(1, has_shared_address([1].into()))]);
    assert!(agent.write(&one, false));
    agent.writer.maps().fail_at([0].into());
    assert!(!agent.write(&State::new(), false));
    assert!(agent.write(&State::new(), false));
    assert_eq!(actual(&agent.writer.maps().contents), BTreeMap::new());
}

#[test]
fn slots_stay_retired_when_no_grace_period_could_pass() {
    let mut agent = Agent::new();
    let [one, other] = [1, 2].map(|number| State::from([(1, has_shared_address([number].into()))]));
    assert!(agent.write(&one, false));
    // A backend, its port, its slot and the frontend: then the grace period fails.
    agent.writer.maps().stop_after = Some(4);
    assert!(!agent.write(&other, false));
    agent.writer.maps().stop_after = None;
    assert_eq!(agent.writer.settle().unwrap(), 1);
}

#[test]
fn what_could_not_be_deleted_is_retired_again() {
    let one = State::from([(1, ([0].into(), [1].into(), false, [].into()))]);
    let other = State::from([(1, ([0].into(), [2].into(), false, [].into()))]);
    let mut writer = bring(FakeMaps::default(), &State::new(), &one);
    let _report = writer.commit(&round(&one, &other));
    let retired = writer.retire();
    writer.maps().stop_after = Some(0);
    assert!(writer.collect(retired).is_err());
    writer.maps().stop_after = None;
    assert_eq!(writer.settle().unwrap(), 1);
    assert_eq!(writer.maps().contents.slots.len(), 1);
}

#[test]
fn ids_are_stable_while_endpoints_come_and_go() {
    let one = State::from([(1, ([0].into(), [1, 2, 3].into(), true, [].into()))]);
    let other = State::from([(1, ([0].into(), [2, 3, 4].into(), true, [].into()))]);
    let mut writer = bring(FakeMaps::default(), &State::new(), &one);
    let id = writer.image().backend_id(&backend(2));
    let _report = writer.commit(&round(&one, &other));
    let _collected = writer.settle().unwrap();
    assert_eq!(writer.image().backend_id(&backend(2)), id);
    assert!(
        writer.image().backend_id(&backend(1)).is_some(),
        "it is in quarantine"
    );
    let _freed = writer
        .free(Duration::ZERO, Duration::from_secs(60))
        .unwrap();
    let _freed = writer
        .free(Duration::from_secs(61), Duration::from_secs(60))
        .unwrap();
    assert_eq!(writer.image().backend_id(&backend(1)), None);
}

/// Service 1 with that many backends, and Service 2, which is later by name, with one.
fn big_and_small(big: u8) -> State {
    let of = |frontend, backends| ([frontend].into(), backends, false, [].into());
    let backends = (100..100 + big).collect();
    State::from([(1, of(0, backends)), (2, of(1, [1].into()))])
}

/// The big Service does not fit; the small one does, and is written in the same round.
fn check_small_is_written(agent: &mut Agent, to: &State, big_before: &State) {
    let round = agent.round(to, &[record(1), record(2)].into());
    let before = agent.writer.maps().contents.clone();
    let done = agent.writer.maps().journal.len();
    let report = agent.writer.commit(&round);
    let failed: Vec<_> = report.failed.iter().map(|f| (f.record, f.full)).collect();
    assert_eq!(failed, [(record(1), true)]);
    let mut expected = targets(big_before);
    expected.retain(|key, _| *key == frontend(1, 0));
    expected.extend(targets(&State::from([(2, to[&2].clone())])));
    let contents = &agent.writer.maps().contents;
    assert_eq!(actual(contents), expected);
    // Nothing is left of what did not fit.
    let wanted: BTreeSet<_> = expected.values().flat_map(|(slots, _)| slots).collect();
    assert_eq!(contents.maps.backends.len(), wanted.len());
    let services: BTreeSet<_> = contents.maps.services.values().copied().collect();
    assert_eq!(services.contains(&record(1)), !big_before.is_empty());
    let fill = agent.writer.fill();
    let contents = agent.writer.maps().contents.clone();
    assert_eq!(fill.slots, contents.slots.len());
    assert_eq!(fill.backends, contents.maps.backends.len());
    for (contents, _) in history(before, &agent.writer.maps().journal[done..]) {
        let violations = invariants::check(&contents.snapshot(), &rules());
        assert!(violations.is_empty(), "{}", violations[0]);
    }
    agent.state = to.clone();
    agent.failing = [record(1)].into();
}

#[test]
fn a_service_that_does_not_fit_keeps_no_other_from_being_written() {
    let slots = Fill {
        slots: 4,
        ..UNLIMITED
    };
    let backends = Fill {
        backends: 4,
        ..UNLIMITED
    };
    for capacity in [slots, backends] {
        let mut agent = Agent::new();
        agent.writer.maps().capacity = Some(capacity);
        check_small_is_written(&mut agent, &big_and_small(9), &State::new());
        // Again and again, with no grace period and no quarantine between.
        for _ in 0..3 {
            check_small_is_written(&mut agent, &big_and_small(9), &State::new());
        }
        agent.recover();
        check_nothing_else(&agent.writer.maps().contents, &agent.state).unwrap();

        // A Service that grows stays as it was.
        let mut agent = Agent::new();
        agent.writer.maps().capacity = Some(capacity);
        let one = State::from([(1, big_and_small(1)[&1].clone())]);
        assert!(agent.write(&one, false));
        for _ in 0..3 {
            check_small_is_written(&mut agent, &big_and_small(9), &one);
        }
        agent.recover();
        check_nothing_else(&agent.writer.maps().contents, &agent.state).unwrap();
    }
}

#[test]
fn what_a_service_that_fails_later_frees_is_used_in_the_same_round() {
    let mut agent = Agent::new();
    // The big Service's backends fit, and leave no room for that of the small one. Its slots do
    // not fit.
    agent.writer.maps().capacity = Some(Fill {
        backends: 9,
        slots: 4,
        ..UNLIMITED
    });
    check_small_is_written(&mut agent, &big_and_small(9), &State::new());
}

#[test]
fn a_backend_that_another_service_uses_stays_when_one_of_its_services_does_not_fit() {
    let mut agent = Agent::new();
    agent.writer.maps().capacity = Some(Fill {
        slots: 4,
        ..UNLIMITED
    });
    let mut to = big_and_small(9);
    to.insert(2, ([1].into(), [100, 101].into(), false, [].into()));
    check_small_is_written(&mut agent, &to, &State::new());
}
