//! A model folder in the diffusers layout.

use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::autoencoder::decoder_tensors;
use crate::config::{AutoencoderConfig, ModelIndex, SchedulerConfig, TextEncoderConfig, TransformerConfig};
use crate::prompt::PromptTokenizer;
use crate::size::LATENT_SCALE;
use crate::weights::Weights;
use crate::{Error, Placement};

/// What a model folder holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// Folder name.
    pub name: String,
    /// Over the names and bytes of all weight files, configurations and the tokenizer, in hex.
    pub weights_sha256: String,
    /// Side in pixels of the square that it was trained for.
    pub native_size: u32,
    /// Bytes of weights on disk.
    pub weights_bytes: u64,
    /// Such as `flow-dpm-solver++`.
    pub scheduler: &'static str,
}

/// Reads configurations and headers of a model folder and checks that all parts are there and whole,
/// without reading the weights into memory. The checksum reads every file once.
pub fn inspect(dir: &Path) -> Result<ModelInfo, Error> {
    Folder::open(dir)?.info()
}

/// An opened model folder: configurations read, headers of all weights checked.
pub(crate) struct Folder {
    dir: PathBuf,
    pub tokenizer: PromptTokenizer,
    pub text_encoder: (TextEncoderConfig, Weights),
    pub transformer: (TransformerConfig, Weights),
    pub autoencoder: (AutoencoderConfig, Weights),
    pub scheduler: SchedulerConfig,
}

impl Folder {
    pub fn open(dir: &Path) -> Result<Self, Error> {
        ModelIndex::open(dir)?;
        let part = |name: &str| dir.join(name).join("config.json");
        let folder = Self {
            tokenizer: PromptTokenizer::open(&dir.join("tokenizer"))?,
            scheduler: SchedulerConfig::open(&dir.join("scheduler/scheduler_config.json"))?,
            text_encoder: (
                TextEncoderConfig::open(&part("text_encoder"))?,
                Weights::open(&dir.join("text_encoder"), "model", None)?,
            ),
            transformer: (
                TransformerConfig::open(&part("transformer"))?,
                Weights::open(&dir.join("transformer"), "diffusion_pytorch_model", None)?,
            ),
            autoencoder: (
                AutoencoderConfig::open(&part("vae"))?,
                Weights::open(&dir.join("vae"), "diffusion_pytorch_model", None)?,
            ),
            dir: dir.to_path_buf(),
        };
        folder.fits()?;
        folder.has_layers()?;
        Ok(folder)
    }

    /// The first and the last layers that the configurations speak of are there in their widths, so that weights of
    /// another configuration are told before anything is loaded. Loading checks every tensor.
    fn has_layers(&self) -> Result<(), Error> {
        let (config, weights) = &self.text_encoder;
        weights.require("embed_tokens.weight", &[config.vocab_size, config.hidden_size])?;
        let last = config.num_hidden_layers - 1;
        weights.require(
            &format!("layers.{last}.mlp.down_proj.weight"),
            &[config.hidden_size, config.intermediate_size],
        )?;
        let (config, weights) = &self.transformer;
        let width = config.width();
        weights.require("patch_embed.proj.weight", &[width, config.in_channels, 1, 1])?;
        weights.require("caption_projection.linear_1.weight", &[width, config.caption_channels])?;
        let last = config.num_layers - 1;
        let name = format!("transformer_blocks.{last}.ff.conv_point.weight");
        weights.require(&name, &[width, config.hidden_width(), 1, 1])?;
        let norm = format!("transformer_blocks.{last}.attn1.norm_q.weight");
        if weights.contains(&norm) != config.qk_norm {
            let place = self.dir.join("transformer/config.json");
            return Err(Error::Model(format!(
                "qk_norm in {} does not fit the tensor {norm}",
                place.display()
            )));
        }
        let (config, weights) = &self.autoencoder;
        for (name, shape) in decoder_tensors(config) {
            weights.require(&name, &shape)?;
        }
        Ok(())
    }

    /// The parts hand tensors to each other: their widths must fit.
    fn fits(&self) -> Result<(), Error> {
        let (text, transformer, autoencoder) =
            (&self.text_encoder.0, &self.transformer.0, &self.autoencoder.0);
        for (what, left, right) in [
            (
                "hidden_size of the text encoder and caption_channels of the transformer",
                text.hidden_size,
                transformer.caption_channels,
            ),
            (
                "out_channels and in_channels of the transformer",
                transformer.out_channels,
                transformer.in_channels,
            ),
            (
                "in_channels of the transformer and latent_channels of the autoencoder",
                transformer.in_channels,
                autoencoder.latent_channels,
            ),
            (
                "the autoencoder's scale and the size of a latent pixel",
                autoencoder.scale(),
                LATENT_SCALE as usize,
            ),
        ] {
            if left != right {
                return Err(Error::Model(format!(
                    "{what} differ in {}: {left} and {right}",
                    self.dir.display()
                )));
            }
        }
        Ok(())
    }

    /// The same folder, its weights for another place than the CPU.
    pub fn placed(mut self, placement: &Placement) -> Self {
        self.text_encoder.1 = self.text_encoder.1.placed(placement);
        self.transformer.1 = self.transformer.1.placed(placement);
        self.autoencoder.1 = self.autoencoder.1.placed(placement);
        self
    }

    pub fn info(&self) -> Result<ModelInfo, Error> {
        let weights = [&self.text_encoder.1, &self.transformer.1, &self.autoencoder.1];
        let mut files: Vec<PathBuf> =
            weights.iter().flat_map(|weights| weights.files().iter().cloned()).collect();
        for name in [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "transformer/config.json",
            "vae/config.json",
            "tokenizer/tokenizer.json",
        ] {
            files.push(self.dir.join(name));
        }
        let canonical = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        let name =
            canonical.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        Ok(ModelInfo {
            name,
            weights_sha256: checksum(&self.dir, files)?,
            native_size: self.transformer.0.sample_size as u32 * LATENT_SCALE,
            weights_bytes: weights.iter().map(|weights| weights.bytes()).sum(),
            scheduler: "flow-dpm-solver++",
        })
    }
}

/// Over the sorted names (below `dir`), lengths and contents of the files.
fn checksum(dir: &Path, mut files: Vec<PathBuf>) -> Result<String, Error> {
    files.sort();
    files.dedup();
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let failed = |e: std::io::Error| Error::Model(format!("read {}: {e}", path.display()));
        let mut file = std::fs::File::open(&path).map_err(failed)?;
        let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
        let length = file.metadata().map_err(failed)?.len();
        hasher.update(format!("{name}\0{length}\0"));
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }

    #[test]
    fn weights_of_another_configuration_are_told_without_loading() {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny");
        assert_eq!(inspect(&tiny).unwrap().native_size, 512);
        for (part, from, to, told) in [
            ("transformer", "\"num_layers\": 6", "\"num_layers\": 7", "transformer_blocks.6"),
            ("transformer", "\"qk_norm\": null", "\"qk_norm\": \"rms_norm_across_heads\"", "qk_norm"),
            ("text_encoder", "\"vocab_size\": 948", "\"vocab_size\": 950", "embed_tokens.weight"),
            ("vae", "    16,\n    32,", "    32,\n    32,", "decoder.up_blocks.1.0.conv.weight"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            copy(&tiny, folder.path());
            let path = folder.path().join(part).join("config.json");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{part}: {from}");
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let error = inspect(folder.path()).unwrap_err().to_string();
            assert!(error.contains(told), "{part}: {error}");
        }
    }
}
