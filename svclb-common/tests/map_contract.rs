//! `docs/map-contract.md` has the table of maps that the code has.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use svclb_common::contract::CONTRACT;
use svclb_common::maps::{self, SINCE};
use svclb_common::{ABI_VERSION, FrontendKey};

/// Set to 1, it writes the table in place of comparing it.
const WRITE: &str = "SVCLB_WRITE_DOCS";
/// Cargo starts a test in the directory of its package.
const DOCUMENT: &str = "../docs/map-contract.md";
const BEGIN: &str = "<!-- The table is written by `cargo xtask docs`. -->\n";
const END: &str = "<!-- End of the table. -->\n";

fn table() -> String {
    let mut text = format!(
        "Layout version {ABI_VERSION} (`ABI_VERSION`).\n\n\
         | map | kind | key → value | bytes | since version | written by | read by |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for (map, (_, since)) in CONTRACT.iter().zip(SINCE) {
        writeln!(
            text,
            "| `{}` | {} | {} → {} | {} → {} | {since} | {} | {} |",
            map.name,
            map.kind.name(),
            map.key.name,
            map.value.name,
            map.key.size,
            map.value.size,
            map.written_by,
            map.read_by,
        )
        .unwrap();
    }
    text
}

#[test]
fn the_contract_has_every_map_once_and_in_order() {
    let names: Vec<_> = CONTRACT.iter().map(|map| map.name).collect();
    assert_eq!(names, maps::all().collect::<Vec<_>>());
    assert_eq!(CONTRACT[1].key.size, size_of::<FrontendKey>());
}

#[test]
fn the_document_is_current() {
    if cfg!(feature = "next-layout") {
        // The document is of this version.
        return;
    }
    let path = Path::new(DOCUMENT);
    let document = fs::read_to_string(path).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    let table = format!("\n{}\n", table());
    if env::var_os(WRITE).is_some_and(|value| value == "1") {
        fs::write(path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert!(
            written == table,
            "docs/map-contract.md is not what svclb-common/src/contract.rs says: run `cargo xtask docs`"
        );
    }
}
