//! What the fuzz targets share.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use sana::prompt::PromptTokenizer;
use tempfile::TempDir;

/// A folder in memory where there is one, since every input becomes a file.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary folder can be made")
}

/// The model that comes with the repository.
pub fn bundled_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny")
}

/// Its tokenizer.
pub static BUNDLED_TOKENIZER: LazyLock<PromptTokenizer> = LazyLock::new(|| {
    PromptTokenizer::open(&bundled_model().join("tokenizer")).expect("the bundled tokenizer is whole")
});

/// Copies every file of `from` into `to`.
pub fn mirror(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the scratch folder can be written");
    for entry in std::fs::read_dir(from).expect("the bundled model can be read") {
        let entry = entry.expect("the bundled model can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            mirror(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("the scratch folder can be written");
        }
    }
}
