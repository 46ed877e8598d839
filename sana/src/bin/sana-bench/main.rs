//! Times one part of the pipeline and prints figures; it judges nothing.

mod options;
mod plan;

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Instant;

use options::{Options, USAGE};
use sana::bench::Bench;
use serde_json::json;

fn main() -> ExitCode {
    sana::keep_freed_memory();
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == "plan").is_some() {
        return match plan::run(arguments) {
            Ok(Some(text)) => printed(&text),
            other => usage(other.map(drop), plan::USAGE),
        };
    }
    let options = match options::parse(arguments) {
        Ok(Some(options)) => options,
        other => return usage(other.map(drop), USAGE),
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Ends with the usage: with success when help was asked for.
fn usage(asked: Result<(), String>, usage: &str) -> ExitCode {
    match asked {
        Ok(()) => {
            eprint!("{usage}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprint!("error: {problem}\n\n{usage}");
            ExitCode::FAILURE
        }
    }
}

fn printed(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(threads) = options.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let mut out = std::io::stdout().lock();
    let start = Instant::now();
    let bench = Bench::load(&options.work)?;
    let load = start.elapsed().as_secs_f64();
    if let Some(path) = &options.output {
        candle_core::safetensors::save(&bench.output()?, path)?;
        return Ok(());
    }
    let once = || -> Result<Run, sana::Error> {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        bench.run()?;
        Ok(Run { seconds: start.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds() - cpu })
    };

    let before = memory("VmRSS");
    // From here on the peak counts anew; where the system refuses, the peak of loading stays in it.
    let _refused = std::fs::write("/proc/self/clear_refs", "5");
    let first = once()?;
    let mut runs = Vec::new();
    if options.turns {
        writeln!(out, "{}", json!({ "first_seconds": first.seconds, "load_seconds": load }))?;
        out.flush()?;
        for line in std::io::stdin().lock().lines() {
            line?;
            let run = once()?;
            writeln!(out, "{}", json!({ "seconds": run.seconds, "cpu_seconds": run.cpu_seconds }))?;
            out.flush()?;
            runs.push(run);
        }
    } else {
        for _ in 0..options.repeat {
            runs.push(once()?);
        }
    }
    let peak = memory("VmHWM");
    let weights = bench.weights_bytes() as u64;
    let above = peak.saturating_sub(weights);
    let planned = bench.planned()?;

    let sorted = |value: fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (seconds, cpu) = (sorted(|run| run.seconds), sorted(|run| run.cpu_seconds));
    let middle = |values: &[f64], first| values.get(values.len() / 2).copied().unwrap_or(first);
    let median = middle(&seconds, first.seconds);
    if options.json {
        let object = json!({
            "part": options.name,
            "seconds": median,
            "cpu_seconds": middle(&cpu, first.cpu_seconds),
            "runs": runs.iter().map(|run| run.seconds).collect::<Vec<_>>(),
            "first_seconds": first.seconds,
            "load_seconds": load,
            "threads": rayon::current_num_threads(),
            "peak_rss_bytes": peak,
            "rss_before_bytes": before,
            "weights_bytes": weights,
            "above_weights_bytes": above,
            // In f32, as a file holds them; packed for the kernels they may take more or less.
            "parameters_bytes": planned.map(|(parameters, _)| 4 * parameters),
            "planned_bytes": planned.map(|(_, planned)| planned),
        });
        writeln!(out, "{object}")?;
    } else {
        let range = match (seconds.first(), seconds.last()) {
            (Some(least), Some(most)) => format!("of {} runs ({least:.3} to {most:.3})", seconds.len()),
            _ => "of the first run".to_owned(),
        };
        let mb = |bytes: u64| bytes / 1_000_000;
        writeln!(
            out,
            "{}: median {median:.3} s {range}, loaded in {load:.2} s; weights {} MB, before {} MB, peak {} MB, {} MB above \
             the weights{}",
            options.name,
            mb(weights),
            mb(before),
            mb(peak),
            mb(above),
            planned.map_or_else(String::new, |(_, planned)| format!(", {} MB planned", mb(planned))),
        )?;
    }
    Ok(())
}

/// One run.
struct Run {
    seconds: f64,
    /// Of all threads.
    cpu_seconds: f64,
}

/// Processor time of this process in hundredths of a second; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; user and system time are the 12th and 13th field behind it.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// A memory figure of this process in bytes; 0 where the system does not tell.
fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
