//! Compares this crate with fixtures of the reference library: one row for each tensor. Also measures how much of a
//! picture an autoencoder keeps.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sana::autoencoder::{Decoder, Encoder, round_trip};
use sana::check::{self, Report, State};
use sana::config::AutoencoderConfig;
use sana::weights::Weights;
use sana::{Placement, Precision};

const USAGE: &str = "\
usage: sana-check [--device DEVICE] DIR...
       sana-check --round-trip --model DIR PNG...

Compares this crate with fixtures of the reference library. A DIR is a fixture folder, or a folder
of fixture folders. Prints a row for each tensor and exits 1 if one is off or a case is not known.

With --round-trip, encodes and decodes pictures with a model's autoencoder and prints the peak
signal-to-noise ratio of each result, in decibels.

  --round-trip      measure the autoencoder
  --device DEVICE   cpu, cuda or cuda:N (cpu). A device may differ by 0.0001 of a tensor's largest
                    value besides what the fixture allows, in bf16 by 0.25 of it
  --precision P     f32 or bf16 on a CUDA device (f32)
  --model DIR       model folder, or its vae folder
  -h, --help        print this
";

fn main() -> ExitCode {
    let mut dirs = Vec::new();
    let (mut measure, mut model) = (false, None);
    let (mut device, mut precision) = ("cpu".to_owned(), Precision::F32);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("-h" | "--help") => return write(USAGE).map_or(ExitCode::from(2), |()| ExitCode::SUCCESS),
            Some("--round-trip") => measure = true,
            Some("--model") => match arguments.next() {
                Some(dir) => model = Some(PathBuf::from(dir)),
                None => return usage("--model needs a folder"),
            },
            Some("--device") => match arguments.next().and_then(|name| name.into_string().ok()) {
                Some(name) => device = name,
                None => return usage("--device needs cpu, cuda or cuda:N"),
            },
            Some("--precision") => match arguments.next().as_ref().and_then(|name| name.to_str()) {
                Some("f32") => precision = Precision::F32,
                Some("bf16") => precision = Precision::Bf16,
                Some(_) | None => return usage("--precision needs f32 or bf16"),
            },
            Some(option) if option.starts_with('-') => return usage(&format!("unknown option {option}")),
            Some(_) | None => dirs.push(PathBuf::from(argument)),
        }
    }
    if dirs.is_empty() {
        return usage("name at least one folder or picture");
    }
    let placement = match Placement::parse(&device, precision) {
        Ok(placement) => placement,
        Err(error) => return usage(&error.to_string()),
    };
    let outcome = match (measure, model) {
        (true, Some(model)) => round_trips(&model, &dirs, &placement).map(|()| true),
        (true, None) => return usage("--round-trip needs --model"),
        (false, Some(_)) => return usage("--model needs --round-trip"),
        (false, None) => run(&dirs, &placement),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    eprint!("error: {problem}\n\n{USAGE}");
    ExitCode::FAILURE
}

fn write(text: &str) -> io::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())
}

/// Whether all is well.
fn run(dirs: &[PathBuf], placement: &Placement) -> Result<bool, Box<dyn std::error::Error>> {
    let (mut rows, mut off, mut cases, mut failed, mut unknown) = (0, 0, 0, 0, 0);
    for dir in dirs {
        for fixture in check::fixtures(dir)? {
            let report = check::run_on(&fixture, placement);
            print(&report)?;
            cases += 1;
            rows += report.rows.len();
            off += report.rows.iter().filter(|row| !row.ok).count();
            match report.state {
                State::Checked if report.passed() => {}
                State::Checked | State::Failed(_) => failed += 1,
                State::Unknown => unknown += 1,
            }
        }
    }
    write(&format!("{rows} rows of {cases} cases: {off} off, {failed} cases failed, {unknown} unknown\n"))?;
    Ok(failed == 0 && unknown == 0)
}

/// Prints the quality of each picture after the autoencoder.
fn round_trips(
    model: &Path,
    pictures: &[PathBuf],
    placement: &Placement,
) -> Result<(), Box<dyn std::error::Error>> {
    let inner = model.join("vae");
    let dir = if inner.is_dir() { inner.as_path() } else { model };
    let config = AutoencoderConfig::open(&dir.join("config.json"))?;
    let weights = Weights::open(dir, "diffusion_pytorch_model", None)?.placed(placement);
    let (encoder, decoder) = (Encoder::load(&config, &weights)?, Decoder::load(&config, &weights)?);
    for path in pictures {
        let (size, bytes) = read_png(path).map_err(|e| format!("read {}: {e}", path.display()))?;
        let psnr = round_trip(&encoder, &decoder, size, &bytes)?;
        write(&format!("{:<44} {:>5}x{:<5} {psnr:>7.2} dB\n", path.display(), size.0, size.1))?;
    }
    Ok(())
}

/// Width, height and interleaved RGB bytes.
type Picture = ((usize, usize), Vec<u8>);

fn read_png(path: &Path) -> Result<Picture, Box<dyn std::error::Error>> {
    let mut decoder = png::Decoder::new(BufReader::new(File::open(path)?));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info()?;
    let mut bytes = vec![0; reader.output_buffer_size().ok_or("the picture is too large")?];
    let info = reader.next_frame(&mut bytes)?;
    bytes.truncate(info.buffer_size());
    let rgb = match info.color_type {
        png::ColorType::Rgb => bytes,
        png::ColorType::Rgba => bytes.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect(),
        png::ColorType::Grayscale => bytes.iter().flat_map(|&value| [value; 3]).collect(),
        png::ColorType::GrayscaleAlpha => {
            bytes.as_chunks::<2>().0.iter().flat_map(|&[value, _]| [value; 3]).collect()
        }
        png::ColorType::Indexed => return Err("its palette was not applied".into()),
    };
    Ok(((info.width as usize, info.height as usize), rgb))
}

fn print(report: &Report) -> io::Result<()> {
    let case = &report.case;
    let mut text = String::new();
    for row in &report.rows {
        let verdict = if row.ok { "ok" } else { "FAIL" };
        let shape = format!("{:?}", row.shape);
        text += &format!(
            "{case:<28} {:<44} {shape:<20} {:>10.3e} {:>10.3e}  {verdict}\n",
            row.name, row.difference, row.tolerance
        );
    }
    match &report.state {
        State::Checked if report.rows.is_empty() => text += &format!("{case:<28} FAIL: nothing to compare\n"),
        State::Checked => {}
        State::Unknown => {
            text += &format!("{case:<28} unknown: nothing in config.json says what it checks\n")
        }
        State::Failed(error) => text += &format!("{case:<28} FAIL: {error}\n"),
    }
    write(&text)
}
