//! Notices that the machine will be taken away: of the cloud that lends it, of a file, of a command. Each of them makes the
//! worker leave.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use sanafarm_storage::choose_tls;
use tokio::time::{Instant, sleep};

use crate::leave::Leave;

mod aws;
mod gcp;
mod hooks;

/// Where clouds answer machines about themselves.
const METADATA: &str = "http://169.254.169.254";
/// How long one of its answers may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Between two questions; clouds ask for about this.
const PAUSE: Duration = Duration::from_secs(5);

/// What a worker listens for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// Whose machine it is.
    pub spot: Spot,
    /// Where that cloud answers, when not at the usual address.
    pub spot_endpoint: Option<String>,
    /// A file whose appearance makes the worker leave.
    pub file: Option<PathBuf>,
    /// A command for the shell that ends with 0 when the worker is to leave; run every few seconds.
    pub command: Option<String>,
}

/// A cloud that takes its machines back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spot {
    /// None: nobody is asked.
    #[default]
    None,
    /// Amazon's.
    Aws,
    /// Google's.
    Gcp,
    /// Whichever answers at the start.
    Auto,
}

/// The machine will be taken away.
#[derive(Clone, Debug, PartialEq)]
struct Notice {
    deadline: Option<Instant>,
    why: String,
}

/// Listens until it is dropped, to each until its notice: a cloud's is heard by a worker that leaves already, for only the
/// cloud says when the machine is gone.
pub(crate) async fn listen(notices: Notices, leave: Arc<Leave>) {
    let Notices { spot, spot_endpoint, file, command } = notices;
    let cloud = async {
        if spot != Spot::None {
            heed(cloud(spot, spot_endpoint).await, &leave);
        }
    };
    let file = async {
        if let Some(file) = file {
            heed(hooks::file(file).await, &leave);
        }
    };
    let command = async {
        if let Some(command) = command {
            heed(hooks::command(command).await, &leave);
        }
    };
    tokio::join!(cloud, file, command);
}

fn heed(notice: Notice, leave: &Leave) {
    tracing::warn!(why = notice.why, "this machine will be taken away");
    match notice.deadline {
        Some(deadline) => leave.by(deadline, &notice.why),
        None => leave.soon(&notice.why),
    }
}

async fn cloud(spot: Spot, endpoint: Option<String>) -> Notice {
    let endpoint = endpoint.unwrap_or_else(|| METADATA.to_owned());
    let endpoint = endpoint.trim_end_matches('/');
    let client = match client() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "no notice of the cloud will be heard");
            return std::future::pending().await;
        }
    };
    match spot {
        Spot::Aws => aws::notice(&client, endpoint).await,
        Spot::Gcp => gcp::notice(&client, endpoint).await,
        Spot::None | Spot::Auto => {
            if gcp::answers(&client, endpoint).await {
                gcp::notice(&client, endpoint).await
            } else if aws::answers(&client, endpoint).await {
                aws::notice(&client, endpoint).await
            } else {
                tracing::info!(endpoint, "no cloud answers there: no notice will be heard");
                std::future::pending().await
            }
        }
    }
}

fn client() -> reqwest::Result<Client> {
    // Plain HTTP needs none, but the client does.
    choose_tls();
    // The cloud is next door, whatever proxy leads to the world.
    Client::builder().no_proxy().connect_timeout(ANSWER_LIMIT).build()
}

/// Asks again and again until there is a notice. Errors pass: a notice is never made of one.
async fn ask<F>(name: &str, mut question: impl FnMut() -> F) -> Notice
where
    F: Future<Output = Result<Option<Notice>, reqwest::Error>>,
{
    let mut failing = false;
    loop {
        match question().await {
            Ok(Some(notice)) => return notice,
            Ok(None) => failing = false,
            Err(error) if failing => tracing::debug!(%error, name, "no answer about notices"),
            Err(error) => {
                tracing::warn!(%error, name, "no answer about notices: asking again");
                failing = true;
            }
        }
        sleep(PAUSE).await;
    }
}
