//! Times one part of the pipeline and prints figures; it judges nothing.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use sana::autoencoder::Tiling;
use sana::bench::Bench;
use serde_json::json;

const USAGE: &str = "\
usage: sana-bench text|dit|decode|picture --model DIR --size WxH [options]

  text     one prompt through the text encoder
  dit      all steps of a guided pair through the transformer
  decode   one latent through the decoder
  picture  prompt to picture

  --steps N                   denoising steps (20)
  --decode exact|blend|whole  how a latent is decoded (exact)
  --tile N                    rows of a band (exact), side of a tile (blend)
  --threads N                 threads (all)
  --repeat N                  runs that are timed, after one that is not (5)
  --json                      one object
";

struct Options {
    part: String,
    model: PathBuf,
    size: (u32, u32),
    steps: u32,
    decode: String,
    tile: Option<usize>,
    threads: Option<usize>,
    repeat: usize,
    json: bool,
}

fn main() -> ExitCode {
    sana::keep_freed_memory();
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            eprint!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprint!("error: {problem}\n\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        part: String::new(),
        model: PathBuf::new(),
        size: (0, 0),
        steps: 20,
        decode: "exact".into(),
        tile: None,
        threads: None,
        repeat: 5,
        json: false,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: String| text.parse::<usize>().map_err(|_| format!("{text} is no number"));
        match argument.as_str() {
            "-h" | "--help" => return Ok(None),
            "text" | "dit" | "decode" | "picture" => options.part = argument,
            "--model" => options.model = value()?.into(),
            "--size" => {
                let text = value()?;
                let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
                options.size = sides.ok_or_else(|| format!("{text} is no size such as 512x512"))?;
            }
            "--steps" => options.steps = number(value()?)? as u32,
            "--decode" => options.decode = value()?,
            "--tile" => options.tile = Some(number(value()?)?),
            "--threads" => options.threads = Some(number(value()?)?),
            "--repeat" => options.repeat = number(value()?)?.max(1),
            "--json" => options.json = true,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    match options {
        Options { ref part, .. } if part.is_empty() => {
            Err("name a part: text, dit, decode or picture".into())
        }
        Options { ref model, .. } if model.as_os_str().is_empty() => Err("--model is missing".into()),
        Options { size: (0, _) | (_, 0), .. } => Err("--size is missing".into()),
        options => Ok(Some(options)),
    }
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(threads) = options.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let tiling = match (options.decode.as_str(), options.tile) {
        ("exact", band) => Tiling::Bands(band),
        ("whole", _) => Tiling::Whole,
        ("blend", None) => Tiling::BLEND,
        // The overlap is that of the library's defaults, an eighth.
        ("blend", Some(tile)) => Tiling::Blend { tile, stride: tile / 8 * 7 },
        (other, _) => return Err(format!("--decode {other}: choose exact, blend or whole").into()),
    };
    let (width, height) = options.size;
    let bench = Bench::load(&options.model, (width, height), options.steps, tiling)?;
    let mut work: Box<dyn FnMut() -> Result<(), sana::Error>> = match options.part.as_str() {
        "text" => Box::new(|| bench.text()),
        "dit" => Box::new(|| bench.dit()),
        "decode" => Box::new(|| bench.decode()),
        _ => Box::new(|| bench.picture(&mut |_| ControlFlow::Continue(()))),
    };
    let before = memory("VmRSS");
    // From here on the peak counts anew; where the system refuses, the peak of loading stays in it.
    let _refused = std::fs::write("/proc/self/clear_refs", "5");
    work()?;
    let mut seconds = Vec::with_capacity(options.repeat);
    for _ in 0..options.repeat {
        let start = Instant::now();
        work()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let peak = memory("VmHWM");
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];

    let out = json!({
        "part": options.part,
        "seconds": median,
        "runs": options.repeat,
        "peak_rss_bytes": peak,
        "rss_before_bytes": before,
        "weights_bytes": bench.weights_bytes(),
    });
    let text = if options.json {
        format!("{out}\n")
    } else {
        format!(
            "{} {width}x{height}: median {median:.3} s of {} runs ({:.3} to {:.3}), peak {} MB, {} MB before, weights {} MB\n",
            options.part,
            options.repeat,
            seconds[0],
            seconds[seconds.len() - 1],
            peak / 1_000_000,
            before / 1_000_000,
            bench.weights_bytes() / 1_000_000,
        )
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// A memory figure of this process in bytes; 0 where the system does not tell.
fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
