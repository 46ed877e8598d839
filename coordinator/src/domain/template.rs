//! Object names, such as `{index:08}-{seed}.png`.
//!
//! Placeholders: `{index}`, `{seed}` (both take a width, `{index:08}`), `{job}`, `{id}`. Names are relative and
//! never leave the output.

use super::Invalid;

/// The template of a job that names none.
pub const DEFAULT_TEMPLATE: &str = "{index:08}-{seed}.png";
/// Objects that the coordinator writes itself.
pub const RESERVED: [&str; 2] = ["manifest.parquet", "metadata.jsonl"];
/// Longest name in bytes; every file system and store takes it.
const MAX_NAME: usize = 512;
/// Longest part between two slashes in bytes, with room for a temporary suffix.
const MAX_PART: usize = 200;
/// A row's id is cut to this many bytes within a name.
const MAX_ID: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Index(usize),
    Seed(usize),
    Job,
    Id,
}

/// A checked name template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Reads a template; the empty one is [`DEFAULT_TEMPLATE`].
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let text = if text.is_empty() { DEFAULT_TEMPLATE } else { text };
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
        let template = Self { pieces };
        let varies =
            template.pieces.iter().any(|p| matches!(p, Piece::Index(_) | Piece::Seed(_) | Piece::Id));
        if !varies {
            return Err(refuse("gives every image one name; add {index:08}".to_owned()));
        }
        // Placeholders only ever give harmless text, so one sample shows whether the fixed parts are sound.
        template.name(0, 0, "job", Some("id")).map_err(|e| refuse(format!("is not sound: {}", e.what)))?;
        Ok(template)
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
    pub fn name(&self, index: u64, seed: u64, job: &str, id: Option<&str>) -> Result<String, Invalid> {
        let mut name = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Index(width) => name.push_str(&format!("{index:0width$}")),
                Piece::Seed(width) => name.push_str(&format!("{seed:0width$}")),
                Piece::Job => name.push_str(&clean(job)),
                Piece::Id => name.push_str(&clean(
                    id.ok_or_else(|| Invalid::job("the name template has {id} but the row has no id"))?,
                )),
            }
        }
        check(&name)?;
        Ok(name)
    }
}

fn placeholder(name: &str) -> Result<Piece, String> {
    let (word, width) = match name.split_once(':') {
        None => (name, 0),
        Some((word, digits)) => {
            let width = digits.parse().ok().filter(|width| (1..=20).contains(width));
            (word, width.ok_or_else(|| format!("has the width {digits:?}; use 1 to 20, as in {{index:08}}"))?)
        }
    };
    match (word, width) {
        ("index", width) => Ok(Piece::Index(width)),
        ("seed", width) => Ok(Piece::Seed(width)),
        ("job", 0) => Ok(Piece::Job),
        ("id", 0) => Ok(Piece::Id),
        ("job" | "id", _) => Err(format!("gives {{{word}}} a width")),
        _ => Err(format!("has {{{name}}}; the placeholders are {{index}}, {{seed}}, {{job}} and {{id}}")),
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
    if RESERVED.contains(&name) {
        return refuse("is reserved for the job's own files");
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fills_in_its_placeholders() {
        let name = |t: &str| Template::parse(t).unwrap().name(7, 42, "My job/1", Some("a b/../c")).unwrap();
        assert_eq!(name(""), "00000007-42.png");
        assert_eq!(name("{job}/{index}.png"), "My_job_1/7.png");
        assert_eq!(name("x/{id}-{seed:04}.png"), "x/a_b_.._c-0042.png");
    }

    #[test]
    fn refuses_what_leaves_the_output_or_is_not_unique() {
        for wrong in [
            "/{index}.png",
            "../{index}.png",
            "a/../{index}.png",
            "a//{index}.png",
            "{index}/",
            ".{index}.png",
            "{index}#1.png",
            "{index}\\x.png",
            "{index",
            "{colour}{index}",
            "{index:0}",
            "{index:99}",
            "{job}.png",
            "fixed.png",
        ] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Template::parse("{id}.png").unwrap().name(0, 0, "j", None).is_err());
        let reserved = Template::parse("{id}.parquet").unwrap();
        assert!(reserved.name(0, 0, "j", Some("manifest")).is_err());
    }

    #[test]
    fn the_index_may_tell_names_apart() {
        for (template, tells) in [
            ("", true),
            ("{job}/{index}.png", true),
            ("{id}-{index}.png", true),
            ("{seed}/{id}_{index:04}", true),
            ("{index}{seed}.png", false),
            ("{id}{index}.png", false),
            ("{index}7-{id}.png", false),
            ("{id}/{index}-{seed}.png", false),
            ("{seed}.png", false),
            ("{id}.png", false),
        ] {
            assert_eq!(Template::parse(template).unwrap().tells_by_index(), tells, "{template}");
        }
    }

    proptest! {
        #[test]
        fn what_the_index_tells_apart_never_collides(
            pieces in prop::collection::vec(prop::sample::select(vec!["{index}", "{index:03}", "{seed}", "{id}", "{job}", "-", "1", "a"]), 1..6),
            images in prop::collection::vec((0u64..200, 0u64..30, "[0-9a-]{1,3}"), 2..20),
        ) {
            let Ok(template) = Template::parse(&pieces.concat()) else { return Ok(()) };
            if template.tells_by_index() {
                let mut seen = std::collections::HashMap::new();
                for (index, seed, id) in images {
                    let name = template.name(index, seed, "9j9", Some(&id)).unwrap();
                    prop_assert_eq!(*seen.entry(name).or_insert(index), index);
                }
            }
        }

        #[test]
        fn names_stay_inside_whatever_the_id_and_the_job_say(id in ".{0,200}", job in ".{0,60}") {
            let template = Template::parse("{job}/{id}/{index}.png").unwrap();
            let name = template.name(1, 2, &job, Some(&id)).unwrap();
            prop_assert!(!name.starts_with('/'));
            for part in name.split('/') {
                prop_assert!(!part.is_empty() && !part.starts_with('.'));
                prop_assert!(part.chars().all(may_stand));
            }
            prop_assert_eq!(name.split('/').count(), 3);
        }

        #[test]
        fn index_alone_makes_names_unique(a in 0u64..1_000_000, b in 0u64..1_000_000) {
            let template = Template::parse("{index:04}.png").unwrap();
            let name = |i| template.name(i, 0, "", None).unwrap();
            prop_assert_eq!(a == b, name(a) == name(b));
        }

        #[test]
        fn no_template_panics(text in ".{0,40}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.name(u64::MAX, u64::MAX, "job", Some("id"));
            }
        }
    }
}
