//! `README.md`: the card of a data set, with a head in YAML that tells the library `datasets` which files are its examples
//! and what is in them.

use std::fmt::Write as _;

use sanafarm_storage::{Found, Output};

use super::Error;
use super::line::free_names;
use super::metadata::KEYS;
use super::pass::Totals;
use crate::domain::form::Layout;
use crate::domain::listing::CARD;
use crate::domain::state::outcome;
use crate::store::records::Job;

/// A card with this line is one of ours, and written anew.
const MARKER: &str =
    "<!-- written by sanafarm when a job of this output ends: take this line away to keep your own text -->";
/// A card that is longer is none of ours.
const MOST_BYTES: u64 = 1 << 20;
/// Jobs that are told one by one.
const MOST_JOBS: usize = 1000;

/// What the card is about.
pub(super) struct Contents<'a> {
    pub layout: Layout,
    pub jobs: &'a [Job],
    /// Pass-through columns.
    pub columns: &'a [String],
    pub totals: &'a Totals,
}

/// Writes the card, unless somebody else's stands there.
pub(super) async fn write(output: &Output, contents: &Contents<'_>) -> Result<(), Error> {
    let license = match output.get(CARD, MOST_BYTES).await? {
        Found::Nothing => None,
        Found::Object(found) => {
            let found = String::from_utf8_lossy(&found).into_owned();
            if !found.lines().any(|line| line.trim_end() == MARKER) {
                tracing::info!(output = output.place(), "README.md is somebody's own: left as it is");
                return Ok(());
            }
            license(&found)
        }
        Found::Larger => {
            tracing::info!(output = output.place(), "README.md is somebody's own: left as it is");
            return Ok(());
        }
    };
    Ok(output.replace(CARD, text(contents, license.as_deref()).into()).await?)
}

/// What somebody wrote into the head of a card of ours: that is theirs to say.
fn license(card: &str) -> Option<String> {
    let head = card.strip_prefix("---\n")?.split_once("\n---")?.0;
    head.lines().find(|line| line.starts_with("license:")).map(str::to_owned)
}

fn text(contents: &Contents<'_>, license: Option<&str>) -> String {
    let Contents { layout, jobs, columns, totals } = contents;
    let mut text = String::from("---\n");
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    if let Some(license) = license {
        line(license);
    }
    line("tags:\n- synthetic\n- text-to-image\n- sanafarm");
    line(&format!("size_categories:\n- {}", size_category(totals.pictures)));
    line("configs:\n- config_name: default\n  data_files:\n  - split: train\n    path:");
    match layout {
        Layout::Files => {
            totals.patterns.iter().for_each(|pattern| line(&format!("    - {}", quoted(pattern))));
            line("    - metadata.jsonl");
        }
        Layout::Webdataset => line("    - \"train-*.tar\""),
    }
    // Guessed from the first examples they would be wrong wherever those say nothing.
    line("dataset_info:\n  config_name: default\n  features:");
    match layout {
        Layout::Files => {
            line("  - name: image\n    dtype: image");
            for (name, dtype) in metadata_fields(columns) {
                line(&format!("  - name: {}\n    dtype: {dtype}", quoted(&name)));
            }
        }
        Layout::Webdataset => {
            let extensions = totals.patterns.iter().filter_map(|pattern| pattern.rsplit('.').next());
            extensions.for_each(|extension| line(&format!("  - name: {extension}\n    dtype: image")));
            line("  - name: json\n    struct:");
            for (name, dtype) in sample_fields(columns) {
                line(&format!("    - name: {}\n      dtype: {dtype}", quoted(&name)));
            }
            for name in ["txt", "__key__", "__url__"] {
                line(&format!("  - name: {name}\n    dtype: string"));
            }
        }
    }
    let Totals { pictures, bytes, .. } = totals;
    line(&format!("  splits:\n  - name: train\n    num_examples: {pictures}\n    num_bytes: {bytes}"));
    line("---");
    line(MARKER);
    let title = jobs.first().map_or("", |job| job.name.as_str());
    line(&format!("\n# {}\n", one_line(title)));
    line(&format!("{pictures} pictures rendered by sanafarm {}.\n", env!("CARGO_PKG_VERSION")));
    line(match layout {
        Layout::Files => {
            "`metadata.jsonl` tells the text of each picture, `manifest.parquet` all that is known of each image; parts of \
             it are in `manifests/`."
        }
        Layout::Webdataset => {
            "`train-*.tar` hold the pictures with their text and recipe, `index.json` tells samples, bytes and hash of \
             each tar, `manifest.parquet` all that is known of each image, `manifests/` the same of each tar."
        }
    });
    line(
        "\n| job | name | model | state | images | done | failed |\n| --- | --- | --- | --- | --- | --- | --- |",
    );
    for job in jobs.iter().take(MOST_JOBS) {
        let Job { id, name, model, images, done, failed, .. } = job;
        let (name, model) = (one_line(name), one_line(model));
        // The one that is about to end is told as it will be.
        let complete = done + failed == *images && !job.state.has_ended();
        let state = if complete { outcome(*failed) } else { job.state };
        line(&format!("| {id} | {name} | {model} | {state} | {images} | {done} | {failed} |"));
    }
    if jobs.len() > MOST_JOBS {
        line(&format!("\nand {} more", jobs.len() - MOST_JOBS));
    }
    text
}

/// What the JSON of a sample in a tar says of its picture, besides its recipe.
const SAMPLE_KEYS: [&str; 11] = [
    "index",
    "id",
    "prompt",
    "negative_prompt",
    "seed",
    "width",
    "height",
    "steps",
    "guidance",
    "model",
    "sha256",
];

fn typed(key: &str) -> (String, &'static str) {
    let dtype = match key {
        "seed" | "width" | "height" | "steps" | "index" => "int64",
        "guidance" => "float64",
        _ => "string",
    };
    (key.to_owned(), dtype)
}

/// The fields of a sample in a tar. Its own names win over those of the list.
fn sample_fields(columns: &[String]) -> impl Iterator<Item = (String, &'static str)> {
    let others =
        columns.iter().filter(|column| !SAMPLE_KEYS.contains(&column.as_str()) && *column != "recipe");
    SAMPLE_KEYS.iter().map(|key| typed(key)).chain(others.map(|column| (column.clone(), "string")))
}

/// The fields of the metadata besides the picture.
fn metadata_fields(columns: &[String]) -> Vec<(String, &'static str)> {
    let own = KEYS.iter().filter(|key| **key != "file_name").map(|key| typed(key));
    own.chain(free_names(columns, &KEYS).into_iter().map(|name| (name, "string"))).collect()
}

/// The word of the Hugging Face hub for so many examples.
fn size_category(examples: u64) -> &'static str {
    match examples {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        10_000_000..100_000_000 => "10M<n<100M",
        100_000_000..1_000_000_000 => "100M<n<1B",
        1_000_000_000.. => "n>1B",
    }
}

/// A text as YAML reads it: JSON is YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text for one cell of a table.
fn one_line(text: &str) -> String {
    text.chars().fold(String::new(), |mut line, c| {
        match c {
            '|' | '<' | '>' | '`' | '#' | '*' | '[' | ']' | '\\' => {
                // Writing to a text cannot fail.
                let _ = write!(line, "&#{};", u32::from(c));
            }
            c if c.is_control() => line.push(' '),
            c => line.push(c),
        }
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents<'a>(totals: &'a Totals, columns: &'a [String]) -> Contents<'a> {
        Contents { layout: Layout::Files, jobs: &[], columns, totals }
    }

    #[tokio::test]
    async fn a_card_of_ours_is_written_anew_and_keeps_its_license_and_no_other_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::open(&folder.path().display().to_string()).unwrap();
        let read = || std::fs::read_to_string(folder.path().join(CARD)).unwrap();
        let (few, many) = (Totals::default(), Totals { pictures: 5000, ..Totals::default() });
        write(&output, &contents(&few, &[])).await.unwrap();
        assert!(read().starts_with("---\n") && read().contains("n<1K") && !read().contains("license"));
        let licensed = read().replacen("---\n", "---\nlicense: cc0-1.0\n", 1);
        output.replace(CARD, licensed.into()).await.unwrap();
        write(&output, &contents(&many, &[])).await.unwrap();
        assert!(read().starts_with("---\nlicense: cc0-1.0\n") && read().contains("1K<n<10K"), "{}", read());
        output.replace(CARD, "# mine\n".to_owned().into()).await.unwrap();
        write(&output, &contents(&many, &[])).await.unwrap();
        assert_eq!(read(), "# mine\n");
    }

    #[test]
    fn odd_names_are_quoted() {
        let columns = ["a: b\n".to_owned(), "seed".to_owned()];
        let text = text(&contents(&Totals::default(), &columns), None);
        assert!(text.contains("  - name: \"a: b\\n\"\n    dtype: string"), "{text}");
        assert!(text.contains("  - name: \"input_seed\"\n"), "{text}");
        assert_eq!(one_line("a|b\n<c>"), "a&#124;b &#60;c&#62;");
    }
}
