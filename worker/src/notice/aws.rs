//! Amazon's notice of two minutes: instance metadata, version 2, `spot/instance-action`.

use jiff::Timestamp;
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::{ANSWER_LIMIT, Notice, ask};

const TOKEN: &str = "latest/api/token";
const ACTION: &str = "latest/meta-data/spot/instance-action";
/// How long a token is asked for, in seconds: six hours, the longest.
const TOKEN_SECONDS: &str = "21600";

/// What will be done to the machine.
#[derive(Debug, Deserialize)]
struct Action {
    action: String,
    time: String,
}

/// Whether it is Amazon that answers there.
pub(super) async fn answers(client: &Client, endpoint: &str) -> bool {
    token(client, endpoint).await.is_ok()
}

/// Waits for a notice.
pub(super) async fn notice(client: &Client, endpoint: &str) -> Notice {
    let held = tokio::sync::Mutex::new(None::<String>);
    ask("aws", || async {
        let mut held = held.lock().await;
        let token = match held.take() {
            Some(token) => token,
            None => token(client, endpoint).await?,
        };
        let request = client.get(format!("{endpoint}/{ACTION}")).header("X-aws-ec2-metadata-token", &token);
        let answer = request.timeout(ANSWER_LIMIT).send().await?;
        match answer.status() {
            // The token is too old.
            StatusCode::UNAUTHORIZED => return Ok(None),
            StatusCode::NOT_FOUND => {
                *held = Some(token);
                return Ok(None);
            }
            _ => *held = Some(token),
        }
        let Action { action, time } = answer.error_for_status()?.json().await?;
        Ok(Some(Notice { deadline: from_now(&time), why: format!("spot notice: {action} at {time}") }))
    })
    .await
}

async fn token(client: &Client, endpoint: &str) -> Result<String, reqwest::Error> {
    let request = client
        .put(format!("{endpoint}/{TOKEN}"))
        .header("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS)
        .timeout(ANSWER_LIMIT);
    request.send().await.and_then(Response::error_for_status)?.text().await
}

/// A time of the clock as one of this process.
fn from_now(time: &str) -> Option<Instant> {
    let time: Timestamp = time.parse().ok()?;
    let left = time.duration_since(Timestamp::now());
    Some(Instant::now() + left.try_into().unwrap_or_default())
}
