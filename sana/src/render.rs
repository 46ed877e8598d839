//! From recipes to rows in one call, in both memory modes.

use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::autoencoder::Tiling;
use crate::{Cancel, Error, Pipeline, Progress, Recipe, Sink};

impl Pipeline {
    /// Renders one picture; its rows go to `sink`.
    pub fn render(&self, recipe: &Recipe, cancel: &Cancel, sink: &mut dyn Sink) -> Result<(), Error> {
        self.render_all(std::slice::from_ref(recipe), cancel, sink)?.into_iter().collect()
    }

    /// Renders pictures and tells how each ended, in the order of the recipes. One that fails holds no other up; the
    /// call itself fails when it is cancelled or a part of the model cannot be loaded.
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
        let together = if self.is_resident() { 1 } else { recipes.len().max(1) };
        let mut outcomes = Vec::with_capacity(recipes.len());
        for group in recipes.chunks(together) {
            outcomes.extend(self.render_group(outcomes.len(), group, cancel, sink)?);
        }
        Ok(outcomes)
    }

    /// Part by part; `first` is the number of the first recipe.
    fn render_group(
        &self,
        first: usize,
        recipes: &[Recipe],
        cancel: &Cancel,
        sink: &mut dyn Sink,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let begun = vec![(); recipes.len()].into_iter().map(Ok).collect();
        let texts = {
            let encoder = self.text_encoder()?;
            phase(begun, cancel, |index, ()| {
                sink.progress(first + index, Progress::Encoding);
                self.plan(&recipes[index])?;
                self.encode_by(&encoder, &recipes[index])
            })?
        };
        let latents = {
            let transformer = self.transformer()?;
            phase(texts, cancel, |index, text| {
                let recipe = &recipes[index];
                let mut told = |step| {
                    sink.progress(first + index, Progress::Denoising { step, steps: recipe.steps });
                    if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                if told(0).is_break() {
                    return Err(Error::Cancelled);
                }
                self.denoise_by(&transformer, recipe, &text, &mut |step, _: &[Tensor]| told(step))
            })?
        };
        let decoder = self.held_decoder()?;
        phase(latents, cancel, |index, latent| {
            let recipe = &recipes[index];
            let (picture, height) = (first + index, recipe.height);
            sink.progress(picture, Progress::Decoding { rows: 0, height });
            let mut done = 0;
            let mut rows = |bytes: &[u8]| {
                sink.rows(picture, bytes)?;
                done += (bytes.len() / (recipe.width as usize * 3)) as u32;
                sink.progress(picture, Progress::Decoding { rows: done, height });
                Ok(())
            };
            let plan = self.plan(recipe)?;
            self.decode_by(&decoder, &plan, &latent, Tiling::from(recipe.decode), cancel, &mut rows)
        })
    }
}

/// Does one part of the work on each picture that has not failed. Being cancelled ends all.
fn phase<A, B>(
    pictures: Vec<Result<A, Error>>,
    cancel: &Cancel,
    mut work: impl FnMut(usize, A) -> Result<B, Error>,
) -> Result<Vec<Result<B, Error>>, Error> {
    let work = |(index, picture): (usize, Result<A, Error>)| {
        cancel.check()?;
        match picture.and_then(|picture| work(index, picture)) {
            Err(Error::Cancelled) => Err(Error::Cancelled),
            done => Ok(done),
        }
    };
    pictures.into_iter().enumerate().map(work).collect()
}

#[cfg(test)]
mod tests;
