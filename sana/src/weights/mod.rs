//! Tensors of one part of a model: its safetensors files, checked at once and read one tensor at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::short;
use crate::{Error, Placement};
use file::WeightFile;
use header::Entry;
pub use view::{RowTable, TensorView, Values};

mod file;
mod header;
mod select;
mod view;

/// The tensors of one part's folder.
///
/// Opening reads and checks every header against the length of its file and maps the file into memory; values are
/// read when they are asked for. [`Weights::get`] converts a tensor, [`Weights::view`] shows it as it is stored,
/// [`Weights::table`] reads single rows of a matrix. Whatever was used is given back to the system at once, so that the
/// map does not count as memory of the process. A file that was cut short since it was opened is an error; only
/// while its bytes are being converted, or a view of it is in use, is it a fatal signal.
#[derive(Debug)]
pub struct Weights {
    files: Vec<Arc<WeightFile>>,
    paths: Vec<PathBuf>,
    tensors: BTreeMap<String, Stored>,
    placement: Placement,
}

#[derive(Debug)]
struct Stored {
    file: usize,
    entry: Entry,
}

impl Weights {
    /// Opens the weights in `dir` whose names start with `stem` (`diffusion_pytorch_model` or `model`).
    ///
    /// A wanted `variant` (such as `bf16`) falls back to the plain name. Without one the plain name is
    /// taken, or the only variant that is there. Each may be one file or shards with an index.
    pub fn open(dir: &Path, stem: &str, variant: Option<&str>) -> Result<Self, Error> {
        let selected = select::select(dir, stem, variant)?;
        let weights = Self::from_files(selected.files)?;
        for (tensor, file) in &selected.indexed {
            let at = weights.tensors.get(tensor).map(|stored| weights.paths[stored.file].as_path());
            if at != Some(file.as_path()) {
                return Err(Error::Model(format!(
                    "tensor {} is not in {}, where the index puts it; download the folder again",
                    short(tensor),
                    file.display()
                )));
            }
        }
        Ok(weights)
    }

    /// Opens one safetensors file.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        Self::from_files(vec![path.to_path_buf()])
    }

    fn from_files(paths: Vec<PathBuf>) -> Result<Self, Error> {
        let mut files = Vec::with_capacity(paths.len());
        let mut tensors = BTreeMap::new();
        for (index, path) in paths.iter().enumerate() {
            let (file, entries) = WeightFile::open(path)?;
            files.push(Arc::new(file));
            for (name, entry) in entries {
                if let Some(Stored { file, .. }) = tensors.get(&name) {
                    let first: &PathBuf = &paths[*file];
                    return Err(Error::Model(format!(
                        "tensor {} is in both {} and {}",
                        short(&name),
                        first.display(),
                        path.display()
                    )));
                }
                tensors.insert(name, Stored { file: index, entry });
            }
        }
        Ok(Self { files, paths, tensors, placement: Placement::cpu() })
    }

    /// The same tensors for another place than the CPU.
    pub fn placed(self, placement: &Placement) -> Self {
        Self { placement: placement.clone(), ..self }
    }

    /// Where [`Weights::get`] puts tensors.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Reads a tensor of the given shape into memory and puts it where the weights are placed, in the type of that place,
    /// whatever type it is stored in: on the CPU as f32.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let stored = self.find(name, shape)?;
        let values = self.files[stored.file].read(name, &stored.entry)?;
        Ok(self.placement.put(&Tensor::from_vec(values, shape, &Device::Cpu)?)?)
    }

    /// Shows a tensor of the given shape as it is stored, without a copy.
    pub fn view(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, Error> {
        let stored = self.find(name, shape)?;
        TensorView::new(&self.files[stored.file], name, &stored.entry)
    }

    /// A matrix `[rows, width]` whose rows are read on demand.
    pub fn table(&self, name: &str, rows: usize, width: usize) -> Result<RowTable, Error> {
        let stored = self.find(name, &[rows, width])?;
        RowTable::new(self.files[stored.file].clone(), name, &stored.entry, [rows, width])
    }

    /// Checks that there is a tensor of this name and shape, without reading it.
    pub fn require(&self, name: &str, shape: &[usize]) -> Result<(), Error> {
        self.find(name, shape).map(drop)
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<&Stored, Error> {
        let Some(stored) = self.tensors.get(name) else {
            return Err(Error::Model(format!(
                "tensor {name} with shape {shape:?} is missing in {}",
                self.place()
            )));
        };
        if stored.entry.shape != shape {
            return Err(Error::Model(format!(
                "tensor {name} in {} has shape {}, the configuration asks for {shape:?}",
                self.paths[stored.file].display(),
                short(format!("{:?}", stored.entry.shape))
            )));
        }
        Ok(stored)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Dimensions of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| stored.entry.shape.as_slice())
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all files on disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes()).sum()
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> &[PathBuf] {
        &self.paths
    }

    fn place(&self) -> String {
        match self.paths.as_slice() {
            [one] => one.display().to_string(),
            [first, ..] => format!("the {} files of {}", self.paths.len(), parent(first)),
            [] => "no file".to_owned(),
        }
    }
}

fn parent(path: &Path) -> String {
    path.parent().unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests;
