//! Records in the server's text form.

/// The fields of one, such as `(1,,"a ""b"" \\\\ c")`; none for a null.
pub(super) fn fields(record: &str) -> Vec<Option<String>> {
    let inner = record.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(record);
    let mut fields = vec![None];
    let mut quoted = false;
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && !quoted {
            fields.push(None);
            continue;
        }
        let Some(field) = fields.last_mut() else { return fields };
        let field = field.get_or_insert_with(String::new);
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            '\\' => field.extend(chars.next()),
            c => field.push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_that_went_in() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(fields("(1,,x)"), [some("1"), None, some("x")]);
        assert_eq!(fields(r#"("","a ""b"" \\ (c), d",)"#), [some(""), some(r#"a "b" \ (c), d"#), None]);
        assert_eq!(fields(r#"("(1,""x y"")","\\x01ff")"#), [some(r#"(1,"x y")"#), some(r"\x01ff")]);
        assert_eq!(fields("()"), [None]);
    }
}
