//! The modules of the encoder and of the decoder, one after the other, as the configuration asks for them.
//!
//! What is loaded, computed, cut into tiles and counted all follows from this list. Names are those of the
//! checkpoint (reference section 3).

use crate::config::{ActivationKind, AutoencoderConfig, BlockKind, NormKind, StageConfig};

/// A tensor's name and shape.
pub type TensorShape = (String, Vec<usize>);

/// What a 3x3 convolution at an end of the network adds to its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// Nothing.
    None,
    /// Its input, every channel repeated so many times.
    Repeat(usize),
    /// The means of so many neighbouring channels of its input.
    Mean(usize),
}

/// What a module computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 3x3 convolution.
    Conv { input: usize, output: usize, shortcut: Shortcut },
    /// Twice the size, by a pixel shuffle or else from nearest pixels.
    Upsample { input: usize, output: usize, shuffle: bool, shortcut: bool },
    /// Half the size, by a pixel unshuffle or else with stride 2.
    Downsample { input: usize, output: usize, unshuffle: bool, shortcut: bool },
    /// Residual block.
    Residual { width: usize, norm: NormKind, activation: ActivationKind },
    /// First half of an EfficientViT block.
    Attention { width: usize, head: usize, scale: Option<usize>, norm: NormKind },
    /// Second half of an EfficientViT block.
    Gated { width: usize },
    /// Norm and activation before the last convolution.
    Norm { width: usize, activation: ActivationKind },
}

/// A module and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Name in the checkpoint.
    pub name: String,
    /// Stage of its result: it has the picture's sides divided by `2^level`.
    pub level: usize,
    /// What it computes.
    pub kind: Kind,
}

impl Module {
    /// Channels of the input and of the result.
    pub fn channels(&self) -> (usize, usize) {
        match self.kind {
            Kind::Conv { input, output, .. }
            | Kind::Upsample { input, output, .. }
            | Kind::Downsample { input, output, .. } => (input, output),
            Kind::Residual { width, .. }
            | Kind::Attention { width, .. }
            | Kind::Gated { width }
            | Kind::Norm { width, .. } => (width, width),
        }
    }

    /// Stage of its input.
    pub fn input_level(&self) -> usize {
        match self.kind {
            Kind::Upsample { .. } => self.level + 1,
            Kind::Downsample { .. } => self.level - 1,
            Kind::Conv { .. }
            | Kind::Residual { .. }
            | Kind::Attention { .. }
            | Kind::Gated { .. }
            | Kind::Norm { .. } => self.level,
        }
    }

    /// Multiply-adds for one pixel of the result, those of norms, activations and shortcuts aside.
    ///
    /// A convolution counts with all its taps, however it is computed. Upsampling from nearest pixels counts with the
    /// 2x2 taps that are left when equal pixels are put together (reference section 9).
    pub fn multiply_adds(&self) -> u64 {
        let count = match self.kind {
            Kind::Conv { input, output, .. } | Kind::Downsample { input, output, .. } => 9 * input * output,
            Kind::Upsample { input, output, shuffle, shortcut } => {
                // Without a shortcut it is computed from a copy with all pixels.
                let taps = if shuffle || !shortcut { 9 } else { 4 };
                taps * input * output
            }
            Kind::Residual { width, .. } => 2 * 9 * width * width,
            Kind::Attention { width, head, scale, .. } => {
                let scales = 1 + usize::from(scale.is_some());
                let extra = scale.map_or(0, |size| 3 * width * (size * size + head));
                // Queries, keys and values; sums over keys and values and their use; the projection behind them.
                3 * width * width + extra + 2 * scales * width * (head + 1) + scales * width * width
            }
            Kind::Gated { width } => 8 * width * width + 9 * 8 * width + 4 * width * width,
            Kind::Norm { .. } => 0,
        };
        count as u64
    }

    /// Names and shapes of its tensors.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let name = &self.name;
        let conv = |name: &str, output: usize, input: usize| {
            [(format!("{name}.weight"), vec![output, input, 3, 3]), (format!("{name}.bias"), vec![output])]
        };
        match self.kind {
            Kind::Conv { input, output, .. } => conv(name, output, input).into(),
            Kind::Upsample { input, output, shuffle, .. } => {
                let output = if shuffle { 4 * output } else { output };
                conv(&format!("{name}.conv"), output, input).into()
            }
            Kind::Downsample { input, output, unshuffle, .. } => {
                let output = if unshuffle { output / 4 } else { output };
                conv(&format!("{name}.conv"), output, input).into()
            }
            Kind::Residual { width, norm, .. } => {
                let mut all = Vec::from(conv(&format!("{name}.conv1"), width, width));
                all.push((format!("{name}.conv2.weight"), vec![width, width, 3, 3]));
                all.extend(norm_tensors(&format!("{name}.norm"), width, norm));
                all
            }
            Kind::Attention { width, head, scale, norm } => {
                let mut all: Vec<TensorShape> = ["q", "k", "v"]
                    .map(|part| (format!("{name}.to_{part}.weight"), vec![width, width]))
                    .into();
                if let Some(size) = scale {
                    let prefix = format!("{name}.to_qkv_multiscale.0");
                    all.push((format!("{prefix}.proj_in.weight"), vec![3 * width, 1, size, size]));
                    all.push((format!("{prefix}.proj_out.weight"), vec![3 * width, head, 1, 1]));
                }
                let scales = 1 + usize::from(scale.is_some());
                all.push((format!("{name}.to_out.weight"), vec![width, scales * width]));
                all.extend(norm_tensors(&format!("{name}.norm_out"), width, norm));
                all
            }
            Kind::Gated { width } => {
                let prefix = format!("{name}.conv_out");
                let mut all = vec![
                    (format!("{prefix}.conv_inverted.weight"), vec![8 * width, width, 1, 1]),
                    (format!("{prefix}.conv_inverted.bias"), vec![8 * width]),
                    (format!("{prefix}.conv_depth.weight"), vec![8 * width, 1, 3, 3]),
                    (format!("{prefix}.conv_depth.bias"), vec![8 * width]),
                    (format!("{prefix}.conv_point.weight"), vec![width, 4 * width, 1, 1]),
                ];
                all.extend(norm_tensors(&format!("{prefix}.norm"), width, NormKind::RmsNorm));
                all
            }
            Kind::Norm { width, .. } => norm_tensors(name, width, NormKind::RmsNorm),
        }
    }
}

fn norm_tensors(name: &str, width: usize, norm: NormKind) -> Vec<TensorShape> {
    let parts: &[&str] = match norm {
        NormKind::RmsNorm => &["weight", "bias"],
        NormKind::BatchNorm => &["weight", "bias", "running_mean", "running_var"],
    };
    parts.iter().map(|part| (format!("{name}.{part}"), vec![width])).collect()
}

/// The decoder's modules, from the latent to the picture.
pub fn decoder(config: &AutoencoderConfig) -> Vec<Module> {
    let stages = &config.decoder;
    let deepest = stages.len() - 1;
    let (latent, first) = (config.latent_channels, stages[deepest].width);
    let shortcut = match config.decoder_in_shortcut {
        true => Shortcut::Repeat(first / latent),
        false => Shortcut::None,
    };
    let conv_in = Kind::Conv { input: latent, output: first, shortcut };
    let mut modules = vec![Module { name: "decoder.conv_in".into(), level: deepest, kind: conv_in }];
    let mut width = first;
    for (level, stage) in stages.iter().enumerate().rev() {
        let prefix = format!("decoder.up_blocks.{level}");
        let mut first = 0;
        if level < deepest && stage.layers > 0 {
            let kind = Kind::Upsample {
                input: width,
                output: stage.width,
                shuffle: config.pixel_shuffle,
                shortcut: true,
            };
            modules.push(Module { name: format!("{prefix}.0"), level, kind });
            first = 1;
        }
        if stage.layers > 0 || level == deepest {
            width = stage.width;
        }
        blocks(&mut modules, config, stage, (&prefix, first, level));
    }
    let level = usize::from(stages[0].layers == 0);
    let activation = config.decoder_conv_act_fn;
    modules.push(Module { name: "decoder.norm_out".into(), level, kind: Kind::Norm { width, activation } });
    let output = config.in_channels;
    let conv_out = match level {
        0 => Kind::Conv { input: width, output, shortcut: Shortcut::None },
        _ => Kind::Upsample { input: width, output, shuffle: config.pixel_shuffle, shortcut: false },
    };
    modules.push(Module { name: "decoder.conv_out".into(), level: 0, kind: conv_out });
    modules
}

/// The encoder's modules, from the picture to the latent.
pub fn encoder(config: &AutoencoderConfig) -> Vec<Module> {
    let stages = &config.encoder;
    let deepest = stages.len() - 1;
    let (input, unshuffle) = (config.in_channels, config.pixel_unshuffle);
    let level = usize::from(stages[0].layers == 0);
    let output = stages[level].width;
    let conv_in = match level {
        0 => Kind::Conv { input, output, shortcut: Shortcut::None },
        _ => Kind::Downsample { input, output, unshuffle, shortcut: false },
    };
    let mut modules = vec![Module { name: "encoder.conv_in".into(), level, kind: conv_in }];
    for (level, stage) in stages.iter().enumerate() {
        let prefix = format!("encoder.down_blocks.{level}");
        blocks(&mut modules, config, stage, (&prefix, 0, level));
        if level < deepest && stage.layers > 0 {
            let output = stages[level + 1].width;
            let kind = Kind::Downsample { input: stage.width, output, unshuffle, shortcut: true };
            modules.push(Module { name: format!("{prefix}.{}", stage.layers), level: level + 1, kind });
        }
    }
    let (input, output) = (stages[deepest].width, config.latent_channels);
    let shortcut = match config.encoder_out_shortcut {
        true => Shortcut::Mean(input / output),
        false => Shortcut::None,
    };
    let kind = Kind::Conv { input, output, shortcut };
    modules.push(Module { name: "encoder.conv_out".into(), level: deepest, kind });
    modules
}

/// Adds the blocks of a stage, the first of which has the number `first`.
fn blocks(
    modules: &mut Vec<Module>,
    config: &AutoencoderConfig,
    stage: &StageConfig,
    (prefix, first, level): (&str, usize, usize),
) {
    let &StageConfig { width, norm, activation, scale, .. } = stage;
    for block in first..first + stage.layers {
        let name = format!("{prefix}.{block}");
        match stage.block {
            BlockKind::ResBlock => {
                modules.push(Module { name, level, kind: Kind::Residual { width, norm, activation } });
            }
            BlockKind::EfficientViTBlock => {
                let kind = Kind::Attention { width, head: config.attention_head_dim, scale, norm };
                modules.push(Module { name: format!("{name}.attn"), level, kind });
                modules.push(Module { name, level, kind: Kind::Gated { width } });
            }
        }
    }
}

/// Names and shapes of all tensors of the decoder.
pub fn decoder_tensors(config: &AutoencoderConfig) -> Vec<TensorShape> {
    decoder(config).iter().flat_map(Module::tensors).collect()
}

/// Names and shapes of all tensors of the encoder.
pub fn encoder_tensors(config: &AutoencoderConfig) -> Vec<TensorShape> {
    encoder(config).iter().flat_map(Module::tensors).collect()
}
