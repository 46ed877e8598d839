//! A model folder in the diffusers layout.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::autoencoder::decoder_tensors;
use crate::checksum::checksum;
use crate::config::{
    AutoencoderConfig, Family, ModelIndex, SchedulerConfig, TextEncoderConfig, TransformerConfig,
};
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
    /// `flow-dpm-solver++`, `flow-euler` or `scm`.
    pub scheduler: &'static str,
    /// Which tells the settings that its pictures are made with by default.
    pub family: Family,
}

/// What the configurations of a model tell without its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// Folder name.
    pub name: String,
    /// Side in pixels of the square that it was trained for.
    pub native_size: u32,
    /// Which tells the settings that its pictures are made with by default.
    pub family: Family,
}

impl ModelInfo {
    /// The part of it that the configurations tell.
    pub fn outline(&self) -> Outline {
        Outline { name: self.name.clone(), native_size: self.native_size, family: self.family }
    }
}

/// Reads `model_index.json` and `transformer/config.json`; nothing else needs to be there.
pub fn outline(dir: &Path) -> Result<Outline, Error> {
    let family = ModelIndex::open(dir)?.family;
    let transformer = TransformerConfig::open(&dir.join("transformer/config.json"))?;
    Ok(Outline { name: name(dir), native_size: native_size(&transformer), family })
}

fn name(dir: &Path) -> String {
    let canonical = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    canonical.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

fn native_size(transformer: &TransformerConfig) -> u32 {
    transformer.sample_size as u32 * LATENT_SCALE
}

/// Reads configurations and headers of a model folder and checks that all parts are there and whole,
/// without reading the weights into memory. The checksum reads every file once; that of a large model is remembered in its
/// folder.
pub fn inspect(dir: &Path) -> Result<ModelInfo, Error> {
    Folder::open(dir)?.info()
}

/// An opened model folder: configurations read, headers of all weights checked.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    pub family: Family,
    pub tokenizer: PromptTokenizer,
    pub text_encoder: (TextEncoderConfig, Weights),
    pub transformer: (TransformerConfig, Weights),
    pub autoencoder: (AutoencoderConfig, Weights),
    pub scheduler: SchedulerConfig,
}

impl Folder {
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let index = ModelIndex::open(dir)?;
        let part = |name: &str| dir.join(name).join("config.json");
        let folder = Self {
            family: index.family,
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
            // Late, since a large one takes a second: what else is wrong is told at once.
            tokenizer: PromptTokenizer::open(&dir.join("tokenizer"))?,
            dir: dir.to_path_buf(),
        };
        folder.is_of_family(&index)?;
        folder.fits()?;
        folder.has_layers()?;
        Ok(folder)
    }

    /// Pipeline, scheduler and transformer belong together.
    fn is_of_family(&self, index: &ModelIndex) -> Result<(), Error> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let class = self.scheduler.class_name();
        if index.scheduler != class {
            return Err(Error::Model(format!(
                "_class_name is {class} in {}, {} says {}",
                file("scheduler/scheduler_config.json"),
                file("model_index.json"),
                index.scheduler
            )));
        }
        let sprint = self.family == Family::Sprint;
        if self.transformer.0.guidance_scale.is_some() != sprint {
            return Err(Error::Model(format!(
                "guidance_embeds is {} in {}; only a SanaSprintPipeline has it, and {} is of another",
                !sprint,
                file("transformer/config.json"),
                file("model_index.json")
            )));
        }
        Ok(())
    }

    /// All tensors that the configurations speak of are there in their shapes, so that weights of another configuration
    /// are told before anything is loaded.
    fn has_layers(&self) -> Result<(), Error> {
        let (config, weights) = &self.text_encoder;
        for (name, shape) in crate::text_encoder::tensors(config) {
            weights.require(&name, &shape)?;
        }
        let (config, weights) = &self.transformer;
        let mut names = HashSet::new();
        for (name, shape) in crate::transformer::tensors(config) {
            weights.require(&name, &shape)?;
            names.insert(name);
        }
        // A tensor too many would change the pictures, such as the norms of Sana 1.5.
        if let Some(name) = weights.names().find(|name| !names.contains(*name)) {
            return Err(Error::Model(format!(
                "tensor {name} does not belong to the configuration in {}",
                self.dir.join("transformer/config.json").display()
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
        Ok(ModelInfo {
            name: name(&self.dir),
            weights_sha256: checksum(&self.dir, files)?,
            native_size: native_size(&self.transformer.0),
            weights_bytes: weights.iter().map(|weights| weights.bytes()).sum(),
            scheduler: self.scheduler.name(),
            family: self.family,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Copies a folder with all that is in it.
    pub(crate) fn copy(from: &Path, to: &Path) {
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
        let info = inspect(&tiny).unwrap();
        assert_eq!((info.native_size, info.outline()), (512, outline(&tiny).unwrap()));
        for (part, from, to, told) in [
            ("transformer", "\"num_layers\": 6", "\"num_layers\": 7", "transformer_blocks.6"),
            ("transformer", "\"qk_norm\": null", "\"qk_norm\": \"rms_norm_across_heads\"", "attn1.norm_q"),
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
    #[test]
    fn parts_of_different_families_are_told() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let sprint = fixtures.join("pipeline_sprint/model");
        let info = inspect(&sprint).unwrap();
        assert_eq!((info.family, info.scheduler, info.native_size), (Family::Sprint, "scm", 1024));
        assert_eq!((info.family.steps(), info.family.guidance()), (2, 4.5));

        let folder = tempfile::tempdir().unwrap();
        copy(&sprint, folder.path());
        let replace = |file: &str, from: &str, to: &str| {
            let path = folder.path().join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{file}: {from}");
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            inspect(folder.path()).unwrap_err().to_string()
        };
        let error =
            replace("transformer/config.json", "\"guidance_embeds\": true", "\"guidance_embeds\": false");
        assert!(error.contains("guidance_embeds is false") && error.contains("model_index.json"), "{error}");
        let error = replace("model_index.json", "SanaSprintPipeline", "SanaPipeline");
        assert!(error.contains("scheduler") && error.contains("SCMScheduler"), "{error}");
        let error = replace("model_index.json", "SCMScheduler", "FlowMatchEulerDiscreteScheduler");
        assert!(error.contains("_class_name is SCMScheduler"), "{error}");
    }
}
