//! The kernels as one program, and the folder in which its compiled form is kept.

use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Result, bail};
use sha2::{Digest, Sha256};

const COMMON: &str = include_str!("../../kernels/common.cuh");

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../kernels/", $name)))),*]
    };
}

const SOURCES: [(&str, &str); 9] = sources![
    "attention.cu",
    "conv.cu",
    "depthwise.cu",
    "linear.cu",
    "multi_scale.cu",
    "norm.cu",
    "picture.cu",
    "rope.cu",
    "softmax.cu",
];

/// The text of all kernels for tensors of one type.
pub(super) fn source(scalar: DType) -> Result<String> {
    let mut text = String::new();
    text += match scalar {
        DType::F32 => "#define SCALAR_F32\n",
        DType::BF16 => "#define SCALAR_BF16\n",
        DType::F16 => "#define SCALAR_F16\n",
        other => bail!("there are no CUDA kernels for {other:?}; take f32, bf16 or f16"),
    };
    text += COMMON;
    for (name, source) in SOURCES {
        text += &format!("#line 1 \"{name}\"\n");
        text += &source.replace("#include \"common.cuh\"\n", "\n");
    }
    Ok(text)
}

/// Compiled programs on disk, a file for each source, architecture and compiler.
///
/// A file begins with the checksum of the rest: one that was cut off or changed counts as absent and is written
/// anew. Files appear whole under their names, so several processes may share a folder.
#[derive(Debug)]
pub(super) struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// `sana/kernels` below the user's cache folder; without one nothing is kept.
    #[cfg(feature = "cuda")]
    pub fn of_user() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        Self { folder: folder.map(|folder| folder.join("sana/kernels")) }
    }

    #[cfg(test)]
    fn at(folder: &Path) -> Self {
        Self { folder: Some(folder.to_path_buf()) }
    }

    /// The program of this key, from the folder or else from `compile`, which is then kept. A folder that cannot be
    /// written costs the next start a second, and nothing else.
    pub fn get(&self, key: &str, compile: impl FnOnce() -> Result<String>) -> Result<String> {
        let file = self.folder.as_ref().map(|folder| folder.join(format!("{}.ptx", digest(key))));
        if let Some(program) = file.as_deref().and_then(read) {
            return Ok(program);
        }
        let program = compile()?;
        if let Some(file) = file {
            // Nothing is lost: see above.
            let _not_kept = write(&file, &program);
        }
        Ok(program)
    }
}

fn read(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let (checksum, program) = text.split_once('\n')?;
    (digest(program) == checksum).then(|| program.to_owned())
}

fn write(file: &Path, program: &str) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(file);
    std::fs::create_dir_all(folder)?;
    let staged = file.with_extension(format!("{}.part", std::process::id()));
    let mut out = std::fs::File::create(&staged)?;
    let written = write!(out, "{}\n{program}", digest(program)).and_then(|()| std::fs::rename(&staged, file));
    if written.is_err() {
        // The first error is the one that counts.
        let _gone = std::fs::remove_file(&staged);
    }
    written
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never() -> Result<String> {
        bail!("compiled although it was there")
    }

    #[test]
    fn a_program_is_compiled_once_and_anew_when_its_file_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(&folder.path().join("deep/er"));
        let program = "// PTX\n.version 8.0\n";
        assert!(cache.get("a", never).is_err());
        assert_eq!(cache.get("a", || Ok(program.to_owned())).unwrap(), program);
        assert_eq!(cache.get("a", never).unwrap(), program);
        assert_eq!(cache.get("b", || Ok("other".to_owned())).unwrap(), "other");
        let file = folder.path().join("deep/er").join(format!("{}.ptx", digest("a")));
        let whole = std::fs::read(&file).unwrap();
        for damaged in [&whole[..whole.len() - 3], b"", b"\xff\xfe", &whole[..64], b"no line"] {
            std::fs::write(&file, damaged).unwrap();
            assert_eq!(cache.get("a", || Ok(program.to_owned())).unwrap(), program);
            assert_eq!(std::fs::read(&file).unwrap(), whole);
        }
        let names = std::fs::read_dir(folder.path().join("deep/er")).unwrap().count();
        assert_eq!(names, 2, "files left behind");
    }

    #[test]
    fn a_folder_that_cannot_be_written_keeps_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let cache = Cache::at(&file);
        assert_eq!(cache.get("a", || Ok("x".to_owned())).unwrap(), "x");
        assert!(cache.get("a", never).is_err());
    }

    #[test]
    fn every_source_is_in_the_program() {
        let text = source(DType::BF16).unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert_eq!(text.contains(&format!("\"{name}\"")), name.ends_with(".cu"), "{name}");
        }
        for kernel in super::super::table::ALL {
            assert!(text.contains(&format!("KERNEL {}(", kernel.name)), "{kernel:?}");
        }
        assert!(!text.contains("#include"));
        assert!(source(DType::F64).is_err());
    }
}
