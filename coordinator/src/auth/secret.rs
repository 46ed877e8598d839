//! The text of a token: `sf_ID_SECRET`. The id is no secret; of the secret only its hash is kept.

use sha2::{Digest, Sha256};

/// What every token begins with, so that scanners find one that lies about.
const PREFIX: &str = "sf";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

/// The hash of a secret.
pub(crate) type Hash = [u8; 32];

/// The system has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("get random bytes from the system: {0}")]
pub(crate) struct NoRandomness(getrandom::Error);

/// A new id.
pub(crate) fn new_id() -> Result<String, NoRandomness> {
    random::<ID_BYTES>()
}

/// A new secret with its hash.
pub(crate) fn new_secret() -> Result<(String, Hash), NoRandomness> {
    let secret = random::<SECRET_BYTES>()?;
    let hash = hash(&secret);
    Ok((secret, hash))
}

/// The text of a token.
pub(crate) fn text(id: &str, secret: &str) -> String {
    format!("{PREFIX}_{id}_{secret}")
}

/// The id in the text of a token, and the hash of its secret; none for a text that is no token.
pub(super) fn read(text: &str) -> Option<(&str, Hash)> {
    let mut parts = text.split('_');
    let (prefix, id, secret, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
    let hex =
        |text: &str, bytes| text.len() == 2 * bytes && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (prefix == PREFIX && rest.is_none() && hex(id, ID_BYTES) && hex(secret, SECRET_BYTES))
        .then(|| (id, hash(secret)))
}

// The secret is as random as the hash is long: it needs no salt and no slow function.
fn hash(secret: &str) -> Hash {
    Sha256::digest(secret.as_bytes()).into()
}

fn random<const BYTES: usize>() -> Result<String, NoRandomness> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let (id, (secret, hash)) = (new_id().unwrap(), new_secret().unwrap());
        let token = text(&id, &secret);
        assert_eq!(read(&token), Some((id.as_str(), hash)));
        for wrong in [
            "",
            "sf__",
            &token[1..],
            &token[..token.len() - 1],
            &format!("{token}0"),
            &format!("{token}_"),
            &token.replace("sf_", "gh_"),
            &format!("sf_{}_{}", "x".repeat(12), "0".repeat(64)),
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn no_two_are_alike() {
        assert_ne!(new_secret().unwrap(), new_secret().unwrap());
        assert_ne!(new_id().unwrap(), new_id().unwrap());
    }
}
