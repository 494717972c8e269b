//! What must hold for a finished file, read from its symbols and headers.

use anyhow::{Context as _, Result, bail};
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{
    Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind,
};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// An object of BPF programs may hold no way to panic: the verifier would refuse the endless loop
/// that a panic ends in, and a program that reached it would have lost the packet.
pub(super) fn check_programs(file: &Path) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("{} is missing", file.display()))?;
    let elf = parse(&bytes, file)?;
    let panics: Vec<&str> = elf
        .symbols()
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| name.contains("panic") || name.contains("rust_begin_unwind"))
        .collect();
    if !panics.is_empty() {
        bail!(
            "the eBPF programs can panic ({}): look for an index, a division or an arithmetic that is not checked",
            panics.join(", ")
        )
    }
    println!("build: instructions: {}", sizes(&elf).join(", "));
    let called = called(&elf);
    if !called.is_empty() {
        // No error: another compiler may clear or copy by calls where this one does not.
        println!(
            "build: the eBPF programs call {}; before Linux 6.2 they take longer to load for that",
            called.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

/// The programs with their instructions in the object, eight bytes each. How many the verifier goes
/// through is what a scenario prints (`lab::verifier`): only the kernel knows.
fn sizes(elf: &ElfFile64<'_, Endianness>) -> Vec<String> {
    let text = elf.section_by_name(".text").map(|section| section.index());
    let is_program = |index| {
        let section = elf.section_by_index(index);
        Some(index) != text && section.is_ok_and(|section| section.kind() == SectionKind::Text)
    };
    elf.symbols()
        .filter(|symbol| symbol.is_definition() && symbol.section_index().is_some_and(is_program))
        .filter_map(|symbol| Some(format!("{} {}", symbol.name().ok()?, symbol.size() / 8)))
        .collect()
}

/// The functions that the programs call. Linux before 6.2 does not track which values matter in a
/// program of more than one function ("bpf: allow precision tracking for programs with subprogs"), and
/// goes through loops for longer.
fn called<'a>(elf: &ElfFile64<'a, Endianness>) -> BTreeSet<&'a str> {
    let text = elf
        .section_by_name(".text")
        .map(|functions| functions.index());
    elf.sections()
        .filter(|section| section.kind() == SectionKind::Text && Some(section.index()) != text)
        .flat_map(|section| section.relocations())
        .filter_map(|(_, relocation)| match relocation.target() {
            RelocationTarget::Symbol(index) => elf.symbol_by_index(index).ok(),
            _ => None,
        })
        .filter(|symbol| symbol.section_index().is_some() && symbol.section_index() == text)
        .filter_map(|symbol| symbol.name().ok())
        .collect()
}

/// A static binary asks for no dynamic loader.
pub(super) fn check_static(file: &Path) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("{} is missing", file.display()))?;
    let elf = parse(&bytes, file)?;
    let dynamic = elf
        .elf_program_headers()
        .iter()
        .any(|header| header.p_type(Endianness::Little) == PT_INTERP);
    if dynamic {
        bail!(
            "{} is not static: it asks for a dynamic loader",
            file.display()
        );
    }
    Ok(())
}

fn parse<'a>(bytes: &'a [u8], file: &Path) -> Result<ElfFile64<'a, Endianness>> {
    ElfFile64::parse(bytes).with_context(|| format!("{} is no ELF file", file.display()))
}
