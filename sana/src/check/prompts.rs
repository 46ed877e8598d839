//! Tokens of prompts: lowercase and strip, instruction, padding, truncation, selected positions.

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::case::Case;
use super::report::Report;
use crate::Error;
use crate::config::read_json;
use crate::prompt::{PromptTokenizer, instruction, prepare};

#[derive(Deserialize)]
struct Run {
    key: String,
    prompt: usize,
    instruction: bool,
    max_sequence_length: usize,
}

#[derive(Deserialize)]
struct Instruction {
    lines: Vec<String>,
    join: String,
}

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Error> {
    let path = case.dir.join("complex_human_instruction.json");
    let wanted = Instruction::deserialize(&read_json(&path)?)
        .map_err(|e| Error::Model(format!("{}: {e}", path.display())))?;
    report.compare_text("instruction", &instruction(), &wanted.lines.join(&wanted.join));

    let tokenizer = PromptTokenizer::open(&case.dir.join("tokenizer"))?;
    let count = Tensor::new(case.config::<u32>("instruction_token_count_with_bos")?, &Device::Cpu)?;
    report.compare("instruction_token_count", &[tokenizer.instruction_tokens() as f32], &count, 0.0)?;

    let prompts: Vec<String> = case.config("prompts")?;
    for (i, (prompt, prepared)) in prompts.iter().zip(case.config::<Vec<String>>("prepared")?).enumerate() {
        report.compare_text(&format!("prepared.{i}"), &prepare(prompt), &prepared);
    }

    for run in case.config::<Vec<Run>>("runs")? {
        let missing = || Error::Model(format!("run {} has no prompt {}", run.key, run.prompt));
        let prompt = prompts.get(run.prompt).ok_or_else(missing)?;
        let tokens = if run.instruction {
            tokenizer.with_instruction(prompt, run.max_sequence_length)?
        } else {
            tokenizer.plain(prompt, run.max_sequence_length)?
        };
        let selected_mask = tokens.selected.iter().map(|at| f32::from(tokens.mask[*at])).collect();
        let parts: [(&str, Vec<f32>); 4] = [
            ("input_ids", tokens.ids.iter().map(|id| *id as f32).collect()),
            ("attention_mask", tokens.mask.iter().map(|bit| f32::from(*bit)).collect()),
            ("selected_positions", tokens.selected.iter().map(|at| *at as f32).collect()),
            ("selected_mask", selected_mask),
        ];
        for (part, got) in parts {
            let name = format!("out.{}.{part}", run.key);
            report.compare(&name, &got, case.tensor(&name)?, 0.0)?;
        }
    }
    Ok(())
}
