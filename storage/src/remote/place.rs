//! Places as people may read them.

use url::Url;

/// Longest error of a server that is told, in characters.
const MAX_ERROR: usize = 500;

/// The URL as it may be shown, and the part of it that may not.
pub(crate) fn for_people(mut url: Url) -> (String, Option<String>) {
    let secret = url.query().map(str::to_owned);
    url.set_query(None);
    // Refused only by URLs that cannot have a password.
    let _ = url.set_password(None);
    (url.to_string(), secret)
}

/// On one line, as servers answer in documents, and without secrets: queries may be signatures.
pub(crate) fn hide(text: &str, secret: Option<&str>) -> String {
    let text = match secret {
        Some(secret) if !secret.is_empty() => text.replace(secret, "..."),
        Some(_) | None => text.to_owned(),
    };
    let words = text.split_whitespace().map(|word| match word.split_once('?') {
        Some((before, query)) if before.contains("://") && !query.is_empty() => format!("{before}?..."),
        Some(_) | None => word.to_owned(),
    });
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_ERROR) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_line_without_signatures() {
        let said = "PUT http://host/a?X-Amz-Signature=abc failed:\n  token=xyz\tis wrong? yes";
        assert_eq!(hide(said, Some("token=xyz")), "PUT http://host/a?... failed: ... is wrong? yes");
        assert_eq!(hide(&"long ".repeat(200), None).len(), MAX_ERROR + 3);
    }
}
