//! Environment variables that the program reads, besides the usual `NO_COLOR` and `RAYON_NUM_THREADS`, and those of the
//! settings (`config`).

/// Address of a coordinator, as `--coordinator`.
pub const COORDINATOR: &str = "SANAFARM_COORDINATOR";
/// The data folder, as `--data`.
pub const DATA: &str = "SANAFARM_DATA";
/// The configuration file, as `--config`.
pub const CONFIG: &str = "SANAFARM_CONFIG";
/// What is logged to standard error, such as `debug` or `warn,sanafarm_worker=info`.
pub const LOG: &str = "SANAFARM_LOG";

/// Token of the Hugging Face hub, for private and gated models.
pub const HUB_TOKEN: &str = "HF_TOKEN";
/// Address of a mirror of the Hugging Face hub.
pub const HUB_ENDPOINT: &str = "HF_ENDPOINT";

/// The value of a variable; `None` when it is unset or empty.
pub fn filled(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
