//! Signatures after the Standard Webhooks scheme: receivers check them with the scheme's libraries.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// Bytes that a secret may have.
const LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// What a receiver knows calls of this farm by.
#[derive(Clone)]
pub struct WebhookSecret(Hmac<Sha256>);

/// Nothing of it.
impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}

impl FromStr for WebhookSecret {
    type Err = String;

    /// The error tells nothing of the text.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "a webhook secret is whsec_ and 24 to 64 bytes in base64: make one with \
             `echo whsec_$(openssl rand -base64 32)`"
                .to_owned()
        };
        let key = text.trim().strip_prefix(PREFIX).and_then(|key| STANDARD.decode(key).ok());
        let key = key.filter(|key| LENGTH.contains(&key.len())).ok_or_else(wrong)?;
        Hmac::new_from_slice(&key).map(Self).map_err(|_| wrong())
    }
}

impl WebhookSecret {
    /// One signature of a call.
    pub(super) fn sign(&self, id: &str, seconds: i64, body: &str) -> String {
        let mut mac = self.0.clone();
        for part in [id, ".", &seconds.to_string(), ".", body] {
            mac.update(part.as_bytes());
        }
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_signed_as_the_scheme_says() {
        // The example of the scheme's specification.
        let secret: WebhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(format!("{secret:?}"), "WebhookSecret(..)");
    }

    #[test]
    fn a_wrong_secret_is_refused_without_telling_it() {
        for wrong in ["", "hush", "whsec_", "whsec_aHVzaA==", "whsec_not base64 not base64 not base64 nope"] {
            let error = wrong.parse::<WebhookSecret>().unwrap_err();
            assert!(
                error.contains("openssl rand") && (wrong.is_empty() || !error.contains("hush")),
                "{error}"
            );
        }
    }
}
