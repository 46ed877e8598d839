//! `sana-bench plan`: the arithmetic of memory.

use std::fmt::Write;
use std::path::Path;

use sana::autoencoder::Tiling;
use sana::plan::{Model, Phase, Plan, Request, names};
use sana::{Memory, Precision};
use serde_json::{Value, json};

use crate::options::{number, pair_of_sides};

/// Shown with `--help` and behind every mistake.
pub const USAGE: &str = "\
usage: sana-bench plan --model DIR|--config NAME --size WxH --memory 8GB [options]

  --config NAME               a released model, such as Sana_1600M_4Kpx_BF16; `--config list` lists them
  --dtype f32|bf16            of weights and activations (bf16)
  --mode resident|sequential  all parts in memory, or one after the other (sequential)
  --tokens N                  of a prompt with its instruction (512)
  --pictures N                whose texts and latents wait between the phases (16)
  --reserve SIZE              taken by other things (0.5GB with bf16: a guess at a device's context and libraries;
                              16MB with f32: the program)
  --json                      one object
";

/// Runs the subcommand and gives what is to be printed, or nothing when help is asked for.
pub fn run(mut arguments: impl Iterator<Item = String>) -> Result<Option<String>, String> {
    let (mut model, mut size, mut memory, mut reserve) = (None, None, None, None);
    let (mut precision, mut mode) = (Precision::Bf16, Memory::Sequential);
    let (mut tokens, mut pictures, mut json) = (512, 16, false);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "-h" | "--help" => return Ok(None),
            "--model" => model = Some(Model::open(Path::new(&value()?)).map_err(|e| e.to_string())?),
            "--config" => match value()?.as_str() {
                "list" => return Ok(Some(names().map(|name| format!("{name}\n")).collect())),
                name => model = Some(Model::named(name).map_err(|e| e.to_string())?),
            },
            "--size" => size = Some(pair_of_sides(&value()?)?),
            "--memory" => memory = Some(bytes(&value()?)?),
            "--reserve" => reserve = Some(bytes(&value()?)?),
            "--tokens" => tokens = number(&value()?)?,
            "--pictures" => pictures = number(&value()?)?,
            "--dtype" => {
                precision = match value()?.as_str() {
                    "f32" => Precision::F32,
                    "bf16" => Precision::Bf16,
                    other => return Err(format!("--dtype {other}: choose f32 or bf16")),
                };
            }
            "--mode" => {
                mode = match value()?.as_str() {
                    "resident" => Memory::Resident,
                    "sequential" => Memory::Sequential,
                    other => return Err(format!("--mode {other}: choose resident or sequential")),
                };
            }
            "--json" => json = true,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    let model = model.ok_or("give either --model or --config")?;
    let reserve = reserve.unwrap_or(match precision {
        Precision::F32 => 16_000_000,
        Precision::Bf16 => 500_000_000,
    });
    let request = Request {
        size: size.ok_or("--size is missing")?,
        precision,
        mode,
        tokens,
        pictures,
        memory: memory.ok_or("--memory is missing")?,
        reserve,
    };
    let plan = Plan::of(&model, &request).map_err(|e| e.to_string())?;
    if json {
        return Ok(Some(format!("{}\n", object(&model, &plan))));
    }
    text(&model, &request, &plan).map(Some).map_err(|e| e.to_string())
}

/// A number of bytes such as `8GB`, `512MB` or `7.5GiB`.
fn bytes(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (figure, unit) = text.split_at(at);
    let unit = match unit {
        "" | "B" => 1.0,
        "MB" => 1e6,
        "GB" => 1e9,
        "MiB" => f64::from(1 << 20),
        "GiB" => f64::from(1 << 30),
        _ => return Err(format!("{text} is no amount of memory such as 8GB")),
    };
    match figure.parse::<f64>() {
        Ok(figure) if figure >= 0.0 && figure.is_finite() => Ok((figure * unit) as u64),
        _ => Err(format!("{text} is no amount of memory such as 8GB")),
    }
}

fn way(tiling: Tiling) -> String {
    match tiling {
        Tiling::Bands(_) => "bands".to_owned(),
        Tiling::Tiles(side) => format!("tiles of {side}"),
        Tiling::Whole => "whole".to_owned(),
        Tiling::Blend { tile, .. } => format!("blended tiles of {tile}"),
    }
}

fn text(model: &Model, request: &Request, plan: &Plan) -> Result<String, std::fmt::Error> {
    let gb = |bytes: u64| format!("{:.3}", bytes as f64 / 1e9);
    let (width, height) = request.size;
    let mode = match request.mode {
        Memory::Resident => "all parts in memory",
        Memory::Sequential => "one part in memory at a time",
    };
    let mut out = String::new();
    let precision = match request.precision {
        Precision::F32 => "f32 as on the CPU",
        Precision::Bf16 => "bf16 as on a CUDA device",
    };
    writeln!(out, "{} at {width}x{height}, {precision}, {mode}; figures in GB (10^9 bytes)\n", model.name)?;
    writeln!(out, "{:<14} {:>15} {:>8}", "weights", "parameters", "GB")?;
    for part in &plan.weights {
        writeln!(out, "{:<14} {:>15} {:>8}", part.name, part.parameters, gb(part.bytes))?;
    }
    writeln!(out, "the table of tokens stays in its file")?;
    writeln!(
        out,
        "\n{:<14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "phase", "weights", "loading", "at work", "waiting", "reserve", "peak"
    )?;
    for phase in &plan.phases {
        let Phase { name, weights, loading, activations, waiting, reserve } = *phase;
        let figures = [weights, loading, activations, waiting, reserve, phase.peak()].map(gb);
        let [weights, loading, activations, waiting, reserve, peak] = figures;
        let over = if phase.peak() > request.memory { "  over" } else { "" };
        writeln!(
            out,
            "{name:<14} {weights:>8} {loading:>8} {activations:>8} {waiting:>8} {reserve:>8} {peak:>8}{over}"
        )?;
    }
    writeln!(out, "peak = weights + the larger of loading and at work + waiting + reserve\n")?;
    writeln!(out, "{:<14} {:>8} {:>11}", "decode", "at work", "recomputed")?;
    for decode in &plan.decodes {
        let over = if decode.fits { "" } else { "  over" };
        let recomputed = format!("{:.1} %", decode.recomputed * 100.0);
        writeln!(out, "{:<14} {:>8} {recomputed:>11}{over}", way(decode.tiling), gb(decode.activations))?;
    }
    writeln!(
        out,
        "\ndecode in {}; a call of the transformer has {} sequence(s) for one picture; {} picture(s) would fit into one call",
        way(plan.decode),
        plan.sequences,
        plan.pictures_a_call
    )?;
    let verdict = if plan.fits { "fits into" } else { "does not fit into" };
    writeln!(out, "{verdict} {} GB", gb(request.memory))?;
    Ok(out)
}

fn object(model: &Model, plan: &Plan) -> Value {
    json!({
        "model": model.name,
        "fits": plan.fits,
        "weights": plan.weights.iter().map(|part| {
            json!({ "part": part.name, "parameters": part.parameters, "bytes": part.bytes })
        }).collect::<Vec<_>>(),
        "phases": plan.phases.iter().map(|phase| json!({
            "phase": phase.name, "weights_bytes": phase.weights, "loading_bytes": phase.loading,
            "activations_bytes": phase.activations, "waiting_bytes": phase.waiting, "reserve_bytes": phase.reserve,
            "peak_bytes": phase.peak(),
        })).collect::<Vec<_>>(),
        "sequences": plan.sequences,
        "pictures_a_call": plan.pictures_a_call,
        "decode": way(plan.decode),
        "decodes": plan.decodes.iter().map(|decode| json!({
            "decode": way(decode.tiling), "activations_bytes": decode.activations,
            "recomputed": decode.recomputed, "fits": decode.fits,
        })).collect::<Vec<_>>(),
    })
}
