//! `bench`: measurements, run as release builds.

use crate::{build, demo, process, setup};
use anyhow::Result;
use clap::ValueEnum;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure
    what: What,
    /// Passed on to the benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Connects through a ClusterIP against direct ones, start-up, memory, time of a change
    Connect,
    /// Packets and connects from outside, against rule sets such as kube-proxy's
    Outside,
    /// Nanoseconds of the XDP program for a packet, with 1 and 10,000 Services
    Packet,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    process::need_root("the benchmark", "bench")?;
    setup::lab_tools()?;
    build::run()?;
    match args.what {
        What::Connect => process::run(demo::tests_binary("bench-connect")?.args(&args.rest)),
        What::Outside => {
            setup::iptables()?;
            process::run(demo::tests_binary("bench-outside")?.args(&args.rest))
        }
        What::Packet => {
            let cargo = ["bench", "--package", "svclb-dataplane", "--bench", "packet"];
            process::run(process::cargo().args(cargo))
        }
    }
}
