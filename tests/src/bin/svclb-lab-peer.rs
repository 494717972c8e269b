//! The process that a lab puts into a pod, and a client to play with: it enters a
//! namespace and a cgroup and opens sockets there.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use svclb_tests::peer::{Transport, ask, enter_pod, repeat, work};
use svclb_tests::{Kind, carry};

/// Opens sockets in a pod of a lab.
#[derive(Parser)]
struct Args {
    /// The network namespace to enter, by path.
    #[arg(long)]
    netns: PathBuf,
    /// The cgroup to enter, by path.
    #[arg(long)]
    cgroup: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Does what JSON lines on the standard input say.
    Work {
        /// What servers call themselves.
        name: String,
    },
    /// Carries packets between the device `tun0` of a node and those of others.
    Carry,
    /// Runs any program in the pod: curl, dig, a shell.
    Exec {
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Asks who answers at an address.
    Ask {
        /// Address and port: `10.96.0.10:80` or `[fd00::1]:80`.
        to: SocketAddr,
        /// The protocol.
        #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
        protocol: Protocol,
        /// How often, each time on a socket of its own.
        #[arg(short = 'n', long, default_value_t = 1)]
        times: u32,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Mptcp,
    Udp,
    UdpLite,
}

impl From<Protocol> for Kind {
    fn from(protocol: Protocol) -> Self {
        Self::new(match protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Mptcp => Transport::Mptcp,
            Protocol::Udp => Transport::Udp,
            Protocol::UdpLite => Transport::UdpLite,
        })
    }
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("svclb-lab-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    enter_pod(&args.netns, &args.cgroup)?;
    match args.verb {
        Verb::Work { name } => work(&name),
        Verb::Carry => carry(),
        Verb::Exec { command } => {
            let program = command.first().context("no program")?;
            let error = Command::new(program).args(&command[1..]).exec();
            Err(error).with_context(|| format!("cannot run {}", program.display()))
        }
        Verb::Ask {
            to,
            protocol,
            times: 1,
        } => {
            let answer = ask(protocol.into(), to)?;
            println!("{} answers", answer.backend);
            if let Some(name) = answer.peer_name {
                println!("getpeername: {name}");
            }
            println!("it sees this client as {}", answer.client);
            Ok(())
        }
        Verb::Ask {
            to,
            protocol,
            times,
        } => {
            let tally = repeat(protocol.into(), to, times);
            for (backend, count) in &tally.answers {
                println!("{count:>8}  {backend}");
            }
            for (failure, count) in &tally.failures {
                println!("{count:>8}  {failure}");
            }
            Ok(())
        }
    }
}
