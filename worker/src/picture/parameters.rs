//! The text about a picture that galleries show.

use crate::recipe::Provenance;

/// The text that Automatic1111 writes: prompt, negative prompt, one line of settings. Zero bytes, which end a
/// text for many readers, become spaces: the recipe has them as they are.
pub(super) fn parameters(provenance: &Provenance) -> String {
    let clean = |text: &str| text.replace('\0', " ");
    let mut text = clean(&provenance.prompt);
    if !provenance.negative_prompt.is_empty() {
        text.push_str("\nNegative prompt: ");
        text.push_str(&clean(&provenance.negative_prompt));
    }
    let sampler = match provenance.scheduler.as_str() {
        "flow-dpm-solver++" => "DPM++ 2M Flow",
        "flow-euler" => "Euler Flow",
        "scm" => "SCM",
        other => other,
    };
    let hash: String = provenance.weights_sha256.chars().take(10).collect();
    text.push_str(&format!(
        "\nSteps: {}, Sampler: {sampler}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}, Model hash: {hash}, \
         Version: {} {}",
        provenance.steps,
        provenance.guidance,
        provenance.seed,
        provenance.width,
        provenance.height,
        clean(&provenance.model),
        provenance.program,
        provenance.version,
    ));
    text
}
