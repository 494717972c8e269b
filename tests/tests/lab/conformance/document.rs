//! docs/conformance.md, and whether it speaks of scenarios that there are. Needs no root.

use std::process::Command;
use std::{env, fs};

use svclb_tests::{conformance, repository};

/// Set to 1, it writes the document in place of comparing it.
const WRITE: &str = "SVCLB_WRITE_DOCS";

/// The scenarios of this very binary, as libtest prints them.
fn scenarios() -> Vec<String> {
    let output = Command::new(env::current_exe().unwrap())
        .arg("--list")
        .output()
        .unwrap();
    let list: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect();
    assert!(!list.is_empty(), "no scenario is listed");
    list
}

#[test]
fn the_document_is_current() {
    let path = repository().join("docs/conformance.md");
    let rendered = conformance::render();
    if env::var_os(WRITE).is_some_and(|value| value == "1") {
        fs::write(&path, &rendered).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == rendered,
        "docs/conformance.md is not what tests/src/conformance says; write it with\n    \
         {WRITE}=1 cargo test -p svclb-tests --test lab the_document_is_current"
    );
}

#[test]
fn every_scenario_that_the_table_names_exists() {
    let scenarios = scenarios();
    let missing: Vec<&str> = conformance::scenarios()
        .filter(|named| !scenarios.iter().any(|scenario| scenario == named))
        .collect();
    assert!(missing.is_empty(), "no such scenario: {missing:#?}");
}

#[test]
fn the_table_names_every_scenario_that_is_called_after_a_test_of_upstream() {
    let ours = "lab::conformance::";
    let unnamed: Vec<String> = scenarios()
        .into_iter()
        .filter(|scenario| scenario.starts_with(ours))
        .filter(|scenario| !scenario.starts_with(&format!("{ours}document::")))
        .filter(|scenario| !conformance::scenarios().any(|named| named == scenario))
        .collect();
    assert!(unnamed.is_empty(), "not in the table: {unnamed:#?}");
}
