use std::io;
use std::path::{Path, PathBuf};

use super::*;
use crate::model::tests::copy;
use crate::{BinMode, DecodeMode, Memory};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny")
}

fn recipe(prompt: &str, seed: u64) -> Recipe {
    Recipe {
        prompt: prompt.into(),
        negative_prompt: String::new(),
        seed,
        width: 128,
        height: 96,
        steps: 3,
        guidance: 4.5,
        bin: BinMode::Never,
        decode: DecodeMode::Exact,
    }
}

/// Keeps all rows and all progress; stops at a point of the way.
#[derive(Default)]
struct Album {
    pictures: Vec<Vec<u8>>,
    told: Vec<(usize, Progress)>,
    stop: Option<(Progress, Cancel)>,
    /// From there on this picture is not wanted.
    leave: Option<(usize, Progress)>,
    left: Option<usize>,
    ended: Vec<(usize, bool)>,
}

impl Sink for Album {
    fn rows(&mut self, picture: usize, rows: &[u8]) -> io::Result<()> {
        self.pictures.resize(self.pictures.len().max(picture + 1), Vec::new());
        self.pictures[picture].extend_from_slice(rows);
        Ok(())
    }

    fn progress(&mut self, picture: usize, progress: Progress) {
        self.told.push((picture, progress));
        if let Some((at, cancel)) = &self.stop
            && *at == progress
        {
            let cancel = cancel.clone();
            std::thread::spawn(move || cancel.cancel()).join().unwrap();
        }
        if self.leave == Some((picture, progress)) {
            self.left = Some(picture);
        }
    }

    fn wants(&mut self, picture: usize) -> bool {
        self.left != Some(picture)
    }

    fn ended(&mut self, picture: usize, outcome: Result<(), &Error>) {
        self.ended.push((picture, outcome.is_ok()));
    }
}

#[test]
fn both_memory_modes_give_the_same_bytes_and_outcomes() {
    let size = Recipe { width: 100, ..recipe("a green triangle", 3) };
    let recipes = [recipe("a red circle", 1), size, recipe("two blue stripes", 2)];
    let mut albums = [Memory::Resident, Memory::Sequential].map(|memory| {
        let pipeline = Pipeline::load_with(&tiny(), memory).unwrap();
        assert_eq!(pipeline.resident_bytes() > 0, memory == Memory::Resident);
        let mut album = Album::default();
        let outcomes = pipeline.render_all(&recipes, &Cancel::default(), &mut album).unwrap();
        assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
        assert!(matches!(outcomes[1], Err(Error::Size(_))), "{outcomes:?}");
        // Each call by itself works in both modes too.
        let text = pipeline.encode(&recipes[0]).unwrap();
        let latent = pipeline.denoise(&recipes[0], &text, &mut |_| ControlFlow::Continue(())).unwrap();
        let mut bytes = Vec::new();
        let mut take = |rows: &[u8]| {
            bytes.extend_from_slice(rows);
            Ok(())
        };
        pipeline.decode(&recipes[0], &latent, &mut take).unwrap();
        assert!(bytes == album.pictures[0]);
        album
    });
    let [resident, sequential] = &mut albums;
    assert_eq!(resident.pictures[0].len(), 128 * 96 * 3);
    assert!(resident.pictures == sequential.pictures);
    assert!(resident.pictures[0] != resident.pictures[2]);

    // A resident model finishes a picture before the next; otherwise each part is used once.
    let whole = Progress::Decoding { rows: 96, height: 96 };
    assert_eq!(resident.told[..2], [(0, Progress::Encoding), (0, Progress::Denoising { step: 0, steps: 3 })]);
    let place = |album: &Album, what| album.told.iter().position(|told| *told == what).unwrap();
    assert!(place(resident, (0, whole)) < place(resident, (2, Progress::Encoding)));
    assert!(place(sequential, (2, Progress::Encoding)) < place(sequential, (0, whole)));
    resident.told.sort_by_key(|told| told.0);
    sequential.told.sort_by_key(|told| told.0);
    assert_eq!(resident.told, sequential.told);
}

fn batch_of(batch: usize) -> Fit {
    Fit { batch, ..Fit::default() }
}

/// Pictures of one size whose texts have different lengths, one of them with a negative text of its own.
fn different() -> Vec<Recipe> {
    let negative = "blurry, dark and of no colour at all".to_owned();
    let second =
        Recipe { negative_prompt: negative, ..recipe("two blue stripes beside a very large green dot", 2) };
    vec![recipe("a red circle", 1), second, recipe("", 3), recipe("a moon", 1)]
}

#[test]
fn a_picture_has_the_same_bytes_in_any_batch() {
    let sprint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/pipeline_sprint/model");
    for (model, memory) in
        [(tiny(), Memory::Resident), (tiny(), Memory::Sequential), (sprint, Memory::Resident)]
    {
        let pipeline = Pipeline::load_with(&model, memory).unwrap();
        let alone: Vec<_> = different()
            .iter()
            .map(|recipe| {
                let mut album = Album::default();
                pipeline.render(recipe, &Cancel::default(), &mut album).unwrap();
                album.pictures.swap_remove(0)
            })
            .collect();
        for (batch, threads) in [(3, 1), (3, 2), (4, 5)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut album = Album::default();
            let outcomes = pool.install(|| {
                pipeline.render_fitted(&different(), &batch_of(batch), &Cancel::default(), &mut album)
            });
            assert!(outcomes.unwrap().iter().all(Result::is_ok));
            assert!(album.pictures == alone, "{model:?} {memory:?} {batch} {threads}");
            assert_eq!(album.ended, [(0, true), (1, true), (2, true), (3, true)]);
        }
    }
}

#[test]
fn a_picture_that_nobody_wants_any_more_leaves_its_batch() {
    let pipeline = Pipeline::load(&tiny()).unwrap();
    let mut all = Album::default();
    pipeline.render_all(&different(), &Cancel::default(), &mut all).unwrap();
    for leave in [
        Progress::Encoding,
        Progress::Denoising { step: 0, steps: 3 },
        Progress::Denoising { step: 1, steps: 3 },
        Progress::Decoding { rows: 8, height: 96 },
    ] {
        let mut album = Album { leave: Some((1, leave)), ..Album::default() };
        let outcomes =
            pipeline.render_fitted(&different(), &batch_of(4), &Cancel::default(), &mut album).unwrap();
        assert!(matches!(outcomes[1], Err(Error::Cancelled)), "{leave:?}: {outcomes:?}");
        for index in [0, 2, 3] {
            assert!(outcomes[index].is_ok() && album.pictures[index] == all.pictures[index], "{leave:?}");
        }
        let last = album.told.iter().rfind(|(picture, _)| *picture == 1).unwrap().1;
        let after = match (leave, last) {
            (Progress::Decoding { rows: left, .. }, Progress::Decoding { rows, .. }) => rows - left,
            // It is given up before the next part or step.
            _ => u32::from(last != leave && leave != Progress::Encoding),
        };
        assert_eq!(after, 0, "{leave:?}: {last:?}");
        album.ended.sort_unstable();
        assert_eq!(album.ended, [(0, true), (1, false), (2, true), (3, true)]);
    }
}

#[test]
fn only_what_agrees_is_denoised_together() {
    let pipeline = Pipeline::load(&tiny()).unwrap();
    let steps = Recipe { steps: 2, ..recipe("a moon", 4) };
    let bad = Recipe { guidance: f64::NAN, ..recipe("a moon", 4) };
    let recipes = [recipe("a red circle", 1), steps, bad, recipe("two blue stripes", 2)];
    let alone = {
        let mut album = Album::default();
        pipeline.render_all(&recipes, &Cancel::default(), &mut album).unwrap();
        album.pictures
    };
    let mut album = Album::default();
    let outcomes = pipeline.render_fitted(&recipes, &batch_of(4), &Cancel::default(), &mut album).unwrap();
    assert!(matches!(outcomes[2], Err(Error::Setting(_))), "{outcomes:?}");
    assert!(outcomes.iter().filter(|outcome| outcome.is_ok()).count() == 3 && album.pictures == alone);
    let text = pipeline.encode(&recipes[0]).unwrap();
    let unlike = pipeline
        .denoise_batch(&[(&recipes[0], &text), (&recipes[1], &text)], &mut |_, _| ControlFlow::Continue(()));
    assert!(matches!(unlike, Err(Error::Setting(_))));
}

#[test]
fn a_token_stops_within_a_step_and_within_a_band() {
    let pipeline = Pipeline::load(&tiny()).unwrap();
    let stops = [
        Progress::Encoding,
        Progress::Denoising { step: 0, steps: 3 },
        Progress::Denoising { step: 2, steps: 3 },
        Progress::Decoding { rows: 0, height: 96 },
        Progress::Decoding { rows: 8, height: 96 },
    ];
    for stop in stops {
        let cancel = Cancel::default();
        let mut album = Album { stop: Some((stop, cancel.clone())), ..Album::default() };
        let recipes = [recipe("a red circle", 1), recipe("a red circle", 2)];
        let ended = pipeline.render_all(&recipes, &cancel, &mut album);
        assert!(matches!(ended, Err(Error::Cancelled)), "{stop:?}: {ended:?}");
        // At most the rest of a band comes after it.
        let last = match album.told.last() {
            Some((0, Progress::Decoding { rows, .. })) => *rows,
            Some((0, told)) => {
                assert_eq!(*told, stop);
                0
            }
            other => panic!("{stop:?}: {other:?}"),
        };
        assert!(last < 48, "{stop:?}: {last} rows");
    }
}

/// Makes all values of a tensor no numbers.
fn spoil(file: &Path, tensor: &str) {
    let mut bytes = std::fs::read(file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let parsed: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = |end: usize| 8 + header + parsed[tensor]["data_offsets"][end].as_u64().unwrap() as usize;
    // No number in every type of floats.
    bytes[at(0)..at(1)].fill(0xff);
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn values_that_are_no_numbers_are_told_with_step_and_layer() {
    let (text, transformer) =
        ("text_encoder/model.safetensors", "transformer/diffusion_pytorch_model.safetensors");
    for (file, tensor, step, group) in [
        (text, "embed_tokens.weight", None, "the text encoder's embed_tokens"),
        (text, "layers.0.mlp.down_proj.weight", None, "the text encoder's layers.0"),
        (text, "layers.1.self_attn.v_proj.weight", None, "the text encoder's layers.1"),
        (transformer, "patch_embed.proj.bias", Some((1, 3)), "patch_embed"),
        (transformer, "caption_norm.weight", Some((1, 3)), "caption_norm"),
        (transformer, "time_embed.linear.bias", Some((1, 3)), "time_embed.0"),
        (transformer, "transformer_blocks.3.attn2.to_v.bias", Some((1, 3)), "transformer_blocks.3.attn2"),
        (transformer, "transformer_blocks.5.ff.conv_depth.bias", Some((1, 3)), "transformer_blocks.5.ff"),
        (transformer, "proj_out.bias", Some((1, 3)), "proj_out"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        copy(&tiny(), folder.path());
        spoil(&folder.path().join(file), tensor);
        let pipeline = Pipeline::load(folder.path()).unwrap();
        let error = pipeline.render(&recipe("a", 1), &Cancel::default(), &mut Album::default()).unwrap_err();
        let text = error.to_string();
        match error {
            Error::NotFinite { step: at, group: part } => assert_eq!((at, &*part), (step, group), "{tensor}"),
            other => panic!("{tensor}: {other}"),
        }
        assert!(text.contains(group) && text.contains("step 1 of 3") == step.is_some(), "{text}");
    }
}

#[test]
fn a_sprint_model_renders_with_its_defaults_and_ignores_a_negative_prompt() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/pipeline_sprint/model");
    let pipeline = Pipeline::load(&model).unwrap();
    let plain = Recipe { width: 64, height: 96, ..Recipe::new("a moon", pipeline.info()) };
    assert_eq!((plain.steps, plain.guidance), (2, 4.5));
    let bytes = |recipe: &Recipe| {
        let mut album = Album::default();
        pipeline.render(recipe, &Cancel::default(), &mut album).unwrap();
        album.pictures.swap_remove(0)
    };
    let first = bytes(&plain);
    assert_eq!(first.len(), 64 * 96 * 3);
    assert!(first == bytes(&Recipe { negative_prompt: "blur".into(), ..plain.clone() }));
    assert!(first != bytes(&Recipe { guidance: 1.0, ..plain.clone() }));
    for guidance in [f64::NAN, -1.0, f64::INFINITY] {
        let bad = Recipe { guidance, ..plain.clone() };
        let ended = pipeline.render(&bad, &Cancel::default(), &mut Album::default());
        assert!(matches!(ended, Err(Error::Setting(_))), "{ended:?}");
    }
}
