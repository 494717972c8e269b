//! Connects without end while endpoints come and go a hundred times a second, and agents crash if
//! they are told to: nothing may fail, and nobody may be asked who is no endpoint any more.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use svclb_tests::Tally;
use svclb_tests::churn::{Options, World};

#[derive(Parser)]
struct Args {
    /// How many questions are asked: a TCP connection or a UDP socket each
    #[arg(long, default_value_t = 1_000_000)]
    connects: u64,
    /// How many times an agent is killed meanwhile
    #[arg(long, default_value_t = 0)]
    crashes: u32,
    /// Changes of endpoints in a second
    #[arg(long, default_value_t = 100)]
    changes: u32,
    /// Services whose endpoints change
    #[arg(long, default_value_t = 40)]
    services: u8,
    /// For how long at most, in minutes
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// How XDP is attached: off or native
    #[arg(long, default_value = "off")]
    xdp: String,
    /// Makes a run again [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
}

/// What was asked and answered so far.
#[derive(Default)]
struct Sum {
    answered: u64,
    failed: u64,
    wrong_names: u64,
    slowest: u64,
}

impl Sum {
    fn add(&mut self, client: &str, tally: &Tally) {
        self.answered += tally.answered();
        self.failed += tally.failed();
        self.wrong_names += tally.wrong_names;
        self.slowest = self.slowest.max(tally.connect.max);
        for (failure, count) in &tally.failures {
            println!("{client}: {count} × {failure}");
        }
    }
}

fn main() -> ExitCode {
    match soak(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak(args: &Args) -> Result<bool> {
    let clock = std::time::UNIX_EPOCH.elapsed().context("no clock")?;
    let seed = args.seed.unwrap_or(clock.as_secs());
    println!("soak: seed {seed}");
    let mut world = World::new(Options {
        services: args.services,
        changes: args.changes,
        xdp: args.xdp.clone(),
        seed,
        ..Options::default()
    })?;
    let patients = world.patients()?;
    let held = patients.connect()?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(60 * args.minutes);
    world.start_loads()?;
    let mut sum = Sum::default();
    let mut crashes = 0;
    while (sum.answered < args.connects || crashes < args.crashes) && Instant::now() < end {
        if crashes < args.crashes {
            world.crash(crashes as usize % 2, Duration::from_millis(500))?;
            world.settles_in(Duration::from_secs(10))?;
            held.stand()?;
            crashes += 1;
        } else {
            world.churn_for(Duration::from_secs(1))?;
        }
        for (client, tally) in world.loads(false)? {
            sum.add(&client, &tally);
        }
    }
    for (client, tally) in world.loads(true)? {
        sum.add(&client, &tally);
    }
    let seconds = begun.elapsed().as_secs_f64();
    world.settles_in(Duration::from_secs(10))?;
    held.stand()?;
    Ok(told(args, &sum, world.done(), crashes, seconds))
}

/// Prints what happened; whether it is what should.
fn told(
    args: &Args,
    sum: &Sum,
    done: &svclb_tests::churn::Done,
    crashes: u32,
    seconds: f64,
) -> bool {
    let rate = |count: u64| count as f64 / seconds;
    println!(
        "{} questions answered in {seconds:.0} s ({:.0} in a second), {} failed, {} wrong names",
        sum.answered,
        rate(sum.answered),
        sum.failed,
        sum.wrong_names
    );
    println!(
        "{} changes ({:.0} in a second), {crashes} crashes, {} servers closed; slowest connect {:.1} ms",
        done.changes,
        rate(done.changes),
        done.closed,
        sum.slowest as f64 / 1e6
    );
    let mut late = done.late.clone();
    late.sort_unstable();
    if let Some(longest) = late.last() {
        let at = |part: usize| late[(late.len() - 1) * part / 100].as_secs_f64() * 1e3;
        println!(
            "asked after its endpoint had gone: {} servers, for {:.1} ms (median), {:.1} ms (99 %), {:.1} ms at most",
            late.len(),
            at(50),
            at(99),
            longest.as_secs_f64() * 1e3
        );
    }
    let enough = sum.answered >= args.connects && crashes == args.crashes;
    if !enough {
        println!("the time was over before everything was asked");
    }
    let passed = enough && sum.failed == 0 && sum.wrong_names == 0;
    println!("soak: {}", if passed { "passed" } else { "FAILED" });
    passed
}
