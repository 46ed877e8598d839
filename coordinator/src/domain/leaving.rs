//! How a worker is asked to leave.

use super::word::words;

words! {
    /// How much time it has. The later the more urgent.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    Drain, "drain" {
        /// Until its image in hand is finished.
        Soon = "soon",
        /// Until its next denoising step.
        Now = "now",
    }
}
