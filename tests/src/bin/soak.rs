//! Connects without end while endpoints come and go a hundred times a second, and agents crash if
//! they are told to: nothing may fail, and nobody may be asked who is no endpoint any more.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use svclb_tests::Transport;
use svclb_tests::churn::{Done, Heard, Options, World};

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
        // Between two crashes no server would be closed else.
        grace: Duration::from_millis(if args.crashes > 0 { 400 } else { 2_000 }),
        seed,
        ..Options::default()
    })?;
    let patients = world.patients()?;
    let held = patients.connect()?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(60 * args.minutes);
    world.start_loads()?;
    let mut heard = Heard::default();
    let mut crashes = 0;
    while (heard.answered < args.connects || crashes < args.crashes) && Instant::now() < end {
        if crashes < args.crashes {
            world.crash(crashes as usize % 2, Duration::from_millis(500))?;
            world.churn_for(Duration::from_millis(500))?;
            world.settles_in(Duration::from_secs(10))?;
            held.stand()?;
            crashes += 1;
        } else {
            world.churn_for(Duration::from_secs(1))?;
        }
        world.heard(&mut heard)?;
    }
    world.stop_loads(&mut heard)?;
    let seconds = begun.elapsed().as_secs_f64();
    world.settles_in(Duration::from_secs(10))?;
    held.stand()?;
    Ok(told(args, &heard, world.done(), crashes, seconds))
}

/// Prints what happened; whether it is what should.
fn told(args: &Args, heard: &Heard, done: &Done, crashes: u32, seconds: f64) -> bool {
    for (failure, count) in &heard.failures {
        println!("{count} × {failure}");
    }
    let rate = |count: u64| count as f64 / seconds;
    println!(
        "{} questions answered in {seconds:.0} s ({:.0} in a second), {} failed, {} aborted, {} wrong names",
        heard.answered,
        rate(heard.answered),
        heard.failed(),
        heard.aborted,
        heard.wrong_names
    );
    println!(
        "{} changes ({:.0} in a second), {crashes} crashes, {} servers closed; slowest connect {:.1} ms",
        done.changes,
        rate(done.changes),
        done.closed,
        heard.slowest as f64 / 1e6
    );
    for transport in [Transport::Tcp, Transport::Udp] {
        let its = done.late.iter().filter(|(over, _)| *over == transport);
        let mut late: Vec<_> = its.map(|(_, late)| late.as_secs_f64() * 1e3).collect();
        late.sort_by(f64::total_cmp);
        if let Some(longest) = late.last() {
            let at = |part: usize| late[(late.len() - 1) * part / 100];
            println!(
                "asked over {transport:?} after its endpoint had gone: {} servers, for {:.1} ms \
                 (median), {:.1} ms (99 %), {longest:.1} ms at most",
                late.len(),
                at(50),
                at(99),
            );
        }
    }
    let enough = heard.answered >= args.connects && crashes == args.crashes;
    if !enough {
        println!("the time was over before everything was asked");
    }
    let passed = enough && heard.is_clean();
    println!("soak: {}", if passed { "passed" } else { "FAILED" });
    passed
}
