//! One call of a webhook.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, header};
use url::Url;

use super::Webhooks;
use crate::domain::webhook;
use crate::store::records::Delivery;

/// How long a receiver may take for its whole answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of an answer that is not good, for people.
const EXCERPT: usize = 200;

/// Why a receiver did not take a call.
#[derive(Debug)]
pub(super) struct Refused {
    /// For people.
    pub error: String,
    /// It wants no other one.
    pub gone: bool,
}

impl Refused {
    fn because(error: impl Into<String>) -> Self {
        Self { error: error.into(), gone: false }
    }
}

/// Follows no redirects: they may lead to hosts that are not allowed.
pub(super) fn client() -> reqwest::Result<Client> {
    sanafarm_storage::choose_tls();
    let agent = concat!("sanafarm/", env!("CARGO_PKG_VERSION"));
    Client::builder().user_agent(agent).redirect(Policy::none()).timeout(TIMEOUT).build()
}

/// Calls once.
pub(super) async fn call(
    client: &Client,
    webhooks: &Webhooks,
    delivery: &Delivery,
    now: Timestamp,
) -> Result<(), Refused> {
    let url = webhook::parse(&delivery.url).map_err(|invalid| Refused::because(invalid.to_string()))?;
    webhooks.check(&url).map_err(Refused::because)?;
    let seconds = now.as_second();
    let sent = client
        .post(url.clone())
        .header(header::CONTENT_TYPE, "application/json")
        .header("webhook-id", &delivery.id)
        .header("webhook-timestamp", seconds)
        .header("webhook-signature", webhooks.sign(&delivery.id, seconds, &delivery.body))
        .body(delivery.body.clone())
        .send()
        .await;
    let answer = sent.map_err(|error| Refused::because(told(&error)))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let mut error = status.to_string();
    if status.is_redirection() {
        error.push_str(": redirects are not followed");
    } else if webhooks.names(&url) {
        // Of a host that nobody listed by name, nobody is told what it says.
        let text = excerpt(answer).await;
        if !text.is_empty() {
            error.push_str(": ");
            error.push_str(&text);
        }
    }
    Err(Refused { error, gone: status == StatusCode::GONE })
}

/// The deepest cause, without the address: there may be a token in it.
fn told(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} seconds", TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    if std::ptr::addr_eq(cause, error) { "the call failed".to_owned() } else { cause.to_string() }
}

/// How an answer begins, on one line.
async fn excerpt(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < EXCERPT
        && let Ok(Some(more)) = answer.chunk().await
    {
        bytes.extend_from_slice(&more);
    }
    bytes.truncate(EXCERPT);
    let text = String::from_utf8_lossy(&bytes);
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

impl Webhooks {
    /// Why a webhook may not go there.
    pub(crate) fn check(&self, url: &Url) -> Result<(), String> {
        if self.hosts.iter().any(|host| host.allows(url)) {
            return Ok(());
        }
        let host = url.host_str().unwrap_or_default();
        Err(format!(
            "webhooks may not go to {host}; ask the operator to add it to --webhook-hosts of the coordinator"
        ))
    }

    /// Whether its host is listed by name.
    fn names(&self, url: &Url) -> bool {
        self.hosts.iter().any(|host| host.names(url))
    }

    /// The signatures of a call: one for each secret.
    fn sign(&self, id: &str, seconds: i64, body: &str) -> String {
        self.secrets.iter().map(|secret| secret.sign(id, seconds, body)).collect::<Vec<_>>().join(" ")
    }
}
