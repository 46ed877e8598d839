//! Resize, centre crop and 8 bit.

use candle_core::Tensor;

use super::case::{Case, values};
use super::report::Report;
use crate::Error;
use crate::postprocess::resize::Resize;
use crate::postprocess::{Rows, to_bytes};
use crate::size::Plan;

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Error> {
    for key in case.names_between("in.", ".image") {
        let (source, [height, width]) = interleaved(case.tensor(&format!("in.{key}.image"))?)?;
        let bytes_name = format!("out.{key}.uint8");
        let bytes = case.tensor(&bytes_name)?;
        let mut got = Vec::new();
        let resized_name = format!("out.{key}.resized");
        if !case.has(&resized_name) {
            // No resize: the conversion alone, exact.
            to_bytes(&source, &mut got);
            report.compare_bytes(&bytes_name, &got, bytes, 0, 0.0)?;
            continue;
        }

        let (resized, [to_height, to_width]) = interleaved(case.tensor(&resized_name)?)?;
        let mut streamed = Vec::new();
        if (to_height, to_width) == (height, width) {
            streamed.extend_from_slice(&source);
        } else {
            let mut resize = Resize::new((width, height), (to_width, to_height));
            for row in source.chunks(width * 3) {
                resize.push(row, &mut |row| {
                    streamed.extend_from_slice(row);
                    Ok(())
                })?;
            }
        }
        let want = Tensor::new(resized.as_slice(), bytes.device())?.reshape((to_height, to_width, 3))?;
        report.compare(&resized_name, &streamed, &want, case.tolerance("resized"))?;

        to_bytes(&resized, &mut got);
        report.compare_bytes(&format!("{bytes_name} from resized"), &got, bytes, 0, 0.0)?;

        let side = |pixels: usize| pixels as u32;
        let mut rows = Rows::new(&Plan {
            compute_width: side(width),
            compute_height: side(height),
            width: side(to_width),
            height: side(to_height),
        });
        got.clear();
        for row in source.chunks(width * 3) {
            rows.push(row, &mut |bytes| {
                got.extend_from_slice(bytes);
                Ok(())
            })?;
        }
        rows.finish()?;
        report.compare_bytes(&bytes_name, &got, bytes, 1, 1.0)?;
    }
    Ok(())
}

/// Pixels in RGB order, height and width of a picture `[1, 3, height, width]`.
fn interleaved(picture: &Tensor) -> Result<(Vec<f32>, [usize; 2]), Error> {
    let (_, _, height, width) = picture.dims4()?;
    Ok((values(&picture.permute((0, 2, 3, 1))?.contiguous()?)?, [height, width]))
}
