//! From a prompt to tokens, as the Sana pipeline prepares them.

use std::path::Path;

use tokenizers::Tokenizer;

use crate::Error;

/// Text rows that reach the transformer at most, as in the library's default.
pub const MAX_SEQUENCE_LENGTH: usize = 300;

/// Fills up to the full length.
const PADDING_ID: u32 = 0;

/// The complex human instruction, put in front of a prompt: Sana was trained with it.
const INSTRUCTION: &str = include_str!("instruction.json");

/// Tokens of one prompt, padded on the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTokens {
    /// Token ids, padded to the full length.
    pub ids: Vec<u32>,
    /// 1 for a token, 0 for padding.
    pub mask: Vec<u8>,
    /// Positions whose embeddings are kept.
    pub selected: Vec<usize>,
}

impl PromptTokens {
    /// The ids without padding.
    pub fn real(&self) -> &[u32] {
        let len = self.mask.iter().take_while(|bit| **bit == 1).count();
        &self.ids[..len]
    }
}

/// The tokenizer of a model.
#[derive(Debug)]
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
    instruction: String,
    /// Tokens of the instruction alone, with the one that starts a text.
    instruction_tokens: usize,
}

impl PromptTokenizer {
    /// Loads `tokenizer.json` of a tokenizer folder.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("tokenizer.json");
        let failed = |what: String| Error::Model(format!("load tokenizer {}: {what}", path.display()));
        if !path.is_file() {
            return Err(failed("no such file; the model folder needs it".to_owned()));
        }
        let mut tokenizer = Tokenizer::from_file(&path).map_err(|e| failed(e.to_string()))?;
        // Length and padding are ours, whatever the file asks for.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| failed(e.to_string()))?;
        let mut prompts = Self { tokenizer, instruction: instruction(), instruction_tokens: 0 };
        if prompts.encode("")?.is_empty() {
            return Err(failed("it does not start a text with a <bos> token".to_owned()));
        }
        prompts.instruction_tokens = prompts.encode(&prompts.instruction)?.len();
        Ok(prompts)
    }

    /// Tokens of the complex human instruction, with the one that starts a text.
    pub fn instruction_tokens(&self) -> usize {
        self.instruction_tokens
    }

    /// Tokens of a prompt with the instruction in front; `rows` of them are selected.
    pub fn with_instruction(&self, prompt: &str, rows: usize) -> Result<PromptTokens, Error> {
        let text = format!("{}{}", self.instruction, prepare(prompt));
        // The last space of the instruction joins the first word, so one token less is the prompt's; the
        // library counts the <bos> off as well.
        self.tokens(&text, (self.instruction_tokens + rows).saturating_sub(2), rows)
    }

    /// Tokens of a prompt alone, as a negative prompt is taken; all `rows` are selected.
    pub fn plain(&self, prompt: &str, rows: usize) -> Result<PromptTokens, Error> {
        self.tokens(&prepare(prompt), rows, rows)
    }

    fn tokens(&self, text: &str, length: usize, rows: usize) -> Result<PromptTokens, Error> {
        if rows == 0 {
            return Err(Error::Setting("a text needs at least 1 row".to_owned()));
        }
        let mut ids = self.encode(text)?;
        ids.truncate(length);
        let mut mask = vec![1; ids.len()];
        ids.resize(length, PADDING_ID);
        mask.resize(length, 0);
        let selected = std::iter::once(0).chain(length + 1 - rows..length).collect();
        Ok(PromptTokens { ids, mask, selected })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.tokenizer.encode(text, true);
        Ok(encoding
            .map_err(|e| Error::Prompt(format!("split the prompt into tokens: {e}")))?
            .get_ids()
            .to_vec())
    }
}

/// Lowercase without space around it, both as Python has them.
pub fn prepare(prompt: &str) -> String {
    // Python takes the four separators U+001C to U+001F as white space, Unicode does not.
    let space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    prompt.to_lowercase().trim_matches(space).to_owned()
}

/// The complex human instruction; it ends in a colon and a space, and the prompt follows directly.
pub fn instruction() -> String {
    let lines: Vec<String> =
        serde_json::from_str(INSTRUCTION).expect("instruction.json is part of the program");
    lines.join("\n")
}

#[cfg(test)]
mod tests {
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
        std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
        assert!(matches!(PromptTokenizer::open(dir.path()), Err(Error::Model(_))));
    }

    #[test]
    fn the_bundled_model_starts_every_text_with_bos() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny/tokenizer");
        let tokenizer = PromptTokenizer::open(&dir).unwrap();
        let empty = tokenizer.plain("", 8).unwrap();
        assert_eq!((empty.ids[0], empty.real().len(), empty.selected.len()), (2, 1, 8));
        let long = tokenizer.with_instruction(&"a red circle ".repeat(500), MAX_SEQUENCE_LENGTH).unwrap();
        assert_eq!(long.ids.len(), tokenizer.instruction_tokens() + 298);
        assert_eq!(long.real().len(), long.ids.len());
        assert_eq!(long.selected.len(), MAX_SEQUENCE_LENGTH);
        assert_eq!(long.selected[..2], [0, tokenizer.instruction_tokens() - 1]);
    }
}
