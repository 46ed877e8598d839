//! Times how pictures are written, format by format, and prints figures; it judges nothing.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use sanafarm_worker::picture::{self, Codec, Encoding, Pixels, Provenance};

const USAGE: &str = "\
Usage: encode-bench [--side PIXELS] [--repeat N] [PICTURE...]

Scales each picture (a PNG, JPEG or WebP file) to a square of that side, once as it is and once with grain, and writes it in each
format, rows as the engine hands them out. Without pictures it makes one of soft clouds. Prints for each format raw
megabytes a second of CPU time of one core (the median), the file's share of the raw bytes, and what the process
needed besides the raw picture at its peak.
";

/// Standard deviation of the grain, in levels: that of a good camera.
const GRAIN: f32 = 1.5;

const CODECS: [(&str, Encoding); 9] = [
    ("PNG", alone(Codec::Png)),
    ("PNG and thumbnail", Encoding { codec: Codec::Png, thumbnail: true }),
    ("JPEG 75", alone(Codec::Jpeg(75))),
    ("JPEG 89", alone(Codec::Jpeg(89))),
    ("JPEG 92", alone(Codec::Jpeg(92))),
    ("JPEG 97", alone(Codec::Jpeg(97))),
    ("WebP 75", alone(Codec::WebP(75))),
    ("WebP 90", alone(Codec::WebP(90))),
    ("WebP lossless", alone(Codec::WebPLossless)),
];

const fn alone(codec: Codec) -> Encoding {
    Encoding { codec, thumbnail: false }
}

struct Options {
    side: u32,
    repeat: usize,
    pictures: Vec<String>,
}

fn main() -> ExitCode {
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
    let mut options = Options { side: 4096, repeat: 5, pictures: Vec::new() };
    while let Some(argument) = arguments.next() {
        let mut number = |least: u32, most: u32| {
            let value = arguments.next().and_then(|value| value.parse().ok());
            value
                .filter(|value| (least..=most).contains(value))
                .ok_or(format!("{argument} takes a number from {least} to {most}"))
        };
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--side" => options.side = number(2, 16_383)?,
            "--repeat" => options.repeat = number(1, 1000)? as usize,
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}")),
            _ => options.pictures.push(argument),
        }
    }
    Ok(Some(options))
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    writeln!(out, "| picture | format | MB/s a core | of raw | besides |\n|---|---|---|---|---|")?;
    if options.pictures.is_empty() {
        measure(&mut out, "clouds", &clouds(options.side), options)?;
    }
    for name in &options.pictures {
        let file = std::fs::read(name).map_err(|error| format!("{name}: {error}"))?;
        let picture = picture::pixels(&file).map_err(|error| format!("{name}: {error}"))?;
        for (what, grain) in [("", 0.0), (", grain", GRAIN)] {
            let rgb = scaled(&picture, options.side, grain);
            let short = name.rsplit('/').next().unwrap_or(name);
            measure(&mut out, &format!("{short}{what}"), &rgb, options)?;
        }
    }
    Ok(())
}

fn measure(out: &mut impl Write, name: &str, rgb: &[u8], options: &Options) -> Result<(), Box<dyn Error>> {
    let provenance = provenance(options.side);
    for (format, encoding) in CODECS {
        let mut seconds = Vec::new();
        let mut length = 0;
        // Counts the peak anew, where the system lets us.
        let _refused = std::fs::write("/proc/self/clear_refs", "5");
        let before = memory("VmRSS")?;
        for _ in 0..options.repeat {
            // As they come from the engine: chunks of 256 KiB at most.
            let mut chunks = rgb.chunks(256 << 10).map(<[u8]>::to_vec);
            let started = cpu_seconds()?;
            let written = picture::write(&provenance, encoding, || chunks.next())?;
            seconds.push(cpu_seconds()? - started);
            length = written.file.len();
        }
        let besides = memory("VmHWM")?.saturating_sub(before);
        seconds.sort_by(f64::total_cmp);
        let speed = rgb.len() as f64 / 1e6 / seconds[seconds.len() / 2];
        let share = length as f64 * 100.0 / rgb.len() as f64;
        writeln!(out, "| {name} | {format} | {speed:.0} | {share:.1} % | {:.0} MB |", besides as f64 / 1e3)?;
    }
    Ok(())
}

/// Time that this thread has had a core, so that other work on the machine counts little.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}

/// A field of this process in kilobytes.
fn memory(field: &str) -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")).ok_or(format!("no {field} here"))?;
    Ok(number.trim().parse()?)
}

fn provenance(side: u32) -> Provenance {
    Provenance {
        program: "sanafarm".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        model: "sana-tiny".into(),
        weights_sha256: "0".repeat(64),
        prompt: "a red circle on a white background".into(),
        negative_prompt: String::new(),
        seed: 1,
        width: side,
        height: side,
        compute_width: side,
        compute_height: side,
        steps: 20,
        guidance: 4.5,
        scheduler: "flow-dpm-solver++".into(),
        dtype: "f32".into(),
        bin: sana::BinMode::Auto,
        decode: sana::DecodeMode::Exact,
        quality: None,
    }
}

/// About normal, of standard deviation 1.
fn grain(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let bytes = state.to_be_bytes();
    let sum: f32 = bytes[..4].iter().map(|byte| f32::from(*byte)).sum();
    // Four even values between 0 and 255.
    (sum - 510.0) / 147.8
}

/// The picture scaled bilinearly, with grain that all channels share.
fn scaled(picture: &Pixels, side: u32, deviation: f32) -> Vec<u8> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let place = |at: u32, length: usize| {
        let at = at as f32 * (length - 1) as f32 / (side - 1) as f32;
        let low = (at as usize).min(length - 1);
        (low, (low + 1).min(length - 1), at - low as f32)
    };
    let mut state = 1;
    let mut rgb = Vec::with_capacity(side as usize * side as usize * 3);
    for y in 0..side {
        let (top, bottom, down) = place(y, height);
        for x in 0..side {
            let (left, right, across) = place(x, width);
            let noise = grain(&mut state) * deviation;
            for channel in 0..3 {
                let value = |x: usize, y: usize| f32::from(picture.rgb[(y * width + x) * 3 + channel]);
                let row = |y: usize| value(left, y) * (1.0 - across) + value(right, y) * across;
                rgb.push((row(top) * (1.0 - down) + row(bottom) * down + noise).clamp(0.0, 255.0) as u8);
            }
        }
    }
    rgb
}

/// Octaves of smooth noise, like sky and stone, with grain.
fn clouds(side: u32) -> Vec<u8> {
    // A small hash of a grid point, between 0 and 1.
    let point = |x: i32, y: i32, octave: i32| {
        let mixed =
            x.wrapping_mul(374_761_393) ^ y.wrapping_mul(668_265_263) ^ octave.wrapping_mul(2_147_483_647);
        let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(1_274_126_177);
        ((mixed ^ (mixed >> 16)) & 0xffff) as f32 / 65_535.0
    };
    let ease = |at: f32| at * at * (3.0 - 2.0 * at);
    let smooth = |x: f32, y: f32, octave: i32| {
        let (across, down) = (ease(x.fract()), ease(y.fract()));
        let (x, y) = (x as i32, y as i32);
        let row = |y: i32| point(x, y, octave) * (1.0 - across) + point(x + 1, y, octave) * across;
        row(y) * (1.0 - down) + row(y + 1) * down
    };
    let mut state = 1;
    let mut rgb = Vec::with_capacity(side as usize * side as usize * 3);
    for y in 0..side {
        for x in 0..side {
            let (u, v) = (x as f32 / side as f32, y as f32 / side as f32);
            let (mut light, mut weight, mut scale) = (0.0, 0.5, 4.0);
            for octave in 0..9 {
                light += weight * smooth(u * scale, v * scale, octave);
                weight *= 0.55;
                scale *= 2.1;
            }
            let noise = grain(&mut state) * GRAIN;
            for value in [
                60.0 + 150.0 * light + 40.0 * v,
                40.0 + 160.0 * light + 20.0 * u,
                190.0 - 100.0 * light + 50.0 * v,
            ] {
                rgb.push((value + noise).clamp(0.0, 255.0) as u8);
            }
        }
    }
    rgb
}
