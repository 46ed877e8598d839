//! From a prompt to tokens, as the Sana pipeline prepares them.

use std::path::Path;

use tokenizers::{PostProcessorWrapper, Tokenizer};

use crate::Error;
use crate::error::short;

mod kind;

/// Text rows that reach the transformer at most, as in the library's default.
pub const MAX_SEQUENCE_LENGTH: usize = 300;

/// Bytes of a prompt at most. Long before that nothing more reaches the transformer, yet all of it has to be cut
/// into tokens to know where.
pub const MAX_PROMPT_BYTES: usize = 1 << 20;

/// Rows of a text at most: the positions that Gemma-2 was trained for.
const MAX_ROWS: usize = 8192;

/// Bytes of a `tokenizer.json` at most; Gemma's has 34 MB.
const MAX_FILE: u64 = 1 << 28;

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
    /// In front of every text: `<bos>`.
    start: Vec<u32>,
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
        let text = crate::files::read_text(&path, MAX_FILE).map_err(|e| failed(e.to_string()))?;
        let start = kind::check(&text).map_err(failed)?;
        if start.is_empty() {
            return Err(failed("it does not start a text with a <bos> token".to_owned()));
        }
        let mut tokenizer: Tokenizer = text.parse().map_err(|e| failed(short(e)))?;
        // Start, length and padding are ours, whatever the file asks for.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| failed(e.to_string()))?;
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        let mut prompts = Self { tokenizer, start, instruction: instruction(), instruction_tokens: 0 };
        prompts.instruction_tokens = prompts.encode(&prompts.instruction)?.len();
        if prompts.instruction_tokens == prompts.start.len() {
            return Err(failed("it knows no word of the instruction".to_owned()));
        }
        Ok(prompts)
    }

    /// Tokens of the complex human instruction, with the one that starts a text.
    pub fn instruction_tokens(&self) -> usize {
        self.instruction_tokens
    }

    /// Tokens of a prompt with the instruction in front; `rows` of them are selected.
    pub fn with_instruction(&self, prompt: &str, rows: usize) -> Result<PromptTokens, Error> {
        check(prompt, rows)?;
        let text = format!("{}{}", self.instruction, prepare(prompt));
        // The last space of the instruction joins the first word, so one token less is the prompt's; the
        // library counts the <bos> off as well.
        self.tokens(&text, self.instruction_tokens + rows - 2, rows)
    }

    /// Tokens of a prompt alone, as a negative prompt is taken; all `rows` are selected.
    pub fn plain(&self, prompt: &str, rows: usize) -> Result<PromptTokens, Error> {
        check(prompt, rows)?;
        self.tokens(&prepare(prompt), rows, rows)
    }

    fn tokens(&self, text: &str, length: usize, rows: usize) -> Result<PromptTokens, Error> {
        let mut ids = self.encode(text)?;
        ids.truncate(length);
        let mut mask = vec![1; ids.len()];
        ids.resize(length, PADDING_ID);
        mask.resize(length, 0);
        let selected = std::iter::once(0).chain(length + 1 - rows..length).collect();
        Ok(PromptTokens { ids, mask, selected })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self
            .tokenizer
            .encode(text, false)
            .map_err(|e| Error::Prompt(format!("split the prompt into tokens: {e}")))?;
        Ok([self.start.as_slice(), encoding.get_ids()].concat())
    }
}

fn check(prompt: &str, rows: usize) -> Result<(), Error> {
    if !(1..=MAX_ROWS).contains(&rows) {
        return Err(Error::Setting(format!("a text has {rows} rows; choose 1 to {MAX_ROWS}")));
    }
    if prompt.len() > MAX_PROMPT_BYTES {
        return Err(Error::Prompt(format!(
            "the prompt has {} bytes, at most {MAX_PROMPT_BYTES} are taken; only its first \
             {MAX_SEQUENCE_LENGTH} tokens or so reach the picture",
            prompt.len()
        )));
    }
    Ok(())
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
mod tests;
