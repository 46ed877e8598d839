//! Which files of a repository make up a model in the diffusers layout: what `sana` loads, and nothing twice.

use std::collections::BTreeSet;

use super::source::RemoteFile;

/// The folders with weights, and what their files' names begin with.
const WEIGHTS: [(&str, &str); 3] = [
    ("text_encoder", "model"),
    ("transformer", "diffusion_pytorch_model"),
    ("vae", "diffusion_pytorch_model"),
];
/// What must be there besides weights.
const NEEDED: [&str; 6] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer.json",
    "transformer/config.json",
    "vae/config.json",
];
/// What is fetched from the folder of the tokenizer; `sana` reads only the first, other programs the others.
const TOKENIZER: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
];

/// The files to fetch, in the order to fetch them: small ones first, so that a wrong model is told early. The error says
/// what is missing.
pub(super) fn choose(files: &[RemoteFile]) -> Result<Vec<RemoteFile>, String> {
    let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    if let Some(missing) = NEEDED.iter().find(|name| !names.contains(**name)) {
        return Err(format!("it holds no {missing}"));
    }
    let mut chosen: BTreeSet<String> = NEEDED.iter().map(|name| (*name).to_owned()).collect();
    chosen.extend(TOKENIZER.iter().map(|name| format!("tokenizer/{name}")));
    let mut weights = Vec::new();
    for (folder, stem) in WEIGHTS {
        let inside = names.iter().filter_map(|name| name.strip_prefix(folder)?.strip_prefix('/'));
        let inside: BTreeSet<&str> = inside.filter(|name| !name.contains('/')).collect();
        weights.extend(weights_of(folder, stem, &inside)?.into_iter().map(|name| format!("{folder}/{name}")));
    }
    let mut wanted: Vec<RemoteFile> =
        files.iter().filter(|file| chosen.contains(&file.name)).cloned().collect();
    let is_index = |name: &str| name.ends_with(".json");
    weights.sort_by_key(|name| !is_index(name));
    wanted.extend(weights.iter().filter_map(|name| files.iter().find(|file| file.name == *name)).cloned());
    Ok(wanted)
}

/// Whether a file tells what a model is, without its weights.
pub(super) fn is_outline(name: &str) -> bool {
    matches!(name, "model_index.json" | "scheduler/scheduler_config.json" | "transformer/config.json")
}

/// The plain file or shards of a part, else those of its only variant: as `sana` chooses.
fn weights_of(folder: &str, stem: &str, names: &BTreeSet<&str>) -> Result<Vec<String>, String> {
    if let Some(files) = files_of(stem, None, names) {
        return Ok(files);
    }
    let variants: BTreeSet<&str> = names.iter().filter_map(|name| variant(stem, name)).collect();
    let mut variants = variants.into_iter();
    match (variants.next(), variants.next()) {
        (Some(only), None) => files_of(stem, Some(only), names)
            .ok_or_else(|| format!("{folder}/ holds only a part of the weights of variant {only}")),
        (Some(first), Some(second)) => {
            Err(format!("{folder}/ holds weights of several variants ({first}, {second}) and no plain ones"))
        }
        (None, _) => Err(format!("{folder}/ holds no {stem}.safetensors and no shards of it")),
    }
}

fn files_of(stem: &str, variant: Option<&str>, names: &BTreeSet<&str>) -> Option<Vec<String>> {
    let dotted = variant.map_or_else(String::new, |variant| format!(".{variant}"));
    let single = format!("{stem}{dotted}.safetensors");
    if names.contains(single.as_str()) {
        return Some(vec![single]);
    }
    let index = format!("{stem}.safetensors.index{dotted}.json");
    if !names.contains(index.as_str()) {
        return None;
    }
    let start = format!("{stem}{dotted}-");
    let is_shard = |name: &&&str| {
        let range = name.strip_prefix(start.as_str()).and_then(|rest| rest.strip_suffix(".safetensors"));
        range.and_then(|range| range.split_once("-of-")).is_some_and(|(number, count)| {
            [number, count].iter().all(|n| !n.is_empty() && n.bytes().all(|digit| digit.is_ascii_digit()))
        })
    };
    let shards: Vec<String> = names.iter().filter(is_shard).map(|name| (*name).to_owned()).collect();
    (!shards.is_empty()).then(|| std::iter::once(index).chain(shards).collect())
}

/// `v` of `stem.v.safetensors` and `stem.safetensors.index.v.json`.
fn variant<'a>(stem: &str, name: &'a str) -> Option<&'a str> {
    let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
    let variant = match rest.strip_prefix("safetensors.index.") {
        Some(rest) => rest.strip_suffix(".json")?,
        None => rest.strip_suffix(".safetensors")?,
    };
    (!variant.is_empty() && !variant.contains('.') && !variant.contains("-of-")).then_some(variant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Result<Vec<String>, String> {
        let files: Vec<RemoteFile> = names
            .iter()
            .map(|name| RemoteFile { name: (*name).to_owned(), ..RemoteFile::default() })
            .collect();
        Ok(choose(&files)?.into_iter().map(|file| file.name).collect())
    }

    fn with(weights: &[&'static str]) -> Vec<&'static str> {
        NEEDED.iter().chain(weights).copied().collect()
    }

    const PLAIN: [&str; 2] = ["text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"];

    #[test]
    fn what_sana_loads_is_fetched_and_no_second_variant_or_other_format() {
        let index = "transformer/diffusion_pytorch_model.safetensors.index.json";
        let shards = [
            "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
            "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
        ];
        let others = [
            "README.md",
            "Sana.pth",
            "text_encoder/model.bf16.safetensors",
            "text_encoder/pytorch_model.bin",
            "tokenizer/special_tokens_map.json",
            "tokenizer/vocab.txt",
            "transformer/diffusion_pytorch_model.bf16-00001-of-00002.safetensors",
            "transformer/diffusion_pytorch_model.safetensors.index.bf16.json",
            "transformer/old/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.bin",
        ];
        let all: Vec<&str> =
            NEEDED.into_iter().chain(PLAIN).chain([index]).chain(shards).chain(others).collect();
        let mut wanted = chosen(&all).unwrap();
        assert!(wanted.last().unwrap().ends_with(".safetensors"), "{wanted:?}");
        wanted.sort();
        let mut expected =
            [&NEEDED[..], &PLAIN, &[index], &shards, &["tokenizer/special_tokens_map.json"]].concat();
        expected.sort_unstable();
        assert_eq!(wanted, expected);
    }

    #[test]
    fn the_only_variant_of_a_part_is_taken_and_two_are_an_error() {
        let variant = "transformer/diffusion_pytorch_model.fp16.safetensors";
        let names = with(&[PLAIN[0], PLAIN[1], variant]);
        assert!(chosen(&names).unwrap().contains(&variant.to_owned()));
        let names =
            with(&[PLAIN[0], PLAIN[1], variant, "transformer/diffusion_pytorch_model.bf16.safetensors"]);
        assert!(chosen(&names).unwrap_err().contains("several variants (bf16, fp16)"));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(chosen(&["model_index.json"]).unwrap_err(), "it holds no scheduler/scheduler_config.json");
        let error = chosen(&with(&PLAIN)).unwrap_err();
        assert_eq!(error, "transformer/ holds no diffusion_pytorch_model.safetensors and no shards of it");
    }
}
