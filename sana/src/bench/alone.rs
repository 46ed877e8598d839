//! One part of a model from its own folder.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{Part, Work};
use crate::autoencoder::{Decoder, Tiling, decoder_tensors};
use crate::config::{AutoencoderConfig, TextEncoderConfig, TransformerConfig};
use crate::noise::Generator;
use crate::ops::to_cpu;
use crate::pipeline::on_pool;
use crate::plan::{denoise_bytes, encode_bytes};
use crate::postprocess::Rows;
use crate::size::{LATENT_SCALE, Plan, plan};
use crate::text_encoder::TextEncoder;
use crate::transformer::{Sequence, Transformer};
use crate::weights::Weights;
use crate::{BinMode, Error, autoencoder, text_encoder, transformer};

/// Timestep of made-up inputs: early in a run of 20 steps.
const TIMESTEP: f32 = 963.0;
/// Guidance scale of a model that is told it.
const GUIDANCE: f64 = 4.5;
/// Of made-up inputs.
const SEED: u64 = 1;

/// A loaded part with its inputs.
#[derive(Debug)]
pub(super) enum Alone {
    Text { encoder: TextEncoder, ids: Vec<u32> },
    Dit { transformer: Box<Transformer>, inputs: Vec<DitInput> },
    Decode { decoder: Decoder, config: AutoencoderConfig, latent: Tensor, plan: Plan, tiling: Tiling },
}

/// One sequence of the transformer: latent `[height, width, channels]`, text `[tokens, channels]` without padding.
#[derive(Debug)]
pub(super) struct DitInput {
    latent: Tensor,
    text: Tensor,
    timestep: f32,
}

impl Alone {
    pub(super) fn load(dir: &Path, work: &Work) -> Result<Self, Error> {
        let config = dir.join("config.json");
        let weights = |stem| Ok::<_, Error>(Weights::open(dir, stem, None)?.placed(&work.placement));
        let input = work.input.as_deref().map(InputFile::open).transpose()?;
        match work.part {
            Part::Text => {
                let config = TextEncoderConfig::open(&config)?;
                let ids = match &input {
                    Some(file) => file.numbers("ids")?,
                    None => made_up_ids(work.tokens, config.vocab_size),
                };
                Ok(Self::Text { encoder: TextEncoder::load(&config, &weights("model")?)?, ids })
            }
            Part::Dit => {
                let config = TransformerConfig::open(&config)?;
                let inputs = match &input {
                    Some(file) => dit_inputs(file)?,
                    None => made_up_dit_inputs(&config, work)?,
                };
                let weights = weights("diffusion_pytorch_model")?;
                Ok(Self::Dit { transformer: Box::new(Transformer::load(&config, &weights)?), inputs })
            }
            Part::Decode => {
                let config = AutoencoderConfig::open(&config)?;
                let latent = match &input {
                    Some(file) => channels_last(&file.tensor("latent")?.get(0)?)?,
                    None => {
                        let (height, width) = latent_size(work.size)?;
                        let shape = (config.latent_channels, height, width);
                        channels_last(&randn(&mut Generator::new(SEED), shape)?)?
                    }
                };
                let (height, width, _) = latent.dims3()?;
                let side = |latent: usize| latent as u32 * LATENT_SCALE;
                let plan = plan(side(width), side(height), BinMode::Never, 0)?;
                let decoder = Decoder::load(&config, &weights("diffusion_pytorch_model")?)?;
                Ok(Self::Decode { decoder, config, latent, plan, tiling: work.tiling })
            }
            Part::Picture => Err(Error::Setting("a picture needs a whole model; give its folder".to_owned())),
        }
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        on_pool(|| match self {
            // Waits for a device.
            Self::Text { encoder, ids } => Ok(to_cpu(&encoder.encode(ids)?).map(drop)?),
            Self::Dit { transformer, inputs } => forward(transformer, inputs).map(drop),
            Self::Decode { decoder, latent, plan, tiling, .. } => {
                // Rows become bytes as in the pipeline; whoever writes a file takes each as it comes and keeps none.
                let mut picture = Rows::new(plan);
                decoder.decode(latent, *tiling, &mut |band: &Tensor| -> Result<(), Error> {
                    picture.push_band(band, &mut |_| Ok(()))
                })?;
                picture.finish()
            }
        })
    }

    pub(super) fn output(&self) -> Result<HashMap<String, Tensor>, Error> {
        let (name, tensor) = on_pool(|| -> Result<_, Error> {
            match self {
                Self::Text { encoder, ids } => Ok(("hidden", encoder.encode(ids)?)),
                Self::Dit { transformer, inputs } => {
                    let outputs = forward(transformer, inputs)?;
                    Ok(("velocity", Tensor::stack(&outputs, 0)?.permute((0, 3, 1, 2))?.contiguous()?))
                }
                Self::Decode { decoder, latent, tiling, .. } => {
                    let mut bands = Vec::new();
                    decoder.decode(latent, *tiling, &mut |band: &Tensor| -> Result<(), Error> {
                        bands.push(band.clone());
                        Ok(())
                    })?;
                    let picture = Tensor::cat(&bands, 0)?.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()?;
                    Ok(("picture", picture))
                }
            }
        })?;
        Ok(HashMap::from([(name.to_owned(), to_cpu(&tensor)?)]))
    }

    /// Parameters of the part, and the planned bytes of values at work.
    pub(super) fn planned(&self) -> Result<(u64, u64), Error> {
        const BYTES: u64 = 4;
        let count =
            |(_, shape): (String, Vec<usize>)| shape.into_iter().map(|side| side as u64).product::<u64>();
        Ok(match self {
            Self::Text { encoder, ids } => {
                let parameters = text_encoder::tensors(encoder.config()).map(count).sum();
                (parameters, encode_bytes(encoder.config(), ids.len() as u64, BYTES))
            }
            Self::Dit { transformer, inputs } => {
                let config = transformer.config();
                let latent = inputs.first().map_or(0, |input| input.latent.elem_count() / config.in_channels);
                let planned = denoise_bytes(config, inputs.len() as u64, latent as u64, BYTES);
                (transformer::tensors(config).map(count).sum(), planned)
            }
            Self::Decode { config, plan, tiling, .. } => {
                let size = (plan.compute_width as usize, plan.compute_height as usize);
                let cost = autoencoder::plan::Plan::of(config, size, *tiling)?;
                let planned = u64::try_from(cost.activations)
                    .map_err(|_| Error::Size(format!("{}x{} is too large to plan", size.0, size.1)))?;
                (decoder_tensors(config).into_iter().map(count).sum(), planned)
            }
        })
    }

    pub(super) fn weights_bytes(&self) -> usize {
        match self {
            Self::Text { encoder, .. } => encoder.bytes(),
            Self::Dit { transformer, .. } => transformer.bytes(),
            Self::Decode { decoder, .. } => decoder.bytes(),
        }
    }
}

/// One call, with the texts' keys and values: the reference library computes them in every call too.
fn forward(transformer: &Transformer, inputs: &[DitInput]) -> Result<Vec<Tensor>, Error> {
    let texts =
        inputs.iter().map(|input| transformer.prepare(&input.text, None)).collect::<Result<Vec<_>, _>>()?;
    // Of a model that is told its guidance, the scale that it was made for.
    let guidance = transformer.config().guidance_scale.map(|scale| (GUIDANCE * scale) as f32);
    let sequences: Vec<_> = inputs
        .iter()
        .zip(&texts)
        .map(|(DitInput { latent, timestep, .. }, text)| Sequence {
            latent,
            text,
            timestep: *timestep,
            guidance,
        })
        .collect();
    Ok(transformer.forward(&sequences, None)?)
}

fn dit_inputs(file: &InputFile) -> Result<Vec<DitInput>, Error> {
    let (latents, texts) = (file.tensor("latent")?, file.tensor("text")?);
    let times: Vec<f32> = file.tensor("timestep")?.to_vec1()?;
    let mask = file.numbers("mask")?;
    let tokens = texts.dim(1)?;
    if mask.len() != times.len() * tokens {
        return Err(file.error("mask must have one number for each row of the text"));
    }
    let masks = mask.chunks_exact(tokens.max(1));
    times
        .into_iter()
        .zip(masks)
        .enumerate()
        .map(|(index, (timestep, mask))| {
            let real = mask.iter().take_while(|bit| **bit == 1).count();
            Ok(DitInput {
                latent: channels_last(&latents.get(index)?)?,
                text: texts.get(index)?.narrow(0, 0, real)?.contiguous()?,
                timestep,
            })
        })
        .collect()
}

fn made_up_dit_inputs(config: &TransformerConfig, work: &Work) -> Result<Vec<DitInput>, Error> {
    let (height, width) = latent_size(work.size)?;
    let mut generator = Generator::new(SEED);
    let latent = channels_last(&randn(&mut generator, (config.in_channels, height, width))?)?;
    (0..=usize::from(work.pair))
        .map(|_| {
            let text = randn(&mut generator, (work.tokens, config.caption_channels))?;
            Ok(DitInput { latent: latent.clone(), text, timestep: TIMESTEP })
        })
        .collect()
}

/// Token ids that are spread over the vocabulary, behind the one that starts a text.
fn made_up_ids(count: usize, vocabulary: usize) -> Vec<u32> {
    const BOS: u32 = 2;
    // Neighbours are far from each other, and none is a control token.
    let id = |at: usize| (4 + at * 7919 % vocabulary.saturating_sub(4).max(1)) as u32;
    (0..count).map(|at| if at == 0 { BOS } else { id(at) }).collect()
}

fn latent_size((width, height): (u32, u32)) -> Result<(usize, usize), Error> {
    let plan = plan(width, height, BinMode::Never, 0)?;
    let side = |pixels: u32| (pixels / LATENT_SCALE) as usize;
    Ok((side(plan.compute_height), side(plan.compute_width)))
}

fn randn(generator: &mut Generator, shape: impl Into<candle_core::Shape>) -> Result<Tensor, Error> {
    let shape = shape.into();
    Ok(Tensor::from_vec(generator.randn(shape.elem_count()), shape, &Device::Cpu)?)
}

/// `[channels, height, width]` to `[height, width, channels]`.
fn channels_last(tensor: &Tensor) -> Result<Tensor, Error> {
    Ok(tensor.to_dtype(DType::F32)?.permute((1, 2, 0))?.contiguous()?)
}

/// Tensors of a file by name.
struct InputFile<'a> {
    path: &'a Path,
    tensors: HashMap<String, Tensor>,
}

impl<'a> InputFile<'a> {
    fn open(path: &'a Path) -> Result<Self, Error> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)
            .map_err(|e| Error::Model(format!("read inputs {}: {e}", path.display())))?;
        Ok(Self { path, tensors })
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        self.tensors.get(name).ok_or_else(|| self.error(&format!("tensor {name} is missing")))
    }

    fn numbers(&self, name: &str) -> Result<Vec<u32>, Error> {
        Ok(self.tensor(name)?.to_dtype(DType::U32)?.flatten_all()?.to_vec1()?)
    }

    fn error(&self, what: &str) -> Error {
        Error::Model(format!("inputs {}: {what}", self.path.display()))
    }
}
