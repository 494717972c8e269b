//! What the verifier has to do for each program, against what it may.
//!
//! `verifier-budget.txt` beside this crate's manifest has, for a kernel's line, the instructions and
//! the states of each program when it was written. A program that needs a tenth more has come closer
//! to the limit of a million instructions, and takes longer to load, which should be seen in review.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, io, process};

use svclb_common::maps::Sizes;
use svclb_core::conntrack::Timeouts;
use svclb_dataplane::{
    Forwarding, Options, PortRange, cleanup, find_bpffs, find_cgroup2, verifier_effort,
};
use svclb_tests::repository;

/// Set in the process that measures: it gives up its descriptors meanwhile.
const CHILD: &str = "SVCLB_VERIFIER_EFFORT";
/// Set to 1, the budget of this kernel's line is written in place of being compared.
const WRITE: &str = "SVCLB_WRITE_BUDGET";
/// This test, as libtest names it.
const NAME: &str = "lab::verifier::no_program_needs_much_more_of_the_verifier_than_it_did";
/// What a line of the process that measures begins with.
const MARK: &str = "effort: ";

/// Instructions and states, by a kernel's line and a program.
type Efforts = BTreeMap<(String, String), [u32; 2]>;

#[test]
fn no_program_needs_much_more_of_the_verifier_than_it_did() {
    if env::var_os(CHILD).is_some() {
        return measure();
    }
    let kernel = kernel();
    let measured = in_another_process(&kernel);
    let shown = rendered(&measured);
    // Not by `println!`: libtest keeps that of a test that passes to itself.
    writeln!(io::stdout().lock(), "\nverifier: {HEADER}\n{shown}").unwrap();
    let file = file();
    let text = fs::read_to_string(&file).unwrap();
    let mut budget = read(&text);
    if env::var_os(WRITE).is_some_and(|value| value == "1") {
        budget.retain(|(line, _), _| *line != kernel);
        budget.extend(measured);
        let comments: String = text
            .lines()
            .filter(|line| line.starts_with('#'))
            .flat_map(|line| [line, "\n"])
            .collect();
        fs::write(&file, format!("{comments}{}", rendered(&budget))).unwrap();
        return;
    }
    if !budget.keys().any(|(line, _)| *line == kernel) {
        writeln!(
            io::stdout().lock(),
            "verifier: no budget for Linux {kernel}"
        )
        .unwrap();
        return;
    }
    let over = over(&budget, &measured);
    assert!(
        over.is_empty(),
        "{}\nIf that has to be, put the rows above into {}",
        over.join("\n"),
        file.display()
    );
}

const HEADER: &str = "kernel, program, instructions, states";

fn file() -> PathBuf {
    repository().join("tests/verifier-budget.txt")
}

/// The line of this machine's kernel: the first two numbers of its release.
fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.');
    format!("{}.{}", numbers.next().unwrap(), numbers.next().unwrap())
}

fn rendered(efforts: &Efforts) -> String {
    let row = |((kernel, program), [instructions, states]): (&(String, String), &[u32; 2])| {
        format!("{kernel:<5} {program:<20} {instructions:>7} {states:>6}\n")
    };
    efforts.iter().map(row).collect()
}

fn read(text: &str) -> Efforts {
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| {
        let [kernel, program, instructions, states] =
            row.split_whitespace().collect::<Vec<_>>()[..]
        else {
            panic!("no row of a budget: {row}");
        };
        let key = (kernel.to_owned(), program.to_owned());
        (
            key,
            [instructions.parse().unwrap(), states.parse().unwrap()],
        )
    })
    .collect()
}

/// A sentence for each figure that is more than a tenth above its budget. Small ones may be a few
/// above it: a line of code is more than a tenth of them.
fn over(budget: &Efforts, measured: &Efforts) -> Vec<String> {
    const SLACK: [u32; 2] = [64, 8];
    const WHAT: [&str; 2] = ["instructions", "states"];
    let mut over = Vec::new();
    for (key @ (kernel, program), figures) in measured {
        let Some(allowed) = budget.get(key) else {
            over.push(format!("{program} has no budget for Linux {kernel}"));
            continue;
        };
        for (((figure, allowed), slack), what) in figures.iter().zip(allowed).zip(SLACK).zip(WHAT) {
            if *figure > allowed + (allowed / 10).max(slack) {
                over.push(format!(
                    "on Linux {kernel} the verifier needs {figure} {what} for {program}, and \
                     {allowed} are its budget"
                ));
            }
        }
    }
    over
}

fn in_another_process(kernel: &str) -> Efforts {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{error}");
    let rows = text.lines().filter_map(|line| line.split_once(MARK));
    let rows: String = rows.map(|(_, row)| format!("{kernel} {row}\n")).collect();
    let efforts = read(&rows);
    assert!(!efforts.is_empty(), "{text}{error}");
    efforts
}

fn measure() {
    let pin_dir = find_bpffs()
        .unwrap()
        .join(format!("svclb-verifier-{}", process::id()));
    let efforts = verifier_effort(&Options {
        pin_dir: pin_dir.clone(),
        // Nothing is attached to it.
        cgroup: find_cgroup2().unwrap(),
        sizes: Sizes {
            peers: 1024,
            ..Sizes::DEFAULT
        },
        source_ports: PortRange::new(50_000, 50_999).unwrap(),
        external_cluster_ips: true,
        pod_devices: true,
        mark: 0x4000,
        conntrack: Timeouts::default(),
        packets: true,
        forwarding: Forwarding::Direct,
    });
    cleanup(&pin_dir).unwrap();
    let efforts = efforts.unwrap_or_else(|error| panic!("{error}: {error:?}"));
    for effort in efforts {
        println!(
            "{MARK}{} {} {}",
            effort.program, effort.instructions, effort.states
        );
    }
}

#[test]
fn growth_of_more_than_a_tenth_is_over_the_budget() {
    let efforts = |instructions, states| {
        Efforts::from([(("6.1".into(), "xdp".into()), [instructions, states])])
    };
    let budget = read("# kernel program\n6.1 xdp 1000 100\n");
    assert_eq!(budget, efforts(1000, 100));
    assert!(over(&budget, &efforts(1100, 110)).is_empty());
    assert_eq!(over(&budget, &efforts(1101, 110)).len(), 1);
    assert_eq!(over(&budget, &efforts(1101, 111)).len(), 2);
    assert!(over(&efforts(20, 1), &efforts(84, 9)).is_empty());
    assert_eq!(over(&Efforts::new(), &efforts(1, 1)).len(), 1);
    assert_eq!(read(&rendered(&budget)), budget);
}
