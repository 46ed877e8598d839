//! Notices of whoever else knows: a file that appears, a command that says yes.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::{Notice, PAUSE};

/// Between two looks for a file.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long a command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Waits until there is a file of this name.
pub(super) async fn file(path: PathBuf) -> Notice {
    while !tokio::fs::try_exists(&path).await.unwrap_or(false) {
        sleep(LOOK_PAUSE).await;
    }
    Notice { deadline: None, why: format!("the file {} is there", path.display()) }
}

/// Waits until this command ends with 0.
pub(super) async fn command(line: String) -> Notice {
    let mut failing = false;
    loop {
        let mut command = Command::new("sh");
        command.arg("-c").arg(&line).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        match timeout(COMMAND_LIMIT, command.status()).await {
            Ok(Ok(status)) if status.success() => {
                return Notice { deadline: None, why: "the drain command says so".to_owned() };
            }
            Ok(Ok(_)) => failing = false,
            Ok(Err(error)) if !failing => {
                tracing::warn!(%error, line, "the drain command cannot be run: trying again");
                failing = true;
            }
            Err(_) if !failing => {
                tracing::warn!(line, "the drain command takes too long: trying again");
                failing = true;
            }
            Ok(Err(_)) | Err(_) => {}
        }
        sleep(PAUSE).await;
    }
}
