use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

#[test]
fn space_is_what_python_takes_for_space() {
    assert_eq!(prepare("\u{1c}\u{1d}\u{1e}\u{1f} a\u{1c}b \u{a0}\u{3000}\u{85}\n"), "a\u{1c}b");
    assert_eq!(prepare(" \t "), "");
    // Neither takes the zero-width space or the byte order mark.
    assert_eq!(prepare("\u{200b}a\u{feff}"), "\u{200b}a\u{feff}");
}

#[test]
fn lowercase_is_what_python_makes() {
    assert_eq!(prepare("ΑΣ ΣΟΦΟΣ"), "ας σοφος");
    assert_eq!(prepare("Σ"), "σ");
    assert_eq!(prepare("İSTANBUL"), "i\u{307}stanbul");
    assert_eq!(prepare("STRAẞE ÄÖ Ǆ"), "straße äö ǆ");
}

#[test]
fn a_missing_tokenizer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = PromptTokenizer::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Model(text) if text.contains("tokenizer.json")), "{error}");
}

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny/tokenizer")
}

#[test]
fn the_bundled_model_starts_every_text_with_bos() {
    let tokenizer = PromptTokenizer::open(&bundled()).unwrap();
    let empty = tokenizer.plain("", 8).unwrap();
    assert_eq!((empty.ids[0], empty.real().len(), empty.selected.len()), (2, 1, 8));
    let long = tokenizer.with_instruction(&"a red circle ".repeat(500), MAX_SEQUENCE_LENGTH).unwrap();
    assert_eq!(long.ids.len(), tokenizer.instruction_tokens() + 298);
    assert_eq!(long.real().len(), long.ids.len());
    assert_eq!(long.selected.len(), MAX_SEQUENCE_LENGTH);
    assert_eq!(long.selected[..2], [0, tokenizer.instruction_tokens() - 1]);
}

#[test]
fn a_long_prompt_is_cut_as_the_reference_does() {
    let tokenizer = PromptTokenizer::open(&bundled()).unwrap();
    let short = tokenizer.with_instruction(&"a red circle ".repeat(500), MAX_SEQUENCE_LENGTH).unwrap();
    let long = tokenizer.with_instruction(&"A RED circle ".repeat(8_000), MAX_SEQUENCE_LENGTH).unwrap();
    assert_eq!(long, short);
    let rows = MAX_SEQUENCE_LENGTH;
    for prompt in [
        "x".repeat(100_000),
        "x".repeat(MAX_PROMPT_BYTES),
        format!("e{}", "\u{301}".repeat(100_000)),
        "\0".repeat(100_000),
        "\u{10ffff}".repeat(100_000),
        "\u{130}".repeat(100_000),
        "<bos>".repeat(20_000),
        " ".repeat(100_000) + "\n",
        "a\u{1f1e6}\u{200d}".repeat(30_000),
    ] {
        let start: String = prompt.chars().take(8).collect();
        let full = tokenizer.with_instruction(&prompt, rows).unwrap();
        assert_eq!(full.ids.len(), tokenizer.instruction_tokens() + rows - 2, "{start:?}");
        assert_eq!(full.selected.len(), rows, "{start:?}");
        let plain = tokenizer.plain(&prompt, rows).unwrap();
        assert_eq!((plain.ids.len(), plain.ids[0], plain.selected.len()), (rows, 2, rows), "{start:?}");
    }
}

#[test]
fn a_prompt_or_a_number_of_rows_beyond_all_bounds_is_refused() {
    let tokenizer = PromptTokenizer::open(&bundled()).unwrap();
    let prompt = "x".repeat(MAX_PROMPT_BYTES + 1);
    for result in [tokenizer.with_instruction(&prompt, 300), tokenizer.plain(&prompt, 300)] {
        assert!(matches!(&result, Err(Error::Prompt(text)) if text.contains("1048577 bytes")), "{result:?}");
    }
    for rows in [0, MAX_ROWS + 1, usize::MAX] {
        for result in [tokenizer.with_instruction("a", rows), tokenizer.plain("a", rows)] {
            assert!(matches!(&result, Err(Error::Setting(text)) if text.contains("rows")), "{result:?}");
        }
    }
    assert_eq!(tokenizer.plain("a", 1).unwrap().selected, [0]);
    assert_eq!(tokenizer.with_instruction("a", 1).unwrap().selected, [0]);
}

/// Opens the bundled tokenizer with some parts replaced.
fn changed(parts: Value) -> Result<PromptTokenizer, Error> {
    let text = std::fs::read_to_string(bundled().join("tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in parts.as_object().unwrap() {
        file[key] = value.clone();
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    PromptTokenizer::open(dir.path())
}

#[test]
fn garbage_for_a_tokenizer_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for text in
        ["", "{", "{}", "null", "[]", "\u{feff}{}", r#"{"model":{}}"#, r#"{"version":"1.0"}"#, &nested]
    {
        std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
        let error = PromptTokenizer::open(dir.path()).unwrap_err();
        assert!(matches!(&error, Error::Model(text) if text.contains("tokenizer.json")), "{error}");
        assert!(error.to_string().len() < 1000, "{error}");
    }
    std::fs::write(dir.path().join("tokenizer.json"), [0xff; 64]).unwrap();
    assert!(PromptTokenizer::open(dir.path()).is_err());
    let error = changed(json!({ "post_processor": null })).unwrap_err();
    assert!(error.to_string().contains("<bos>"), "{error}");
    let nothing = json!({ "type": "BPE", "vocab": { "<bos>": 2 }, "merges": [] });
    let error = changed(json!({ "model": nothing })).unwrap_err();
    assert!(error.to_string().contains("no word of the instruction"), "{error}");
}

#[test]
fn a_tokenizer_of_another_kind_is_refused_before_the_library_sees_it() {
    let bpe = |key: &str, value: Value| {
        let mut model = json!({ "type": "BPE", "vocab": { "a": 0 }, "merges": [] });
        model[key] = value;
        json!({ "model": model })
    };
    let around = |single: Value| {
        let tokens = json!({ "<bos>": { "id": "<bos>", "ids": [2], "tokens": ["<bos>"] } });
        let kind = "TemplateProcessing";
        json!({ "post_processor": { "type": kind, "single": single, "pair": [], "special_tokens": tokens } })
    };
    let token = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let split = |pattern: Value| json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated" });
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "x" });
    for (parts, told) in [
        // The library panics on this one.
        (json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": "AAAA" } }), "normalizer"),
        (json!({ "normalizer": { "precompiled_charsmap": "AAAA" } }), "normalizer"),
        (json!({ "normalizer": { "type": "Sequence", "normalizers": [replace, { "type": "NFC" }] } }), "NFC"),
        (json!({ "normalizer": { "type": "Sequence", "normalizers": {} } }), "normalizer"),
        (json!({ "pre_tokenizer": split(json!({ "Regex": "(a*)*b" })) }), "pre_tokenizer"),
        (json!({ "pre_tokenizer": { "type": "ByteLevel" } }), "ByteLevel"),
        (json!({ "post_processor": 5 }), "struct Template"),
        // And on these when it is given a text.
        (around(json!([token("<bo>s"), text("A")])), "what the token <bo>s is"),
        (around(json!([token("<bos>"), text("B")])), "the text B and not A"),
        // This would be as many copies of the text.
        (around(json!([token("<bos>"), text("A"), text("A")])), "twice"),
        (around(json!([text("A"), token("<bos>")])), "end in the text"),
        (around(json!([text("A")])), "<bos>"),
        (around(json!([])), "end in the text"),
        (json!({ "decoder": { "type": "CTC" } }), "decoder"),
        (json!({ "model": { "type": "Unigram", "vocab": [], "unk_id": 0 } }), "Unigram"),
        (json!({ "model": { "vocab": { "a": 0 }, "merges": [] } }), "type"),
        (bpe("dropout", json!(0.5)), "dropout"),
        (bpe("continuing_subword_prefix", json!("##")), "continuing_subword_prefix"),
        (bpe("end_of_word_suffix", json!("</w>")), "end_of_word_suffix"),
    ] {
        let error = changed(parts.clone()).unwrap_err();
        assert!(matches!(&error, Error::Model(text) if text.contains(told)), "{parts}: {error}");
    }
    let sequence = json!({ "type": "Sequence", "normalizers": [replace] });
    changed(json!({ "normalizer": sequence, "decoder": null })).unwrap();
}

#[test]
fn length_and_padding_of_the_file_do_not_count() {
    let want = PromptTokenizer::open(&bundled()).unwrap().plain("a red circle", 20).unwrap();
    let truncation =
        json!({ "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 9 });
    let padding = json!({
        "strategy": { "Fixed": 8 }, "direction": "Left", "pad_to_multiple_of": 0,
        "pad_id": 1, "pad_type_id": 0, "pad_token": "<eos>",
    });
    let tokenizer = changed(json!({ "truncation": truncation, "padding": padding })).unwrap();
    assert_eq!(tokenizer.plain("a red circle", 20).unwrap(), want);
}
