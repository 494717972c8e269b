//! Kubernetes' own end-to-end tests of a service proxy (test/e2e/network, as of 1.35), and
//! what became of each: data, and the document that people read.

mod affinity;
mod api;
mod basics;
mod granular;
mod labels;
mod load_balancers;
mod policies;
mod process;
mod slices;
mod type_changes;
mod udp;

/// What became of a test.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// These scenarios assert what it asserts: their paths as libtest prints them.
    Passes(&'static [&'static str]),
    /// It asserts nothing of a proxy, or of one implementation alone.
    NotApplicable(&'static str),
    /// It is not asserted here: what is not built yet, or a defect.
    Missing(&'static str),
}

/// Whose traffic a test is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// ClusterIPs, used by pods and hosts of the cluster.
    Inside,
    /// What needs the packet path: NodePorts, load balancer and external IPs, whichever client uses
    /// them, and SCTP.
    Outside,
}

/// One test of upstream.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Its name there; where only half of it is meant, which.
    pub name: &'static str,
    /// Whose traffic it is about.
    pub part: Part,
    /// What became of it.
    pub outcome: Outcome,
}

/// Tests that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// What they are about.
    pub title: &'static str,
    /// The tests.
    pub tests: &'static [Test],
}

/// Every section, in the order of the document.
pub const SECTIONS: [Section; 11] = [
    basics::SECTION,
    granular::SECTION,
    type_changes::SECTION,
    affinity::SECTION,
    labels::SECTION,
    policies::SECTION,
    load_balancers::SECTION,
    udp::SECTION,
    slices::SECTION,
    process::SECTION,
    api::SECTION,
];

const fn inside(name: &'static str, scenarios: &'static [&'static str]) -> Test {
    Test {
        name,
        part: Part::Inside,
        outcome: Outcome::Passes(scenarios),
    }
}

const fn outward(name: &'static str, scenarios: &'static [&'static str]) -> Test {
    Test {
        name,
        part: Part::Outside,
        outcome: Outcome::Passes(scenarios),
    }
}

/// There is no hook for SCTP at the socket: only the packet path can translate it.
const fn packets(name: &'static str) -> Test {
    Test {
        name,
        part: Part::Outside,
        outcome: Outcome::Missing("SCTP comes with the packet path: no socket hook can serve it"),
    }
}

const fn not_applicable(name: &'static str, reason: &'static str) -> Test {
    Test {
        name,
        part: Part::Inside,
        outcome: Outcome::NotApplicable(reason),
    }
}

/// Every scenario that is named, more than once where several tests name it.
pub fn scenarios() -> impl Iterator<Item = &'static str> {
    tests().flat_map(|test| match test.outcome {
        Outcome::Passes(scenarios) => scenarios.iter().copied(),
        _ => [].iter().copied(),
    })
}

fn tests() -> impl Iterator<Item = &'static Test> {
    SECTIONS.iter().flat_map(|section| section.tests)
}

/// The document.
pub fn render() -> String {
    let mut text = String::from(
        "# Conformance\n\n\
         What became of each end-to-end test that Kubernetes has for a service proxy\n\
         (test/e2e/network, as of 1.35). A test passes if a scenario in a lab asserts, with real\n\
         sockets, what the test asserts in a cluster; its name is what\n\
         `cargo test -p svclb-tests --test lab NAME` takes. No test of upstream itself is run.\n\
         This file is written from `tests/src/conformance`, and a test compares them.\n\n\
         | part | tests | passes | not applicable | missing |\n|---|---|---|---|---|\n",
    );
    for (part, name) in [
        (Part::Inside, "ClusterIPs, clients in the cluster"),
        (
            Part::Outside,
            "the packet path: NodePorts, load balancer and external IPs, SCTP",
        ),
    ] {
        row(&mut text, name, |test| test.part == part);
    }
    row(&mut text, "all", |_| true);
    for section in &SECTIONS {
        let title = section.title;
        let head = "| test | outcome | scenario or reason |\n|---|---|---|";
        line(&mut text, &format!("\n## {title}\n{head}"));
        for test in section.tests {
            let (outcome, why) = match test.outcome {
                Outcome::Passes(scenarios) => ("passes", format!("`{}`", scenarios.join("`, `"))),
                Outcome::NotApplicable(reason) => ("not applicable", reason.to_owned()),
                Outcome::Missing(reason) => ("missing", reason.to_owned()),
            };
            let name = test.name;
            line(&mut text, &format!("| {name} | {outcome} | {why} |"));
        }
    }
    text
}

fn row(text: &mut String, name: &str, counts: impl Fn(&Test) -> bool) {
    let number = |of: fn(Outcome) -> bool| {
        tests()
            .filter(|test| counts(test) && of(test.outcome))
            .count()
    };
    let all = number(|_| true);
    let passes = number(|outcome| matches!(outcome, Outcome::Passes(_)));
    let not = number(|outcome| matches!(outcome, Outcome::NotApplicable(_)));
    let missing = all - passes - not;
    line(
        text,
        &format!("| {name} | {all} | {passes} | {not} | {missing} |"),
    );
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
