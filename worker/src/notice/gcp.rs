//! Google's notice of thirty seconds: the metadata value `preempted`, which a request can wait for.

use std::time::Duration;

use reqwest::{Client, Response};
use tokio::time::Instant;

use super::{ANSWER_LIMIT, Notice, ask};

const PREEMPTED: &str = "computeMetadata/v1/instance/preempted";
/// Proves that nobody was tricked into asking, and that it is Google who answers.
const FLAVOR: (&str, &str) = ("Metadata-Flavor", "Google");
/// How long a question may wait for a change, in seconds.
const WAIT_SECONDS: u64 = 60;
/// How long the machine lives after it.
const LEFT: Duration = Duration::from_secs(30);

/// Whether it is Google that answers there.
pub(super) async fn answers(client: &Client, endpoint: &str) -> bool {
    let asked = client.get(format!("{endpoint}/{PREEMPTED}")).header(FLAVOR.0, FLAVOR.1);
    let answer = asked.timeout(ANSWER_LIMIT).send().await;
    answer.is_ok_and(|answer| {
        answer.status().is_success()
            && answer.headers().get(FLAVOR.0).is_some_and(|flavor| flavor == FLAVOR.1)
    })
}

/// Waits for a notice.
pub(super) async fn notice(client: &Client, endpoint: &str) -> Notice {
    // As it was last; the first question does not wait.
    let known = tokio::sync::Mutex::new(None::<String>);
    ask("gcp", || async {
        let mut known = known.lock().await;
        let wait = known
            .take()
            .map(|tag| format!("?wait_for_change=true&timeout_sec={WAIT_SECONDS}&last_etag={tag}"));
        let limit = match wait {
            Some(_) => ANSWER_LIMIT + Duration::from_secs(WAIT_SECONDS),
            None => ANSWER_LIMIT,
        };
        let url = format!("{endpoint}/{PREEMPTED}{}", wait.unwrap_or_default());
        let request = client.get(url).header(FLAVOR.0, FLAVOR.1).timeout(limit);
        let answer = request.send().await.and_then(Response::error_for_status)?;
        let tag = answer.headers().get("ETag").and_then(|tag| tag.to_str().ok());
        // It goes into a URL.
        let plain = |tag: &&str| tag.bytes().all(|byte| byte.is_ascii_alphanumeric());
        *known = tag.filter(plain).map(str::to_owned);
        let is_preempted = answer.text().await?.trim() == "TRUE";
        let why = "spot notice: preempted".to_owned();
        Ok(is_preempted.then(|| Notice { deadline: Some(Instant::now() + LEFT), why }))
    })
    .await
}
