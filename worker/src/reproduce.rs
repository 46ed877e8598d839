//! Rendering a picture again from the recipe that it carries.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use sana::{Memory, Pipeline, Placement, Precision, Recipe};

use crate::picture::{self, Encoding, Format, Provenance};

/// Pieces of rows on their way to the encoder.
const AHEAD: usize = 64;
/// Precision of a CUDA device that renders for speed, as recipes name it.
const BF16: &str = "bf16";

/// A picture that was rendered again.
#[derive(Clone, Debug, PartialEq)]
pub struct Again {
    /// Its file, in the format of the first one.
    pub file: Vec<u8>,
    /// What stands in it: the recipe, with what this machine computed in.
    pub provenance: Provenance,
    /// What it was rendered on: `cpu` or `cuda:0`.
    pub device: String,
}

/// Where a picture is that is rendered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The model is checked and opened.
    Load,
    /// The prompt is encoded.
    Text,
    /// That many denoising steps are done.
    Denoise(u32),
    /// Rows come out.
    Decode,
}

/// Why a picture could not be rendered again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model is another one than that of the recipe.
    #[error("the weights of model {model} are {found}, those of the recipe are {wanted}")]
    OtherWeights {
        /// Name of the model that was found.
        model: String,
        /// Hash of its files.
        found: String,
        /// Hash in the recipe.
        wanted: String,
    },
    /// The device is not there, or this build cannot use it.
    #[error("use device {0}: {1}")]
    Device(String, sana::Error),
    /// The recipe says nothing that could be followed.
    #[error("follow the recipe: {0}")]
    Recipe(String),
    /// The model or the picture failed.
    #[error(transparent)]
    Render(#[from] sana::Error),
    /// There is no file of it.
    #[error("encode the picture: {0}")]
    Encode(String),
}

/// Renders the picture of a recipe with the model in a folder, on the device of that name or else on what its precision
/// hints at, and writes it in this format. `on_stage` hears of every stage and step and ends the work with `Break`.
///
/// The same program on the same kind of device gives the same file to the bit. Blocks for as long as rendering takes.
pub fn reproduce(
    provenance: &Provenance,
    format: Format,
    model: &Path,
    device: Option<&str>,
    on_stage: &mut (dyn FnMut(Stage) -> ControlFlow<()> + Send),
) -> Result<Again, Error> {
    let encoding = Encoding::again(format, provenance.quality).map_err(Error::Recipe)?;
    proceed(on_stage(Stage::Load))?;
    let info = sana::inspect(model)?;
    if info.weights_sha256 != provenance.weights_sha256 {
        return Err(Error::OtherWeights {
            model: info.name,
            found: info.weights_sha256,
            wanted: provenance.weights_sha256.clone(),
        });
    }
    let hinted = if cfg!(feature = "cuda") && provenance.dtype == BF16 { "cuda:0" } else { "cpu" };
    let device = device.unwrap_or(hinted);
    let precision = if provenance.dtype == BF16 { Precision::Bf16 } else { Precision::F32 };
    let placement =
        Placement::parse(device, precision).map_err(|error| Error::Device(device.to_owned(), error))?;
    let pipeline = Pipeline::load_on(model, Memory::Sequential, &placement)?;
    let recipe = provenance.recipe();
    let plan = pipeline.plan(&recipe)?;
    let provenance = Provenance {
        dtype: placement.dtype().as_str().to_owned(),
        compute_width: plan.compute_width,
        compute_height: plan.compute_height,
        ..provenance.clone()
    };
    let file = draw(&pipeline, &recipe, &provenance, encoding, on_stage)?;
    Ok(Again { file, provenance, device: placement.name().to_owned() })
}

/// Encodes on a thread of its own, which asks for rows as the pipeline hands them out.
fn draw(
    pipeline: &Pipeline,
    recipe: &Recipe,
    provenance: &Provenance,
    encoding: Encoding,
    on_stage: &mut (dyn FnMut(Stage) -> ControlFlow<()> + Send),
) -> Result<Vec<u8>, Error> {
    let (rows, coming) = sync_channel::<Vec<u8>>(AHEAD);
    thread::scope(|scope| {
        let writer = scope.spawn(move || picture::write(provenance, encoding, || coming.recv().ok()));
        let rendered = render(pipeline, recipe, on_stage, &mut |piece| {
            rows.send(piece.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
        });
        drop(rows);
        let written = writer.join().map_err(|_| Error::Encode("the encoder broke down".into()))?;
        match (rendered, written) {
            (Ok(()), Ok(written)) => Ok(written.file),
            // The encoder hung up, and says why.
            (Ok(()) | Err(sana::Error::Sink(_)), Err(error)) => Err(Error::Encode(error.to_string())),
            (Err(error), _) => Err(error.into()),
        }
    })
}

fn render(
    pipeline: &Pipeline,
    recipe: &Recipe,
    on_stage: &mut (dyn FnMut(Stage) -> ControlFlow<()> + Send),
    rows: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
) -> Result<(), sana::Error> {
    proceed(on_stage(Stage::Text))?;
    let text = pipeline.encode(recipe)?;
    proceed(on_stage(Stage::Denoise(0)))?;
    let latent = pipeline.denoise(recipe, &text, &mut |done| on_stage(Stage::Denoise(done)))?;
    proceed(on_stage(Stage::Decode))?;
    pipeline.decode(recipe, &latent, rows)
}

fn proceed(flow: ControlFlow<()>) -> Result<(), sana::Error> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(sana::Error::Cancelled),
    }
}
