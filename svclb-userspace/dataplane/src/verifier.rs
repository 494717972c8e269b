//! How much the kernel's verifier has to do for each program.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use aya::VerifierLogLevel;
use aya::programs::ProgramError;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::OpenError;
use crate::features::features;
use crate::load;
use crate::options::Options;
use crate::pins::Pins;
use crate::preflight;
use crate::programs::{PACKET_PROGRAMS, PROGRAMS};

/// What the verifier did for a program, as its log says (`BPF_LOG_STATS`, Linux 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerifierEffort {
    /// The program's name.
    pub program: &'static str,
    /// Instructions that it went through, each as often as it came by. A million is the limit.
    pub instructions: u32,
    /// States that it kept to compare others with.
    pub states: u32,
}

/// Has the kernel verify each program, and keeps none of them. Makes the maps in the pin directory,
/// as an agent would, or takes those that are there.
///
/// Lowers the process's limit of descriptors while it does so: call it in a process that does nothing
/// else. The kernel gives a program its descriptor when the verifier has accepted it; with none left
/// the load fails, and only of a load that failed does aya return the verifier's log.
///
/// # Errors
/// [`OpenError`], as an agent's start has it.
pub fn verifier_effort(options: &Options) -> Result<Vec<VerifierEffort>, OpenError> {
    preflight::check(options)?;
    let pins = Pins::new(&options.pin_dir);
    pins.make_dirs()?;
    let level = VerifierLogLevel::STATS;
    let mut ebpf = load::load_object(&pins, options.sizes, features(), options, level)?;
    let socket_programs = PROGRAMS.iter().map(|program| program.name);
    socket_programs
        .chain(PACKET_PROGRAMS)
        .map(|program| {
            let refused = |source| OpenError::Program {
                program,
                source: Box::new(source),
            };
            let limits = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| limit(error.into()))?;
            let open = File::open("/dev/null").map_err(limit)?;
            let lowest_free = u64::from(open.as_raw_fd().unsigned_abs());
            drop(open);
            set_limit(lowest_free, limits.1)?;
            let loaded = load::try_load(&mut ebpf, program);
            set_limit(limits.0, limits.1)?;
            match loaded {
                Err(ProgramError::LoadError {
                    io_error,
                    verifier_log,
                }) => match parse(program, &verifier_log.to_string()) {
                    Some(effort) if io_error.raw_os_error() == Some(libc::EMFILE) => Ok(effort),
                    _ => Err(refused(ProgramError::LoadError {
                        io_error,
                        verifier_log,
                    })),
                },
                Err(error) => Err(refused(error)),
                Ok(()) => Err(limit(io::Error::other(
                    "a program was loaded although no descriptor was left",
                ))),
            }
        })
        .collect()
}

fn set_limit(soft: u64, hard: u64) -> Result<(), OpenError> {
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(|error| limit(error.into()))
}

fn limit(error: io::Error) -> OpenError {
    OpenError::Object(format!("the limit of descriptors cannot be set: {error}"))
}

/// Reads `processed 27 insns (limit 1000000) max_states_per_insn 0 total_states 2 peak_states 2 …`.
fn parse(program: &'static str, log: &str) -> Option<VerifierEffort> {
    let line = log.lines().find(|line| line.starts_with("processed "))?;
    let mut words = line.split(' ');
    let mut after = |word: &str| words.find(|other| *other == word).and(words.next());
    Some(VerifierEffort {
        program,
        instructions: after("processed")?.parse().ok()?,
        states: after("total_states")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_linux_5_10_and_newer_is_read() {
        let log = "verification time 9 usec\nstack depth 8\nprocessed 27 insns (limit 1000000) \
                   max_states_per_insn 0 total_states 2 peak_states 3 mark_read 1\n";
        let effort = parse("svclb_xdp", log).unwrap();
        assert_eq!((effort.instructions, effort.states), (27, 2));
        assert_eq!(parse("svclb_xdp", "the log is empty"), None);
    }
}
