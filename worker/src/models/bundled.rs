//! The model inside the program.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::Error;

/// Name of the model inside the program.
pub const BUNDLED: &str = "sana-tiny";

macro_rules! bundled {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../../../models/sana-tiny/", $name)) as &[u8])),*]
    };
}

/// All files of the bundled model, about 8 MB.
static FILES: [(&str, &[u8]); 11] = bundled![
    "MODEL_CARD.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

/// The absolute folder of the bundled model, which is unpacked below `cache` first, and mended there when a file of it is
/// missing or damaged.
///
/// Blocks for reading 8 MB.
pub(super) fn unpacked(cache: &Path) -> Result<PathBuf, Error> {
    let folder = cache.join(BUNDLED);
    unpack(&folder, cache)
        .and_then(|()| std::path::absolute(&folder))
        .map_err(|source| Error::Unpack { folder: folder.display().to_string(), source })
}

/// Bytes of its files.
pub(super) fn bytes() -> u64 {
    FILES.iter().map(|(_, content)| content.len() as u64).sum()
}

/// How many files it has.
pub(super) fn count() -> usize {
    FILES.len()
}

/// Every file appears whole: a process killed in the middle leaves what the next one completes.
fn unpack(folder: &Path, cache: &Path) -> io::Result<()> {
    for (name, content) in FILES {
        let file = folder.join(name);
        match std::fs::read(&file) {
            // Comparing is as sure as a checksum, and as quick.
            Ok(found) if found == content => continue,
            Ok(_) => tracing::warn!(file = %file.display(), "mending a damaged file of the bundled model"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // Beside the model, where nobody takes it for a part of it.
        let staged = cache.join(format!(".unpacking-{}", Uuid::new_v4()));
        let written = write_synced(&staged, content).and_then(|()| std::fs::rename(&staged, &file));
        if let Err(error) = written {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&staged);
            return Err(error);
        }
    }
    Ok(())
}

fn write_synced(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create_new(file)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_model_is_unpacked_whole_and_mended() {
        let cache = tempfile::tempdir().unwrap();
        let folder = unpacked(cache.path()).unwrap();
        assert!(folder.is_absolute() && folder.ends_with(BUNDLED));
        std::fs::write(folder.join("model_index.json"), "{}").unwrap();
        std::fs::remove_file(folder.join("vae/config.json")).unwrap();
        assert_eq!(unpacked(cache.path()).unwrap(), folder);
        for (name, content) in FILES {
            assert!(std::fs::read(folder.join(name)).unwrap() == content, "{name}");
        }
        let left: Vec<_> = std::fs::read_dir(cache.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [BUNDLED]);
    }

    #[test]
    fn many_unpack_at_once() {
        let cache = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| unpacked(cache.path()).unwrap());
            }
        });
        let index = std::fs::read(cache.path().join(BUNDLED).join("model_index.json")).unwrap();
        assert!(!index.is_empty());
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("file");
        std::fs::write(&cache, "x").unwrap();
        let error = unpacked(&cache).unwrap_err();
        assert!(error.to_string().contains(cache.to_str().unwrap()), "{error}");
    }
}
