//! Layers one after the other, each pulling rows from the one before it.

use candle_core::{D, Result, Tensor};

use super::layout::{Module, Shortcut};
use super::load::Load;
use super::resample::{DownStrided, Nearest, Shuffled, Unshuffled};
use super::stream::{
    Convolved, Delay, Halo, Normed, Observed, Observer, ResBlock, Residual, Rows, Source, Upsampled,
};
use super::vit::{Attended, Attention, Gated, GatedConv};
use crate::Error;
use crate::ops::{Conv, RmsNorm, StridedConv, UpsampleConv};
use crate::weights::Weights;

/// The weights of a module.
#[derive(Debug)]
pub enum Layer {
    /// 3x3 convolution.
    Conv(Conv, Shortcut),
    /// From nearest pixels, with the shortcut.
    Upsample(UpsampleConv),
    /// From nearest pixels, without a shortcut.
    Nearest(Conv),
    /// By a pixel shuffle.
    Shuffle {
        /// To four times the channels, sorted by the pixel and then by the channel.
        conv: Conv,
        /// Whether the shuffled input is added.
        shortcut: bool,
    },
    /// Half the size with stride 2.
    Strided(StridedConv),
    /// Half the size by a pixel unshuffle.
    Unshuffle {
        /// To a quarter of the channels.
        conv: Conv,
        /// Of the result.
        channels: usize,
        /// Whether the averaged input is added.
        shortcut: bool,
    },
    /// Residual block.
    Residual(ResBlock),
    /// First half of an EfficientViT block.
    Attention(Attention),
    /// Second half.
    Gated(GatedConv),
    /// Norm and activation.
    Norm(RmsNorm),
}

/// All layers of the encoder or decoder.
#[derive(Debug)]
pub struct Chain {
    modules: Vec<Module>,
    layers: Vec<Layer>,
    /// Bytes of weights held.
    pub bytes: usize,
}

impl Chain {
    /// Loads the layers of `modules`.
    pub fn load(modules: Vec<Module>, weights: &Weights) -> std::result::Result<Self, Error> {
        let mut load = Load::new(weights);
        let layers =
            modules.iter().map(|module| load.layer(module)).collect::<std::result::Result<_, Error>>()?;
        Ok(Self { modules, layers, bytes: load.bytes })
    }

    /// The modules, in the order of the layers.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Layer `index` over `rows`; attention makes its second pass in bands of `band` rows.
    pub fn layer<'a>(
        &'a self,
        index: usize,
        rows: Rows<'a>,
        band: Option<usize>,
        observer: Option<Observer<'a>>,
    ) -> Rows<'a> {
        let name = &self.modules[index].name;
        let rows: Rows<'a> = match &self.layers[index] {
            Layer::Conv(conv, Shortcut::None) => Box::new(Convolved::new(rows, conv)),
            Layer::Conv(conv, shortcut) => {
                // Observers see the convolution without its shortcut, as a hook of the library does.
                return Box::new(WithShortcut::new(
                    rows,
                    conv,
                    *shortcut,
                    observer.map(|observer| (observer, name.as_str())),
                ));
            }
            Layer::Upsample(layer) => Box::new(Upsampled::new(rows, layer)),
            Layer::Nearest(conv) => Box::new(Convolved::new(Box::new(Nearest { rows }), conv)),
            Layer::Shuffle { conv, shortcut } => Box::new(Shuffled::new(rows, conv, *shortcut)),
            Layer::Strided(conv) => Box::new(DownStrided::new(rows, conv)),
            Layer::Unshuffle { conv, channels, shortcut } => {
                Box::new(Unshuffled::new(rows, conv, *channels, *shortcut))
            }
            Layer::Residual(block) => Box::new(Residual::new(rows, block)),
            Layer::Attention(attention) => Box::new(Attended::new(rows, attention, band)),
            Layer::Gated(gated) => Box::new(Gated::new(rows, gated)),
            Layer::Norm(norm) => Box::new(Normed { rows, norm }),
        };
        match observer {
            None => rows,
            Some(observer) => Box::new(Observed { rows, name: name.clone(), observer }),
        }
    }
}

/// A convolution at an end of the network, with its shortcut.
struct WithShortcut<'a> {
    rows: Rows<'a>,
    conv: &'a Conv,
    shortcut: Shortcut,
    halo: Halo,
    delay: Delay,
    observer: Option<(Observer<'a>, &'a str)>,
}

impl<'a> WithShortcut<'a> {
    fn new(
        rows: Rows<'a>,
        conv: &'a Conv,
        shortcut: Shortcut,
        observer: Option<(Observer<'a>, &'a str)>,
    ) -> Self {
        Self { rows, conv, shortcut, halo: Halo::new(1), delay: Delay::default(), observer }
    }
}

impl Source for WithShortcut<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let Self { rows, conv, shortcut, halo, delay, observer } = self;
        let input = || {
            let band = rows.next()?;
            if let Some(band) = &band {
                delay.push(band.clone());
            }
            Ok(band)
        };
        let Some(out) = halo.next(*conv, input)? else { return Ok(None) };
        if let Some((observer, name)) = observer {
            observer(name, &out)?;
        }
        let input = delay.take(out.dim(0)?)?.contiguous()?;
        let (count, width, channels) = input.dims3()?;
        let added = match *shortcut {
            Shortcut::None => return Ok(Some(out)),
            Shortcut::Repeat(times) => {
                let each = input.unsqueeze(3)?.broadcast_as((count, width, channels, times))?;
                each.contiguous()?.reshape((count, width, channels * times))?
            }
            Shortcut::Mean(of) => input.reshape((count, width, channels / of, of))?.mean(D::Minus1)?,
        };
        (out + added).map(Some)
    }
}
