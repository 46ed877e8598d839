//! Values as people may see them.

use url::Url;

use super::keys::Setting;

/// Stands where a secret was.
pub const REDACTED: &str = "REDACTED";

/// A value without what nobody may read: passwords in URLs, and all of it where the setting is a secret.
pub fn shown(setting: &Setting, value: &str) -> String {
    if setting.is_secret() && !value.is_empty() {
        return REDACTED.to_owned();
    }
    without_passwords(value)
}

/// Whether a value was written by [`shown`] and has lost something.
pub fn is_redacted(value: &str) -> bool {
    value == REDACTED
        || value.contains(&format!(":{REDACTED}@"))
        || value.contains(&format!("={REDACTED}"))
        || value.contains(&format!("//{REDACTED}@"))
}

/// A URL without its password and the values of its query; anything else as it is.
fn without_passwords(value: &str) -> String {
    if !value.contains("://") {
        return value.to_owned();
    }
    let Ok(mut url) = Url::parse(value) else { return without_authority(value) };
    let hidden_host = url.password().is_some() && url.set_password(Some(REDACTED)).is_err();
    if hidden_host {
        return without_authority(value);
    }
    // `?sslmode=require` is no secret, but `?password=` is one, and signatures stand there.
    let harmless = ["sslmode", "application_name", "host", "port", "dbname", "protocol"];
    let pairs: Vec<_> = url.query_pairs().into_owned().collect();
    if pairs.iter().any(|(name, _)| !harmless.contains(&name.as_str())) {
        let told = pairs.iter().map(|(name, value)| {
            let value = if harmless.contains(&name.as_str()) { value.as_str() } else { REDACTED };
            (name.as_str(), value)
        });
        let told: Vec<_> = told.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        url.query_pairs_mut().clear().extend_pairs(told);
    }
    // A URL that loses nothing stays as it was written.
    if is_redacted(url.as_str()) { url.into() } else { value.to_owned() }
}

/// For what is no URL although it looks like one: nothing is left between the scheme and the last @.
fn without_authority(value: &str) -> String {
    match (value.split_once("://"), value.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{REDACTED}@{rest}"),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_and_the_rest_stays() {
        for (value, told) in [
            ("postgres://farm:planted@db:5432/sanafarm", "postgres://farm:REDACTED@db:5432/sanafarm"),
            ("postgres://farm@db/sanafarm?sslmode=require", "postgres://farm@db/sanafarm?sslmode=require"),
            (
                "postgres://farm@db/x?sslmode=require&password=planted",
                "postgres://farm@db/x?sslmode=require&password=REDACTED",
            ),
            ("redis://:planted@cache:6379", "redis://:REDACTED@cache:6379"),
            ("redis://cache:6379", "redis://cache:6379"),
            ("postgres://farm:pla/nted@db:no/x", "postgres://REDACTED@db:no/x"),
            ("127.0.0.1:7070", "127.0.0.1:7070"),
        ] {
            assert_eq!(without_passwords(value), told);
            assert_eq!(is_redacted(told), value != told, "{told}");
        }
    }
}
