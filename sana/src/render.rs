//! From recipes to rows in one call, in both memory modes.

use std::io;
use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::autoencoder::{Decoder, Tiling};
use crate::plan::Fit;
use crate::{Cancel, DecodeMode, Error, Latent, Pipeline, Progress, Recipe, Sink, TextEmbedding};

/// What there is of each picture so far, or why there is nothing.
type Pictures<T> = Vec<Result<T, Error>>;

impl Pipeline {
    /// Renders one picture; its rows go to `sink`.
    pub fn render(&self, recipe: &Recipe, cancel: &Cancel, sink: &mut dyn Sink) -> Result<(), Error> {
        self.render_all(std::slice::from_ref(recipe), cancel, sink)?.into_iter().collect()
    }

    /// Renders pictures one by one and tells how each ended, in the order of the recipes. One that fails holds no other up;
    /// the call itself fails when it is cancelled or a part of the model cannot be loaded.
    ///
    /// A resident model renders one picture after the other. With [`crate::Memory::Sequential`] all prompts are encoded
    /// first, then all pictures are denoised, then all are decoded, so that each part is loaded once and only one is in
    /// memory. What is kept of a picture in between is small: at most 300 rows of text and a latent. The bytes are the
    /// same in both.
    pub fn render_all(
        &self,
        recipes: &[Recipe],
        cancel: &Cancel,
        sink: &mut dyn Sink,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        self.render_fitted(recipes, &Fit::default(), cancel, sink)
    }

    /// The same with as many pictures in a batch, and decoded as the fit says; which parts are in memory was decided when the
    /// model was loaded. Pictures that follow each other are denoised together when they have one size, number of steps and
    /// guidance. On the CPU the bytes of a picture do not depend on the fit.
    pub fn render_fitted(
        &self,
        recipes: &[Recipe],
        fit: &Fit,
        cancel: &Cancel,
        sink: &mut dyn Sink,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let together = if self.is_resident() { fit.batch } else { recipes.len() };
        let mut outcomes = Vec::with_capacity(recipes.len());
        for recipes in recipes.chunks(together.max(1)) {
            let group = Group { pipeline: self, first: outcomes.len(), recipes, fit, cancel };
            outcomes.extend(group.render(sink)?);
        }
        Ok(outcomes)
    }
}

/// Pictures that go through the pipeline part by part.
struct Group<'a> {
    pipeline: &'a Pipeline,
    /// Number of the first recipe.
    first: usize,
    recipes: &'a [Recipe],
    fit: &'a Fit,
    cancel: &'a Cancel,
}

impl Group<'_> {
    fn render(&self, sink: &mut dyn Sink) -> Result<Pictures<()>, Error> {
        let texts = self.encode(sink)?;
        let latents = self.denoise(texts, sink)?;
        self.decode(latents, sink)
    }

    /// Whether the picture is to go on; the error ends all.
    fn wanted(&self, index: usize, sink: &mut dyn Sink) -> Result<Result<(), Error>, Error> {
        self.cancel.check()?;
        Ok(if sink.wants(self.first + index) { Ok(()) } else { Err(Error::Cancelled) })
    }

    fn encode(&self, sink: &mut dyn Sink) -> Result<Pictures<TextEmbedding>, Error> {
        let encoder = self.pipeline.text_encoder()?;
        let mut texts = Vec::with_capacity(self.recipes.len());
        for (index, recipe) in self.recipes.iter().enumerate() {
            let text = self.wanted(index, sink)?.and_then(|()| {
                sink.progress(self.first + index, Progress::Encoding);
                self.pipeline.plan(recipe)?;
                self.pipeline.encode_by(&encoder, recipe)
            });
            texts.push(self.told(index, text, sink));
        }
        Ok(texts)
    }

    fn denoise(
        &self,
        texts: Pictures<TextEmbedding>,
        sink: &mut dyn Sink,
    ) -> Result<Pictures<Latent>, Error> {
        let transformer = self.pipeline.transformer()?;
        let mut latents: Vec<Option<Result<Latent, Error>>> = Vec::with_capacity(texts.len());
        let mut ready = Vec::with_capacity(texts.len());
        for (index, text) in texts.into_iter().enumerate() {
            latents.push(match text {
                Ok(text) => {
                    ready.push((index, text));
                    None
                }
                Err(error) => Some(Err(error)),
            });
        }
        let together = |(one, _): &(usize, _), (other, _): &(usize, _)| {
            let of = |index: usize| {
                let recipe: &Recipe = &self.recipes[index];
                (recipe.width, recipe.height, recipe.bin, recipe.steps, recipe.guidance)
            };
            of(*one) == of(*other)
        };
        let batches = ready.chunk_by(together).flat_map(|alike| alike.chunks(self.fit.batch.max(1)));
        for batch in batches {
            let mut started = Vec::with_capacity(batch.len());
            for (index, text) in batch {
                let steps = self.recipes[*index].steps;
                let mut wanted = self.wanted(*index, sink)?;
                if wanted.is_ok() {
                    sink.progress(self.first + index, Progress::Denoising { step: 0, steps });
                    // Whoever heard that may want it no more.
                    wanted = self.wanted(*index, sink)?;
                }
                match wanted {
                    Ok(()) => started.push((*index, text)),
                    Err(error) => latents[*index] = Some(self.told(*index, Err(error), sink)),
                }
            }
            let recipes: Vec<_> = started.iter().map(|&(index, text)| (&self.recipes[index], text)).collect();
            let mut on_step = |picture: usize, step: u32, _: &Tensor| {
                let index = started[picture].0;
                let steps = self.recipes[index].steps;
                sink.progress(self.first + index, Progress::Denoising { step, steps });
                match self.wanted(index, sink) {
                    Ok(Ok(())) => ControlFlow::Continue(()),
                    Ok(Err(_)) | Err(_) => ControlFlow::Break(()),
                }
            };
            let denoised = self.pipeline.denoise_by(&transformer, &recipes, &mut on_step);
            self.cancel.check()?;
            let denoised = match denoised {
                Ok(denoised) => denoised,
                Err(error) => started.iter().map(|_| Err(error.repeat())).collect(),
            };
            for ((index, _), latent) in started.into_iter().zip(denoised) {
                latents[index] = Some(self.told(index, latent, sink));
            }
        }
        Ok(latents.into_iter().flatten().collect())
    }

    fn decode(&self, latents: Pictures<Latent>, sink: &mut dyn Sink) -> Result<Pictures<()>, Error> {
        let decoder = self.pipeline.held_decoder()?;
        let mut outcomes = Vec::with_capacity(latents.len());
        for (index, latent) in latents.into_iter().enumerate() {
            let latent = match latent {
                Ok(latent) => latent,
                // Told already.
                Err(error) => {
                    outcomes.push(Err(error));
                    continue;
                }
            };
            let wanted = self.wanted(index, sink)?;
            let decoded = wanted.and_then(|()| self.decode_one(&decoder, index, &latent, sink));
            match &decoded {
                Ok(()) => sink.ended(self.first + index, Ok(())),
                Err(_) => self.cancel.check()?,
            }
            outcomes.push(self.told(index, decoded, sink));
        }
        Ok(outcomes)
    }

    fn decode_one(
        &self,
        decoder: &Decoder,
        index: usize,
        latent: &Latent,
        sink: &mut dyn Sink,
    ) -> Result<(), Error> {
        let recipe = &self.recipes[index];
        let (picture, height) = (self.first + index, recipe.height);
        sink.progress(picture, Progress::Decoding { rows: 0, height });
        let (mut done, mut unwanted) = (0, false);
        let mut rows = |bytes: &[u8]| {
            if !sink.wants(picture) {
                unwanted = true;
                return Err(io::ErrorKind::Interrupted.into());
            }
            sink.rows(picture, bytes)?;
            done += (bytes.len() / (recipe.width as usize * 3)) as u32;
            sink.progress(picture, Progress::Decoding { rows: done, height });
            Ok(())
        };
        let plan = self.pipeline.plan(recipe)?;
        let tiling = match recipe.decode {
            DecodeMode::Exact => self.fit.tiling,
            other @ (DecodeMode::Blend | DecodeMode::Whole) => Tiling::from(other),
        };
        let decoded = self.pipeline.decode_by(decoder, &plan, latent, tiling, self.cancel, &mut rows);
        if unwanted { Err(Error::Cancelled) } else { decoded }
    }

    /// Tells the sink of a picture that will not be.
    fn told<T>(&self, index: usize, picture: Result<T, Error>, sink: &mut dyn Sink) -> Result<T, Error> {
        if let Err(error) = &picture {
            sink.ended(self.first + index, Err(error));
        }
        picture
    }
}

#[cfg(test)]
mod tests;
