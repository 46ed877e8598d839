//! Arguments of `completions` and `man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// `completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "For bash: sanafarm completions bash > ~/.local/share/bash-completion/completions/sanafarm"
)]
pub struct CompletionsArgs {
    /// Whose completions
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder for one page a verb; it is made when it is not there
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}
