//! Whether a tokenizer is of the kind that Gemma has.
//!
//! The library reads many kinds and ends the program on some files that are broken (found by fuzzing); a regular
//! expression from a file could keep it busy for ever, and dropout would give other tokens each time. None of that
//! belongs to a Sana model, so only what Gemma's tokenizer is made of is let through.

use serde::Deserialize;
use serde_json::Value;

use crate::error::short;

#[derive(Deserialize)]
struct Parts {
    model: Model,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
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

/// Checks the text of a `tokenizer.json`; an error says what is of another kind.
pub(super) fn check(text: &str) -> Result<(), String> {
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
        ("post_processor", &parts.post_processor, &["TemplateProcessing"]),
        ("decoder", &parts.decoder, &["Replace", "ByteFallback", "Fuse", "Strip"]),
    ] {
        if let Some(value) = part
            && !plain(value, kinds)
        {
            return other(what, value);
        }
    }
    Ok(())
}

/// Of one of the kinds, or a sequence of such, without a regular expression.
fn plain(part: &Value, kinds: &[&str]) -> bool {
    let kind = part.get("type").and_then(Value::as_str);
    if kind == Some("Sequence") {
        let inner = ["normalizers", "pretokenizers", "processors", "decoders"].map(|key| part.get(key));
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
