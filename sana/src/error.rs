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
    /// Anything else from the tensor library.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
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
