//! Any text: prepare it and cut it into tokens, with and without the instruction.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sana::prompt::{MAX_SEQUENCE_LENGTH, PromptTokens, prepare};
use sana_fuzz::BUNDLED_TOKENIZER;

fn check(tokens: &PromptTokens, length: usize, rows: usize) {
    assert_eq!((tokens.ids.len(), tokens.mask.len(), tokens.selected.len()), (length, length, rows));
    assert!(tokens.selected.iter().all(|at| *at < length));
    assert!(!tokens.real().is_empty() && tokens.real()[0] == 2, "a text starts with <bos>");
}

fuzz_target!(|text: &str| {
    let prepared = prepare(text);
    assert_eq!(prepare(&prepared), prepared.as_str(), "preparing twice changes nothing");
    let tokenizer = &*BUNDLED_TOKENIZER;
    // Mostly as many rows as the pipeline asks for.
    let rows = if text.len().is_multiple_of(4) { 1 + text.len() % 7 } else { MAX_SEQUENCE_LENGTH };
    let plain = tokenizer.plain(text, rows).expect("any text can be cut into tokens");
    check(&plain, rows, rows);
    let full = tokenizer.with_instruction(text, rows).expect("any text can be cut into tokens");
    check(&full, tokenizer.instruction_tokens() + rows - 2, rows);
});
