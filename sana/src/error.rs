//! What can go wrong.

/// Why a model could not be loaded or a picture not be rendered. Every text names the file, the tensor or
/// the setting and says what to try.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the model is missing, broken or not of a Sana model.
    #[error("{0}")]
    Model(String),
    /// The prompt cannot be rendered.
    #[error("{0}")]
    Prompt(String),
    /// The size cannot be rendered.
    #[error("{0}")]
    Size(String),
    /// Another setting is out of its range.
    #[error("{0}")]
    Setting(String),
    /// The decoded picture is not finite, or has one colour.
    #[error("{0}")]
    Numeric(String),
    /// Values before the decoder became infinite or no numbers.
    #[error(
        "the values of {group} are not finite{}; the weights may be broken, or of a type that they do not run in",
        in_step(.step)
    )]
    NotFinite {
        /// The denoising step, from 1, and the number of steps; none in the text encoder.
        step: Option<(u32, u32)>,
        /// The first module whose result is not finite, as checkpoints name it, such as
        /// `transformer_blocks.7.attn1`; `scheduler` when it is the step itself.
        group: String,
    },
    /// The device is out of memory.
    #[error("{0}")]
    OutOfMemory(String),
    /// Told to stop.
    #[error("cancelled")]
    Cancelled,
    /// Whoever takes the rows could not.
    #[error("write picture rows: {0}")]
    Sink(#[source] std::io::Error),
    /// The device refuses to work, for another reason than its memory. It may be broken.
    #[error("the device fails: {0}")]
    Device(String),
    /// Anything else from the tensor library.
    #[error("{0}")]
    Tensor(candle_core::Error),
}

/// What the CUDA libraries call it when memory is short.
const OUT_OF_MEMORY: [&str; 2] = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"];
/// How the names of all their errors begin.
const DEVICE: [&str; 2] = ["CUDA_ERROR_", "CUBLAS_STATUS_"];

impl From<candle_core::Error> for Error {
    /// Told apart by their names in the text: the types are there in a build with CUDA only, and wrapped in many ways.
    fn from(error: candle_core::Error) -> Self {
        let text = error.to_string();
        let names = |names: [&str; 2]| names.iter().any(|name| text.contains(name));
        if names(OUT_OF_MEMORY) {
            Self::OutOfMemory(format!("the device is out of memory: {text}"))
        } else if names(DEVICE) {
            Self::Device(text)
        } else {
            Self::Tensor(error)
        }
    }
}

impl Error {
    /// The same for another picture that it concerns.
    pub(crate) fn repeat(&self) -> Self {
        match self {
            Self::Model(text) => Self::Model(text.clone()),
            Self::Prompt(text) => Self::Prompt(text.clone()),
            Self::Size(text) => Self::Size(text.clone()),
            Self::Setting(text) => Self::Setting(text.clone()),
            Self::Numeric(text) => Self::Numeric(text.clone()),
            Self::NotFinite { step, group } => Self::NotFinite { step: *step, group: group.clone() },
            Self::OutOfMemory(text) => Self::OutOfMemory(text.clone()),
            Self::Cancelled => Self::Cancelled,
            Self::Sink(error) => Self::Sink(std::io::Error::new(error.kind(), error.to_string())),
            Self::Device(text) => Self::Device(text.clone()),
            Self::Tensor(error) => Self::Tensor(candle_core::Error::Msg(error.to_string())),
        }
    }
}

/// What a text of an error may take of a value from a file, which can be of any length.
const SHOWN: usize = 300;

/// The value, cut when it is long.
pub(crate) fn short(value: impl std::fmt::Display) -> String {
    let mut text = value.to_string();
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

fn in_step(step: &Option<(u32, u32)>) -> String {
    step.map_or_else(String::new, |(step, steps)| format!(" in step {step} of {steps}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_device_are_told_apart() {
        let error = |text: &str| Error::from(candle_core::Error::Cuda(text.into()).context("while testing"));
        let memory = r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#;
        assert!(matches!(error(memory), Error::OutOfMemory(text) if text.contains("while testing")));
        assert!(matches!(error("CublasError(CUBLAS_STATUS_ALLOC_FAILED)"), Error::OutOfMemory(_)));
        let broken = r#"DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")"#;
        assert!(matches!(error(broken), Error::Device(text) if text.contains("illegal memory access")));
        let ours = Error::from(candle_core::Error::Msg("a tensor does not fit".into()));
        assert!(matches!(ours, Error::Tensor(_)));
    }
}
