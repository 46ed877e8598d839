//! Whether a tokenizer is of the kind that Gemma has.
//!
//! The library reads many kinds and panics on some files that are broken (found by fuzzing); a regular expression from
//! a file could keep it busy for ever, and dropout would give other tokens each time. None of that belongs to a Sana
//! model, so only what Gemma's tokenizer is made of is let through.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::error::short;

#[derive(Deserialize)]
struct Parts {
    model: Model,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Template>,
    decoder: Option<Value>,
}

/// Without the vocabulary, which is passed over.
#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

/// What is put around a text. The library takes names and numbers in it for granted, so it is done here.
#[derive(Deserialize)]
struct Template {
    #[serde(rename = "type")]
    kind: String,
    single: Vec<Piece>,
    special_tokens: BTreeMap<String, Special>,
}

#[derive(Deserialize)]
enum Piece {
    SpecialToken { id: String },
    Sequence { id: String },
}

#[derive(Deserialize)]
struct Special {
    ids: Vec<u32>,
}

/// Checks the text of a `tokenizer.json` and gives the tokens that start a text; an error says what is of another kind.
pub(super) fn check(text: &str) -> Result<Vec<u32>, String> {
    let parts: Parts = serde_json::from_str(text).map_err(short)?;
    let model = &parts.model;
    let other = |what: &str, value: &Value| {
        Err(format!("its {what} is {}, which Gemma's tokenizer does not have", short(value)))
    };
    if model.kind != "BPE" {
        return other("model", &model.kind.as_str().into());
    }
    if let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0) {
        return other("dropout", &dropout.into());
    }
    for (what, affix) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
            return other(what, &affix.into());
        }
    }
    for (what, part, kinds) in [
        ("normalizer", &parts.normalizer, ["Replace"].as_slice()),
        ("pre_tokenizer", &parts.pre_tokenizer, &["Split"]),
        ("decoder", &parts.decoder, &["Replace", "ByteFallback", "Fuse", "Strip"]),
    ] {
        if let Some(value) = part
            && !plain(value, kinds)
        {
            return other(what, value);
        }
    }
    match parts.post_processor {
        Some(template) if template.kind == "TemplateProcessing" => start(&template),
        Some(template) => other("post_processor", &template.kind.as_str().into()),
        None => Ok(Vec::new()),
    }
}

/// The tokens before the text, behind which there must be none.
fn start(template: &Template) -> Result<Vec<u32>, String> {
    let Some((Piece::Sequence { id }, before)) = template.single.split_last() else {
        return Err("its post_processor does not end in the text".to_owned());
    };
    if id != "A" {
        return Err(format!("its post_processor ends in the text {} and not A", short(id)));
    }
    let mut tokens = Vec::new();
    for piece in before {
        let Piece::SpecialToken { id } = piece else {
            return Err("its post_processor has the text twice".to_owned());
        };
        let Some(special) = template.special_tokens.get(id) else {
            return Err(format!("its post_processor does not say what the token {} is", short(id)));
        };
        tokens.extend(&special.ids);
    }
    Ok(tokens)
}

/// Of one of the kinds, or a sequence of such, without a regular expression.
fn plain(part: &Value, kinds: &[&str]) -> bool {
    let kind = part.get("type").and_then(Value::as_str);
    if kind == Some("Sequence") {
        let inner = ["normalizers", "pretokenizers", "decoders"].map(|key| part.get(key));
        let mut lists = inner.into_iter().flatten();
        return lists
            .next()
            .and_then(Value::as_array)
            .is_some_and(|list| lists.next().is_none() && list.iter().all(|part| plain(part, kinds)));
    }
    let pattern =
        part.get("pattern").is_none_or(|pattern| pattern.get("String").is_some_and(Value::is_string));
    kind.is_some_and(|kind| kinds.contains(&kind)) && pattern
}
