use super::*;

fn plan(source: (u32, u32), wanted: (u32, u32)) -> Plan {
    Plan { compute_width: source.0, compute_height: source.1, width: wanted.0, height: wanted.1 }
}

/// A picture in which every pixel differs from its neighbours.
fn pattern(width: usize, height: usize) -> Vec<f32> {
    (0..width * height * 3).map(|i| ((i as f32) * 0.37).sin()).collect()
}

fn run(rows: &mut Rows, source: &[f32], width: usize) -> Result<Vec<Vec<u8>>, Error> {
    let mut out = Vec::new();
    for row in source.chunks(width * 3) {
        rows.push(row, &mut |bytes| {
            out.push(bytes.to_vec());
            Ok(())
        })?;
    }
    Ok(out)
}

/// The resize as a formula over the whole picture.
fn resized_at(
    source: &[f32],
    size: (usize, usize),
    wanted: (usize, usize),
    x: usize,
    y: usize,
    c: usize,
) -> f64 {
    let ratio = (wanted.0 as f64 / size.0 as f64).max(wanted.1 as f64 / size.1 as f64);
    let axis = |size: usize, wanted: usize, i: usize| {
        let resized = ((size as f64 * ratio) as usize).max(wanted);
        let at = ((i + (resized - wanted) / 2) as f64 + 0.5) * (size as f64 / resized as f64) - 0.5;
        let at = at.clamp(0.0, (size - 1) as f64);
        (at as usize, (at as usize + 1).min(size - 1), at.fract())
    };
    let (x0, x1, fx) = axis(size.0, wanted.0, x);
    let (y0, y1, fy) = axis(size.1, wanted.1, y);
    let pixel = |x: usize, y: usize| f64::from(source[(y * size.0 + x) * 3 + c]);
    (pixel(x0, y0) * (1.0 - fx) + pixel(x1, y0) * fx) * (1.0 - fy)
        + (pixel(x0, y1) * (1.0 - fx) + pixel(x1, y1) * fx) * fy
}

#[test]
fn streaming_equals_the_formula_over_the_whole_picture() {
    for (size, wanted) in [
        ((12, 8), (31, 21)),
        ((12, 8), (5, 7)),
        ((64, 64), (9, 3)),
        ((3, 2), (1, 1)),
        // The sizes of diffusers#8911, where the library leaves a strip.
        ((576, 416), (330, 240)),
        ((1152, 832), (1280, 960)),
    ] {
        let source = pattern(size.0, size.1);
        let plan = plan((size.0 as u32, size.1 as u32), (wanted.0 as u32, wanted.1 as u32));
        let out = run(&mut Rows::new(&plan), &source, size.0).unwrap();
        assert_eq!(out.len(), wanted.1, "{size:?} to {wanted:?}");
        for (y, row) in out.iter().enumerate() {
            assert_eq!(row.len(), wanted.0 * 3);
            for (i, byte) in row.iter().enumerate() {
                let want = (resized_at(&source, size, wanted, i / 3, y, i % 3) * 0.5 + 0.5) * 255.0;
                // Half a level of rounding, and positions in f32 on the way.
                assert!((want - f64::from(*byte)).abs() < 0.6, "{size:?} to {wanted:?}: {i}, {y}");
            }
        }
    }
}

#[test]
fn a_row_is_given_as_soon_as_it_is_known() {
    let mut rows = Rows::new(&plan((4, 4), (8, 8)));
    let source = pattern(4, 4);
    let mut known = Vec::new();
    for row in source.chunks(12) {
        let mut given = 0;
        rows.push(row, &mut |_| {
            given += 1;
            Ok(())
        })
        .unwrap();
        known.push(given);
    }
    assert_eq!(known, [0, 3, 2, 3]);
    rows.finish().unwrap();
}

#[test]
fn halves_round_to_even_and_the_ends_are_clamped() {
    let mut bytes = Vec::new();
    let half = |k: f64| (((k + 0.5) / 255.0) * 2.0 - 1.0) as f32;
    to_bytes(&[-7.0, -1.0, 0.0, 1.0, 9.0, half(127.0)], &mut bytes);
    assert_eq!(bytes, [0, 0, 128, 255, 255, 128]);
}

#[test]
fn a_picture_of_one_colour_is_refused() {
    for wanted in [(4, 3), (9, 5)] {
        let mut rows = Rows::new(&plan((4, 3), wanted));
        run(&mut rows, &[0.25; 36], 4).unwrap();
        let error = rows.finish().unwrap_err();
        assert!(matches!(&error, Error::Numeric(text) if text.contains("#9f9f9f")), "{error}");

        let mut one_pixel_off = [0.25; 36];
        one_pixel_off[35] = 0.5;
        let mut rows = Rows::new(&plan((4, 3), wanted));
        run(&mut rows, &one_pixel_off, 4).unwrap();
        rows.finish().unwrap();
    }
}

#[test]
fn what_is_not_finite_is_refused_at_its_place() {
    for value in [f32::NAN, f32::INFINITY] {
        let mut source = pattern(4, 3);
        source[4 * 3 + 5] = value;
        let error = run(&mut Rows::new(&plan((4, 3), (4, 3))), &source, 4).unwrap_err();
        assert!(matches!(&error, Error::Numeric(text) if text.contains("column 1, row 1")), "{error}");
    }
}

#[test]
fn a_picture_that_ends_early_is_refused() {
    let mut rows = Rows::new(&plan((4, 3), (4, 3)));
    run(&mut rows, &pattern(4, 2), 4).unwrap();
    assert!(matches!(rows.finish(), Err(Error::Numeric(_))));
}

#[test]
fn the_error_of_the_taker_comes_back() {
    let mut rows = Rows::new(&plan((4, 3), (4, 3)));
    let error = rows.push(&pattern(4, 1), &mut |_| Err(std::io::Error::other("disk full"))).unwrap_err();
    assert!(matches!(error, Error::Sink(_)), "{error}");
}
