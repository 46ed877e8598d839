//! The command line.

use std::path::PathBuf;

use sana::autoencoder::Tiling;
use sana::bench::{Part, Source, Work};
use sana::{Placement, Precision};

/// Shown with `--help` and behind every mistake.
pub const USAGE: &str = "\
usage: sana-bench text|dit|decode|picture --model DIR --size WxH [options]
       sana-bench text|dit|decode --part DIR [--size WxH] [options]
       sana-bench plan --help

Parts of a model:
  text     one prompt and the empty negative prompt through the text encoder
  dit      all steps of a guided pair through the transformer
  decode   one latent through the decoder
  picture  prompt to picture

  --steps N                   denoising steps (20)

One part alone, from its own folder (config.json and weights):
  text     one sequence of tokens
  dit      one call
  decode   one latent

  --tokens N                  of the text (300)
  --pair                      two sequences in a call, as with guidance
  --input FILE                safetensors with latent; latent, text, mask, timestep; or ids
  --output FILE               write the result to a safetensors file and time nothing

Both:
  --decode exact|tiles|blend|whole
                              how a latent is decoded (exact: in bands)
  --tile N                    rows of a band (exact), side of a tile (tiles 1024, blend 512)
  --device cpu|cuda|cuda:N    where the work is done (cpu)
  --precision bf16|f32        on a CUDA device (bf16)
  --threads N                 threads (all)
  --repeat N                  runs that are timed after the first one (5); 0 times the first one
  --turns                     time a run for each line of standard input instead
  --json                      one object
";

/// What was asked for.
pub struct Options {
    pub work: Work,
    /// Its name on the command line.
    pub name: String,
    pub output: Option<PathBuf>,
    pub threads: Option<usize>,
    pub repeat: usize,
    pub turns: bool,
    pub json: bool,
}

/// Nothing when help is asked for.
pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let (mut part, mut name) = (None, String::new());
    let (mut model, mut alone) = (None, None);
    let (mut size, mut steps, mut tokens, mut pair) = ((0, 0), 20, 300, false);
    let (mut decode, mut tile) = ("exact".to_owned(), None);
    let (mut input, mut output) = (None, None);
    let (mut device, mut precision) = ("cpu".to_owned(), Precision::Bf16);
    let (mut threads, mut repeat, mut turns, mut json) = (None, 5, false, false);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "-h" | "--help" => return Ok(None),
            "text" => (part, name) = (Some(Part::Text), argument),
            "dit" => (part, name) = (Some(Part::Dit), argument),
            "decode" => (part, name) = (Some(Part::Decode), argument),
            "picture" => (part, name) = (Some(Part::Picture), argument),
            "--model" => model = Some(PathBuf::from(value()?)),
            "--part" => alone = Some(PathBuf::from(value()?)),
            "--size" => size = pair_of_sides(&value()?)?,
            "--steps" => steps = number(&value()?)?,
            "--tokens" => tokens = number(&value()?)?,
            "--pair" => pair = true,
            "--decode" => decode = value()?,
            "--tile" => tile = Some(number(&value()?)?),
            "--input" => input = Some(value()?.into()),
            "--output" => output = Some(value()?.into()),
            "--device" => device = value()?,
            "--precision" => precision = precision_of(&value()?)?,
            "--threads" => threads = Some(number(&value()?)?),
            "--repeat" => repeat = number(&value()?)?,
            "--turns" => turns = true,
            "--json" => json = true,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    let part = part.ok_or("name a part: text, dit, decode or picture")?;
    let source = match (model, alone) {
        (Some(model), None) => Source::Model(model),
        (None, Some(alone)) => Source::Part(alone),
        _ => return Err("give either --model or --part".to_owned()),
    };
    let needs_size = matches!(source, Source::Model(_)) || (!matches!(part, Part::Text) && input.is_none());
    if needs_size && size == (0, 0) {
        return Err("--size is missing".to_owned());
    }
    let tiling = match (decode.as_str(), tile) {
        ("exact", band) => Tiling::Bands(band),
        ("tiles", side) => Tiling::Tiles(side.unwrap_or(1024)),
        ("whole", _) => Tiling::Whole,
        ("blend", None) => Tiling::BLEND,
        // The overlap is that of the library's defaults, an eighth.
        ("blend", Some(tile)) => Tiling::Blend { tile, stride: tile / 8 * 7 },
        (other, _) => return Err(format!("--decode {other}: choose exact, tiles, blend or whole")),
    };
    let placement = Placement::parse(&device, precision).map_err(|error| error.to_string())?;
    let work = Work { part, source, size, steps, tiling, placement, tokens, pair, input };
    Ok(Some(Options { work, name, output, threads, repeat, turns, json }))
}

fn precision_of(text: &str) -> Result<Precision, String> {
    match text {
        "bf16" => Ok(Precision::Bf16),
        "f32" => Ok(Precision::F32),
        other => Err(format!("--precision {other}: choose bf16 or f32")),
    }
}

/// A number of the wanted type.
pub fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number in range"))
}

/// Width and height.
pub fn pair_of_sides(text: &str) -> Result<(u32, u32), String> {
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    match sides {
        Some(sides @ (1.., 1..)) => Ok(sides),
        _ => Err(format!("{text} is no size such as 512x512")),
    }
}
