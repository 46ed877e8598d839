//! Object names, such as `{index:08}-{seed}`.
//!
//! Placeholders: `{index}`, `{seed}` (both take a width, `{index:08}`), `{job}`, `{id}`, `{prompt_hash}`, and any
//! column of the prompt list that is passed through. Names are relative, never leave the output and end in the extension
//! of their format.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Invalid;
use super::form::{Form, ImageFormat, Layout, MANIFESTS, THUMBNAILS};

/// The template of a job that names none. In a tar the index alone is enough.
fn default_template(layout: Layout) -> &'static str {
    match layout {
        Layout::Files => "{index:08}-{seed}",
        Layout::Webdataset => "{index:08}",
    }
}

/// Extensions that say what a picture is.
const IMAGE_EXTENSIONS: [&str; 9] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif"];
/// Longest name in bytes; every file system and store takes it.
const MAX_NAME: usize = 512;
/// Longest part between two slashes in bytes, with room for a temporary suffix.
const MAX_PART: usize = 200;
/// A row's id, and any other text of it, is cut to this many bytes within a name.
const MAX_ID: usize = 100;
/// Digits of the hash of a prompt within a name.
const HASH_DIGITS: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Index(usize),
    Seed(usize),
    Job,
    Id,
    PromptHash,
    /// A column that is passed through.
    Column(String),
}

/// What names an image.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Its place among the images of all jobs of the output.
    pub index: u64,
    /// Seed of its starting noise.
    pub seed: u64,
    /// Name of its job.
    pub job: &'a str,
    /// Its row's own name.
    pub id: Option<&'a str>,
    /// What it shows.
    pub prompt: &'a str,
    /// Pass-through columns of its row.
    pub columns: &'a Map<String, Value>,
}

/// A checked name template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
    layout: Layout,
}

impl Template {
    /// Reads the template of a job with this form; the empty one is the default of its layout. One that does not end in
    /// the extension of the format gets it.
    pub fn parse(text: &str, form: &Form) -> Result<Self, Invalid> {
        let text = if text.is_empty() { default_template(form.layout) } else { text };
        let refuse = |what: String| Invalid::job(format!("name template {text:?} {what}"));
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('{') {
                let (name, after) =
                    inner.split_once('}').ok_or_else(|| refuse("has a { without its }".to_owned()))?;
                pieces.push(placeholder(name).map_err(refuse)?);
                rest = after;
            } else {
                let end = rest.find('{').unwrap_or(rest.len());
                let (literal, after) = rest.split_at(end);
                if let Some(wrong) = literal.chars().find(|c| !may_stand(*c) && *c != '/') {
                    return Err(refuse(format!("has {wrong:?}, which is not allowed in an object name")));
                }
                pieces.push(Piece::Text(literal.to_owned()));
                rest = after;
            }
        }
        extend(&mut pieces, form).map_err(refuse)?;
        let template = Self { pieces, layout: form.layout };
        if form.layout == Layout::Webdataset {
            template.check_sample(form.format).map_err(refuse)?;
        }
        let same = |piece: &Piece| matches!(piece, Piece::Text(_) | Piece::Job);
        if template.pieces.iter().all(same) {
            return Err(refuse("gives every image one name; add {index:08}".to_owned()));
        }
        // Placeholders only ever give harmless text, so one sample shows whether the fixed parts are sound.
        template
            .fill(0, 0, "job", |_| Ok("x".to_owned()))
            .map_err(|e| refuse(format!("is not sound: {}", e.what)))?;
        Ok(template)
    }

    /// Whether a reader of the tar takes all of the name but its extension for the name of the sample.
    fn check_sample(&self, format: ImageFormat) -> Result<(), String> {
        let texts: String =
            self.pieces.iter().map(|piece| if let Piece::Text(text) = piece { text } else { "x" }).collect();
        if texts.contains('/') {
            return Err("has a /: in the layout webdataset it names a sample in a tar".to_owned());
        }
        if texts.matches('.').count() > 1 {
            return Err(format!(
                "has a dot before .{}: in the layout webdataset the name of a sample ends at its first dot",
                format.extension()
            ));
        }
        Ok(())
    }

    /// Whether no two indices can give one name, whatever seeds and ids there are: what stands before the first index
    /// or behind the last is the same for all images of a job, and no digit touches that index on its other side.
    pub fn tells_by_index(&self) -> bool {
        let is_index = |piece: &Piece| matches!(piece, Piece::Index(_));
        let is_same = |piece: &Piece| matches!(piece, Piece::Text(_) | Piece::Job);
        let apart = |neighbour: Option<&Piece>, edge: fn(&str) -> Option<char>| match neighbour {
            None => true,
            Some(Piece::Text(text)) => edge(text).is_none_or(|c| !c.is_ascii_digit()),
            Some(_) => false,
        };
        let (first, last) = (self.pieces.iter().position(is_index), self.pieces.iter().rposition(is_index));
        let from_left = first.is_some_and(|at| {
            self.pieces[..at].iter().all(is_same)
                && apart(self.pieces.get(at + 1), |text| text.chars().next())
        });
        let from_right = last.is_some_and(|at| {
            let before = at.checked_sub(1).and_then(|before| self.pieces.get(before));
            self.pieces[at + 1..].iter().all(is_same) && apart(before, |text| text.chars().next_back())
        });
        from_left || from_right
    }

    /// The object name of one image.
    pub fn name(&self, image: &Named<'_>) -> Result<String, Invalid> {
        self.fill(image.index, image.seed, image.job, |piece| match piece {
            Piece::Id => image
                .id
                .map(str::to_owned)
                .ok_or_else(|| Invalid::job("the name template has {id} but the row has no id")),
            Piece::PromptHash => Ok(prompt_hash(image.prompt)),
            Piece::Column(column) => column_text(column, image.columns),
            Piece::Text(_) | Piece::Index(_) | Piece::Seed(_) | Piece::Job => Ok(String::new()),
        })
    }

    /// `of_row` gives what the image's row says for a piece.
    fn fill(
        &self,
        index: u64,
        seed: u64,
        job: &str,
        of_row: impl Fn(&Piece) -> Result<String, Invalid>,
    ) -> Result<String, Invalid> {
        let mut name = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Index(width) => name.push_str(&format!("{index:0width$}")),
                Piece::Seed(width) => name.push_str(&format!("{seed:0width$}")),
                Piece::Job => name.push_str(&self.clean(job)),
                Piece::Id | Piece::PromptHash | Piece::Column(_) => {
                    name.push_str(&self.clean(&of_row(piece)?))
                }
            }
        }
        check(&name)?;
        Ok(name)
    }

    /// Text from outside as a part of a name.
    fn clean(&self, text: &str) -> String {
        let cleaned = clean(text);
        match self.layout {
            Layout::Files => cleaned,
            // The name of a sample ends at its first dot.
            Layout::Webdataset => cleaned.replace('.', "_"),
        }
    }
}

/// Has a template end in the extension of its format.
fn extend(pieces: &mut Vec<Piece>, form: &Form) -> Result<(), String> {
    let format = form.format;
    if let Some(Piece::Text(text)) = pieces.last_mut()
        && let Some((stem, extension)) = text.rsplit_once('.')
    {
        let lower = extension.to_ascii_lowercase();
        if format.has_extension(&lower) {
            // Readers of tars tell the fields of a sample by their extensions.
            if form.layout == Layout::Webdataset {
                *text = format!("{stem}.{}", format.extension());
            }
            return Ok(());
        }
        if IMAGE_EXTENSIONS.contains(&lower.as_str()) {
            return Err(format!(
                "ends in .{extension}, but format {format} has .{}; write that or leave it out",
                format.extension()
            ));
        }
    }
    pieces.push(Piece::Text(format!(".{}", format.extension())));
    Ok(())
}

/// The first digits of the hash of a prompt.
fn prompt_hash(prompt: &str) -> String {
    hex::encode(&Sha256::digest(prompt)[..HASH_DIGITS / 2])
}

/// What a row says in one of its columns.
fn column_text(column: &str, columns: &Map<String, Value>) -> Result<String, Invalid> {
    let refuse = |what: &str| Err(Invalid::job(format!("the name template has {{{column}}} but {what}")));
    match columns.get(column) {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(Value::Null | Value::String(_)) => refuse(&format!("the field {column:?} of the row is empty")),
        Some(Value::Array(_) | Value::Object(_)) => {
            refuse(&format!("the field {column:?} of the row is neither text nor number"))
        }
        None => {
            let there: Vec<&str> = columns.keys().map(String::as_str).collect();
            let there = if there.is_empty() { String::new() } else { format!(", {}", there.join(", ")) };
            refuse(&format!(
                "the row has no field {column:?}; there are index, seed, job, id, prompt_hash{there}"
            ))
        }
    }
}

fn placeholder(name: &str) -> Result<Piece, String> {
    let (word, width) = match name.split_once(':') {
        None => (name, None),
        Some((word, width)) => (word, Some(width)),
    };
    let digits = || match width {
        None => Ok(0),
        Some(digits) => digits
            .parse()
            .ok()
            .filter(|width| (1..=20).contains(width))
            .ok_or_else(|| format!("has the width {digits:?}; use 1 to 20, as in {{index:08}}")),
    };
    match (word, width) {
        ("index", _) => Ok(Piece::Index(digits()?)),
        ("seed", _) => Ok(Piece::Seed(digits()?)),
        ("job", None) => Ok(Piece::Job),
        ("id", None) => Ok(Piece::Id),
        ("prompt_hash", None) => Ok(Piece::PromptHash),
        ("job" | "id" | "prompt_hash", Some(_)) => Err(format!("gives {{{word}}} a width")),
        ("", _) => {
            Err("has {}; name a column or one of index, seed, job, id and prompt_hash in it".to_owned())
        }
        // Whether the list has it shows with its first row.
        _ => Ok(Piece::Column(name.to_owned())),
    }
}

/// Characters that are the same in a folder, in an URL and in an object store.
fn may_stand(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '=' | '+' | '@' | ',' | ' ')
}

/// Text from outside as a part of a name.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_ID));
    for c in text.trim().chars() {
        let c = if may_stand(c) && c != ' ' { c } else { '_' };
        if out.len() + c.len_utf8() > MAX_ID {
            break;
        }
        out.push(c);
    }
    // Neither `..` nor a hidden file.
    let kept = out.trim_start_matches('.');
    if kept.is_empty() { "_".to_owned() } else { kept.to_owned() }
}

fn check(name: &str) -> Result<(), Invalid> {
    let refuse = |what: &str| Err(Invalid::job(format!("object name {name:?} {what}")));
    if name.len() > MAX_NAME {
        return refuse("is longer than 512 bytes");
    }
    let folder = name.split_once('/').map(|(folder, _)| folder);
    if folder.is_some_and(|folder| [THUMBNAILS, MANIFESTS].contains(&folder)) {
        return refuse("is in a folder for the job's own files");
    }
    for part in name.split('/') {
        if part.is_empty() {
            return refuse("has an empty part: it must be relative, without // and without a / at its end");
        }
        if part.starts_with('.') {
            return refuse("has a part that starts with a dot");
        }
        if part.len() > MAX_PART {
            return refuse("has a part longer than 200 bytes");
        }
        if part.trim() != part {
            return refuse("has a part with a space at its edge");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
