//! From decoded rows to the bytes of a picture.
//!
//! Rows pass through one at a time, so a picture of any height needs the memory of a few rows.

use candle_core::Tensor;

use crate::Error;
use crate::ops;
use crate::size::Plan;
use resize::Resize;

pub(crate) mod resize;

/// Takes the decoded rows of one picture in order and gives its rows of 8-bit RGB: resized and cropped when the
/// plan asks for it, checked against numbers that are not finite and against a picture of one colour.
#[derive(Debug)]
pub struct Rows {
    source_width: usize,
    source_height: usize,
    resize: Option<Resize>,
    taken: usize,
    /// The colour of all pixels so far, as long as there is only one.
    single_colour: Option<[u8; 3]>,
    bytes: Vec<u8>,
}

impl Rows {
    /// For one picture.
    pub fn new(plan: &Plan) -> Self {
        let side = |pixels: u32| pixels as usize;
        let (source_width, source_height) = (side(plan.compute_width), side(plan.compute_height));
        let (width, height) = (side(plan.width), side(plan.height));
        let same = (source_width, source_height) == (width, height);
        let resize = (!same).then(|| Resize::new((source_width, source_height), (width, height)));
        Self { source_width, source_height, resize, taken: 0, single_colour: None, bytes: Vec::new() }
    }

    /// Takes the next decoded rows, `[rows, width, 3]`, from wherever they are. What needs no resize becomes bytes on
    /// the device, a quarter of the bytes to move.
    pub fn push_band(
        &mut self,
        band: &Tensor,
        out: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Error> {
        let line = band.dim(1)? * 3;
        if self.resize.is_some() || !ops::on_device(band) {
            return ops::to_vec(band)?.chunks_exact(line).try_for_each(|row| self.push(row, out));
        }
        if let Some(at) = ops::first_not_finite(band)? {
            let value = ops::to_vec(&band.flatten_all()?.narrow(0, at, 1)?)?;
            return Err(self.not_finite(value[0], at % line, at / line));
        }
        for bytes in ops::to_rgb8(band)?.chunks_exact(line) {
            self.expect(bytes.len())?;
            let first = self.taken == 0;
            self.taken += 1;
            if first || self.single_colour.is_some() {
                let colour = one_colour(bytes);
                self.single_colour = colour.filter(|colour| first || self.single_colour == Some(*colour));
            }
            out(bytes).map_err(Error::Sink)?;
        }
        Ok(())
    }

    /// Takes the next decoded row, interleaved RGB around -1 to 1, and calls `out` once for each row of the
    /// picture (interleaved RGB bytes) that is now known.
    pub fn push(
        &mut self,
        row: &[f32],
        out: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Error> {
        self.expect(row.len())?;
        if let Some(at) = row.iter().position(|value| !value.is_finite()) {
            return Err(self.not_finite(row[at], at, 0));
        }
        let first = self.taken == 0;
        self.taken += 1;
        let Self { bytes, resize, single_colour, .. } = self;
        if first || single_colour.is_some() || resize.is_none() {
            to_bytes(row, bytes);
            *single_colour = one_colour(bytes).filter(|colour| first || *single_colour == Some(*colour));
        }
        match resize {
            None => out(bytes).map_err(Error::Sink),
            Some(resize) => resize.push(row, &mut |resized| {
                to_bytes(resized, bytes);
                out(bytes).map_err(Error::Sink)
            }),
        }
    }

    /// Whether a row of that many values can come now.
    fn expect(&self, values: usize) -> Result<(), Error> {
        if values == self.source_width * 3 && self.taken < self.source_height {
            return Ok(());
        }
        Err(Error::Setting(format!(
            "row {} with {values} values does not belong to a picture of {}x{}",
            self.taken, self.source_width, self.source_height
        )))
    }

    /// About value `at` of the row that is `below` the next.
    fn not_finite(&self, value: f32, at: usize, below: usize) -> Error {
        Error::Numeric(format!(
            "the decoded picture is {value} at column {}, row {}",
            at / 3,
            self.taken + below
        ))
    }

    /// Call after the last row: refuses a picture that is not whole or has one colour.
    pub fn finish(self) -> Result<(), Error> {
        if self.taken != self.source_height {
            return Err(Error::Numeric(format!(
                "the decoded picture ends after {} of {} rows",
                self.taken, self.source_height
            )));
        }
        match self.single_colour {
            None => Ok(()),
            Some([r, g, b]) => Err(Error::Numeric(format!(
                "the picture has one colour, #{r:02x}{g:02x}{b:02x}; the weights may be of another model"
            ))),
        }
    }
}

/// The colour of all pixels, if there is only one.
fn one_colour(bytes: &[u8]) -> Option<[u8; 3]> {
    let (pixels, _) = bytes.as_chunks::<3>();
    let first = pixels.first()?;
    pixels.iter().all(|pixel| pixel == first).then_some(*first)
}

/// From -1..1 to 0..255, clamped, halves to even.
pub(crate) fn to_bytes(row: &[f32], bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.extend(row.iter().map(|x| ((x * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8));
}

#[cfg(test)]
mod tests;
