//! Compares this crate with fixtures of the reference library: one row for each tensor.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use sana::check::{self, Report, State};

const USAGE: &str = "\
usage: sana-check [--only-supported] DIR...

Compares this crate with fixtures of the reference library. A DIR is a fixture folder, or a folder
of fixture folders. Prints a row for each tensor and exits 1 if one is off or a case is not known.

  --only-supported  skip cases of parts that are not supported yet
  -h, --help        print this
";

fn main() -> ExitCode {
    let (mut dirs, mut only_supported) = (Vec::new(), false);
    for argument in std::env::args_os().skip(1) {
        match argument.to_str() {
            Some("-h" | "--help") => return write(USAGE).map_or(ExitCode::from(2), |()| ExitCode::SUCCESS),
            Some("--only-supported") => only_supported = true,
            Some(option) if option.starts_with('-') => return usage(&format!("unknown option {option}")),
            Some(_) | None => dirs.push(PathBuf::from(argument)),
        }
    }
    if dirs.is_empty() {
        return usage("name at least one folder");
    }
    match run(&dirs, only_supported) {
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
fn run(dirs: &[PathBuf], only_supported: bool) -> Result<bool, Box<dyn std::error::Error>> {
    let (mut rows, mut off, mut cases, mut failed, mut unknown) = (0, 0, 0, 0, 0);
    for dir in dirs {
        for fixture in check::fixtures(dir)? {
            let report = check::run(&fixture);
            print(&report)?;
            cases += 1;
            rows += report.rows.len();
            off += report.rows.iter().filter(|row| !row.ok).count();
            match report.state {
                State::Checked if report.passed() => {}
                State::Checked | State::Failed(_) => failed += 1,
                State::NotYet(_) if only_supported => {}
                State::NotYet(_) | State::Unknown => unknown += 1,
            }
        }
    }
    write(&format!("{rows} rows of {cases} cases: {off} off, {failed} cases failed, {unknown} unknown\n"))?;
    Ok(failed == 0 && unknown == 0)
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
        State::NotYet(part) => text += &format!("{case:<28} not supported yet: {part}\n"),
        State::Unknown => {
            text += &format!("{case:<28} unknown: nothing in config.json says what it checks\n")
        }
        State::Failed(error) => text += &format!("{case:<28} FAIL: {error}\n"),
    }
    write(&text)
}
