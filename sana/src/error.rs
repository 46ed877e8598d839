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
    /// A latent is not finite, or the picture has one colour.
    #[error("{0}")]
    Numeric(String),
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
const SHOWN: usize = 200;

/// The value, cut when it is long.
pub(crate) fn short(value: impl std::fmt::Display) -> String {
    let mut text = value.to_string();
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}
