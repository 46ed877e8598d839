//! Webhooks: where they may go, and when one is tried again.

use std::time::Duration;

use jiff::Timestamp;
use url::Url;

use super::Invalid;
use super::word::words;

/// A webhook that was never answered well is given up after this long.
pub const GIVE_UP: Duration = Duration::from_secs(24 * 3600);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

words! {
    /// What came of a job's webhook.
    WebhookState, "webhook state" {
        /// The job has not ended.
        Waiting = "waiting",
        /// It has, and nobody has answered well yet.
        Pending = "pending",
        /// Somebody has.
        Delivered = "delivered",
        /// It was given up.
        Failed = "failed",
    }
}

/// Reads the URL of a webhook.
pub fn parse(text: &str) -> Result<Url, Invalid> {
    let wrong = |why: &str| Invalid::job(format!("the webhook {why}; it looks like https://host/path"));
    let url = Url::parse(text).map_err(|error| wrong(&format!("is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("holds a user or a password: calls are signed instead"));
    }
    Ok(url)
}

/// A host that webhooks may go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHost {
    /// Whatever somebody names.
    Any,
    /// This one.
    Named {
        /// A name or an address.
        host: String,
        /// Of any port when none.
        port: Option<u16>,
    },
}

impl std::str::FromStr for AllowedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let wrong =
            || format!("{text:?} is no host; write a name such as hooks.example.org, host:port, or *");
        let url = Url::parse(&format!("http://{text}/")).map_err(|_| wrong())?;
        let host = url.host_str().ok_or_else(wrong)?;
        if url.path() != "/"
            || url.query().is_some()
            || url.fragment().is_some()
            || text.contains(['@', '/', '*'])
        {
            return Err(wrong());
        }
        // A URL forgets a port that is its scheme's own.
        let port = url.port().or_else(|| text.ends_with(":80").then_some(80));
        Ok(Self::Named { host: host.to_owned(), port })
    }
}

impl AllowedHost {
    /// Whether this URL goes there.
    pub fn allows(&self, url: &Url) -> bool {
        match self {
            Self::Any => true,
            Self::Named { .. } => self.names(url),
        }
    }

    /// Whether it is this URL's by name.
    pub fn names(&self, url: &Url) -> bool {
        match self {
            Self::Any => false,
            Self::Named { host, port } => {
                url.host_str() == Some(host)
                    && port.is_none_or(|port| url.port_or_known_default() == Some(port))
            }
        }
    }
}

/// How long to wait after so many tries that failed, before chance takes up to half of it off.
pub fn wait_after(attempts: u32) -> Duration {
    let doubled = 2_u32.checked_pow(attempts.saturating_sub(1));
    doubled.map_or(LONGEST_WAIT, |times| {
        (FIRST_WAIT * times.min(LONGEST_WAIT.as_secs() as u32)).min(LONGEST_WAIT)
    })
}

/// Whether there is no time left for a try at this moment.
pub fn is_too_late(since: Timestamp, at: Timestamp) -> bool {
    at.duration_since(since).unsigned_abs() > GIVE_UP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_goes_to_listed_hosts_only() {
        let allows =
            |host: &str, url: &str| host.parse::<AllowedHost>().unwrap().allows(&parse(url).unwrap());
        assert!(allows("Hooks.example.org", "https://hooks.EXAMPLE.org/a?b"));
        assert!(allows("hooks.example.org", "http://hooks.example.org:8080/"));
        assert!(allows("hooks.example.org:443", "https://hooks.example.org/"));
        assert!(allows("[::1]:80", "http://[::1]/"));
        assert!(!allows("hooks.example.org:80", "https://hooks.example.org/"));
        assert!(!allows("example.org", "https://hooks.example.org/"));
        assert!(!allows("example.org", "https://example.org.evil.net/"));
        assert!(!allows("127.0.0.1", "http://localhost/"));
        assert!(allows("*", "http://169.254.169.254/"));
        assert!(!"*".parse::<AllowedHost>().unwrap().names(&parse("http://a/").unwrap()));
        for wrong in ["", "a/b", "https://a", "user@a", "*.example.org", "a?b", "a:port"] {
            assert!(wrong.parse::<AllowedHost>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_webhook_is_a_plain_http_url() {
        for wrong in ["hooks", "ftp://a/b", "file:///etc/passwd", "https://u:p@a/", "https://u@a/", "http://"]
        {
            assert!(
                parse(wrong).unwrap_err().to_string().contains("it looks like https://host/path"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn waits_grow_to_an_hour_and_end_after_a_day() {
        let waits = [1, 2, 3, 12, 13, 40, u32::MAX].map(|attempts| wait_after(attempts).as_secs());
        assert_eq!(waits, [1, 2, 4, 2048, 3600, 3600, 3600]);
        let at = |text: &str| text.parse().unwrap();
        assert!(!is_too_late(at("2026-11-23T02:00:00Z"), at("2026-11-24T02:00:00Z")));
        assert!(is_too_late(at("2026-11-23T02:00:00Z"), at("2026-11-24T02:00:01Z")));
    }
}
