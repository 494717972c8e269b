//! Connects without end while endpoints come and go a hundred times a second, and agents crash if
//! the options say: nothing may fail, and no backend may be reached after its endpoint is gone.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use svclb_tests::Transport;
use svclb_tests::churn::{Done, Options, Results, World};

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
    /// Forward past the kernel, and attach XDP like this: off or native
    #[arg(long)]
    xdp: Option<String>,
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
    let held_clients = world.held_clients()?;
    let held = held_clients.connect()?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(60 * args.minutes);
    world.start_loads()?;
    let mut results = Results::default();
    let mut crashes = 0;
    while (results.answered < args.connects || crashes < args.crashes) && Instant::now() < end {
        if crashes < args.crashes {
            world.crash(crashes as usize % 2, Duration::from_millis(500))?;
            world.churn_for(Duration::from_millis(500))?;
            world.settles_in(Duration::from_secs(10))?;
            held.stand()?;
            crashes += 1;
        } else {
            world.churn_for(Duration::from_secs(1))?;
        }
        world.take_results(&mut results)?;
    }
    world.stop_loads(&mut results)?;
    let seconds = begun.elapsed().as_secs_f64();
    world.settles_in(Duration::from_secs(10))?;
    held.stand()?;
    Ok(report(args, &results, world.done(), crashes, seconds))
}

/// Prints what happened; whether it is what should.
fn report(args: &Args, results: &Results, done: &Done, crashes: u32, seconds: f64) -> bool {
    for (failure, count) in &results.failures {
        println!("{count} × {failure}");
    }
    let rate = |count: u64| count as f64 / seconds;
    println!(
        "{} questions answered in {seconds:.0} s ({:.0} in a second), {} failed, {} aborted, {} wrong names",
        results.answered,
        rate(results.answered),
        results.failed(),
        results.aborted,
        results.wrong_names
    );
    println!(
        "{} changes ({:.0} in a second), {crashes} crashes, {} servers closed; slowest connect {:.1} ms",
        done.changes,
        rate(done.changes),
        done.closed,
        results.slowest as f64 / 1e6
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
    let enough = results.answered >= args.connects && crashes == args.crashes;
    if !enough {
        println!("the time was over before everything was asked");
    }
    let passed = enough && results.is_clean();
    println!("soak: {}", if passed { "passed" } else { "FAILED" });
    passed
}
