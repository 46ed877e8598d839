//! Words as they are shown, and as a shell reads them.

/// A word for a shell.
pub fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:=@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// So many letters of a text, the last of them a mark where there is more.
pub fn shortened(text: &str, letters: usize) -> String {
    match text.char_indices().nth(letters) {
        None => text.to_owned(),
        Some(_) => text.chars().take(letters.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_when_they_need_it() {
        assert_eq!(quoted("target/release/sanafarm"), "target/release/sanafarm");
        assert_eq!(quoted("my data"), "'my data'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn a_long_text_is_cut_and_shows_it() {
        assert_eq!([shortened("blüte", 5), shortened("blüten", 5)], ["blüte", "blüt…"]);
    }
}
