use super::*;

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

fn check(service: &str, port: u16, local_endpoints: usize) -> HealthCheck {
    HealthCheck {
        service: name(service),
        port,
        local_endpoints,
        waits_for: None,
    }
}

/// What changed: each Service and its port, with a `?` while it waits.
fn summary(changed: BTreeMap<ObjectName, Option<HealthCheck>>) -> Vec<String> {
    changed
        .into_iter()
        .map(|(name, check)| match check {
            Some(check) if check.waits_for.is_some() => format!("{} {}?", name.name, check.port),
            Some(check) => format!("{} {}", name.name, check.port),
            None => format!("no {}", name.name),
        })
        .collect()
}

#[test]
fn what_is_the_same_is_not_told_again() {
    let mut checks = HealthChecks::default();
    let mut set = |check| summary(checks.set(&name("a"), 1, check));
    assert_eq!(set(Some(check("a", 1, 1))), ["a 1"]);
    assert!(set(Some(check("a", 1, 1))).is_empty());
    assert_eq!(set(Some(check("a", 1, 2))), ["a 1"]);
    assert_eq!(set(Some(check("a", 2, 2))), ["a 2"]);
    assert_eq!(set(None), ["no a"]);
    assert!(set(None).is_empty());
}

#[test]
fn the_older_service_has_the_port_and_the_other_takes_over_when_it_goes() {
    let mut checks = HealthChecks::default();
    let mut set =
        |service: &str, created, check| summary(checks.set(&name(service), created, check));
    assert_eq!(set("b", 2, Some(check("b", 1, 1))), ["b 1"]);
    assert_eq!(set("z", 1, Some(check("z", 1, 1))), ["b 1?", "z 1"]);
    // One that waits goes on waiting, whatever its endpoints do.
    assert_eq!(set("b", 2, Some(check("b", 1, 5))), ["b 1?"]);
    assert_eq!(set("c", 3, Some(check("c", 1, 1))), ["c 1?"]);
    assert_eq!(set("z", 1, Some(check("z", 9, 1))), ["b 1", "c 1?", "z 9"]);
    assert_eq!(set("b", 2, None), ["no b", "c 1"]);
}

#[test]
fn of_two_services_of_one_age_the_first_name_has_the_port() {
    let mut checks = HealthChecks::default();
    let mut set =
        |service: &str| summary(checks.set(&name(service), 1, Some(check(service, 1, 1))));
    assert_eq!(set("b"), ["b 1"]);
    assert_eq!(set("a"), ["a 1", "b 1?"]);
}

#[test]
fn nothing_is_kept_of_a_service_that_is_gone() {
    let mut checks = HealthChecks::default();
    for port in 1..100 {
        checks.set(&name("a"), 1, Some(check("a", port, 1)));
    }
    checks.set(&name("a"), 1, None);
    assert!(checks.checks.is_empty() && checks.candidates.is_empty());
}
