//! Bytes of a tokenizer.json: load it and cut a text with what it accepts.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sana::prompt::PromptTokenizer;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(sana_fuzz::scratch);

fuzz_target!(|bytes: &[u8]| {
    std::fs::write(FOLDER.path().join("tokenizer.json"), bytes).expect("the scratch folder can be written");
    let Ok(tokenizer) = PromptTokenizer::open(FOLDER.path()) else { return };
    for text in ["", "a red circle", "\0\u{301}\u{301} <bos> 🟥 ▁x"] {
        if let Ok(tokens) = tokenizer.with_instruction(text, 300) {
            assert_eq!(tokens.selected.len(), 300);
        }
        if let Ok(tokens) = tokenizer.plain(text, 8) {
            assert_eq!(tokens.ids.len(), 8);
        }
    }
});
