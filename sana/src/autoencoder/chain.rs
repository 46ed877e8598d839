//! Layers one after the other, each pulling rows from the one before it.

use candle_core::{D, Result, Tensor};

use super::layout::{Module, Shortcut};
use super::load::Load;
use super::resample::{DownStrided, Nearest, Shuffled, Unshuffled};
use super::stream::{
    Convolved, Delay, Halo, Normed, Observed, Observer, ResBlock, Residual, Rows, Source, Split, Upsampled,
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
    Attention(Box<Attention>),
    /// Second half.
    Gated(GatedConv),
    /// Norm and activation.
    Norm(RmsNorm),
}

impl Layer {
    /// The rows that its result's bands lack, if its input's lack `lag`: a row leaves when those below it that it needs are
    /// there.
    fn lag_behind(&self, lag: usize) -> usize {
        match self {
            // The first layer's input comes whole or in bands as wanted; the last one's result goes nowhere.
            Self::Conv(..) | Self::Norm(_) => lag,
            Self::Upsample(_) | Self::Shuffle { .. } => 2 * (lag + 1),
            Self::Nearest(_) => 2 * lag + 1,
            Self::Strided(_) => lag.div_ceil(2),
            Self::Unshuffle { .. } => (lag + 1).div_ceil(2),
            Self::Residual(_) => lag + 2,
            // Bands begin anew in its second pass.
            Self::Attention(attention) => attention.pad(),
            Self::Gated(_) => lag + 1,
        }
    }
}

/// All layers of the encoder or decoder.
#[derive(Debug)]
pub struct Chain {
    modules: Vec<Module>,
    layers: Vec<Layer>,
    /// For each layer, the rows that its input's bands lack to a multiple of [`super::stream::ALIGN`].
    lags: Vec<usize>,
    /// Bytes of weights held.
    pub bytes: usize,
}

impl Chain {
    /// Loads the layers of `modules`.
    pub fn load(modules: Vec<Module>, weights: &Weights) -> std::result::Result<Self, Error> {
        let mut load = Load::new(weights);
        let (mut layers, mut lags, mut lag) = (Vec::with_capacity(modules.len()), Vec::new(), 0);
        for module in &modules {
            let layer = load.layer(module)?;
            lags.push(lag);
            lag = layer.lag_behind(lag);
            layers.push(layer);
        }
        Ok(Self { modules, layers, lags, bytes: load.bytes })
    }

    /// The modules, in the order of the layers.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Layer `index` over `rows`. Its results should have `band` rows, but for the whole picture at once.
    pub fn layer<'a>(
        &'a self,
        index: usize,
        rows: Rows<'a>,
        band: Option<usize>,
        observer: Option<Observer<'a>>,
    ) -> Rows<'a> {
        let (name, lag) = (&self.modules[index].name, self.lags[index]);
        let grows =
            matches!(self.layers[index], Layer::Upsample(_) | Layer::Nearest(_) | Layer::Shuffle { .. });
        let rows: Rows<'a> = match band {
            Some(band) if grows => Box::new(Split::new(rows, (band / 2).max(1))),
            Some(_) | None => rows,
        };
        let rows: Rows<'a> = match &self.layers[index] {
            Layer::Conv(conv, Shortcut::None) => Box::new(Convolved::new(rows, lag, conv)),
            Layer::Conv(conv, shortcut) => {
                // Observers see the convolution without its shortcut, as a hook of the library does.
                return Box::new(WithShortcut::new(
                    rows,
                    lag,
                    conv,
                    *shortcut,
                    observer.map(|observer| (observer, name.as_str())),
                ));
            }
            Layer::Upsample(layer) => Box::new(Upsampled::new(rows, layer)),
            Layer::Nearest(conv) => Box::new(Convolved::new(Box::new(Nearest { rows }), 2 * lag, conv)),
            Layer::Shuffle { conv, shortcut } => Box::new(Shuffled::new(rows, lag, conv, *shortcut)),
            Layer::Strided(conv) => Box::new(DownStrided::new(rows, conv)),
            Layer::Unshuffle { conv, channels, shortcut } => {
                Box::new(Unshuffled::new(rows, lag, conv, (*channels, *shortcut)))
            }
            Layer::Residual(block) => Box::new(Residual::new(rows, lag, block)),
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
        lag: usize,
        conv: &'a Conv,
        shortcut: Shortcut,
        observer: Option<(Observer<'a>, &'a str)>,
    ) -> Self {
        Self { rows, conv, shortcut, halo: Halo::new(lag), delay: Delay::default(), observer }
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
