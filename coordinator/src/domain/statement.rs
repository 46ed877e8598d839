//! Which SQL an analyst may run: one statement that begins like a question.
//!
//! This is the first of two fences. The second is the database itself, whose connection is read-only.

/// Why a statement is not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is nothing but white space and comments.
    #[error("the statement is empty")]
    Empty,
    /// Something follows the first `;`.
    #[error("only one statement can be run at a time; remove what follows the first ;")]
    Several,
    /// It does not begin like a question.
    #[error("only select, with, values and explain can be run here, not {0:?}")]
    NoQuestion(String),
}

/// What a statement asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Rows.
    Rows,
    /// How the database would go about it.
    Plan,
}

/// What `sql` asks for, if it is exactly one statement that begins with `select`, `with`, `values` or `explain`.
pub fn check_statement(sql: &str) -> Result<Question, Refused> {
    let mut first = String::new();
    let mut first_ended = false;
    let mut ended = false;
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let length = token_length(rest, c);
        let (token, after) = rest.split_at(length);
        rest = after;
        let is_comment = token.starts_with("--") || token.starts_with("/*");
        if is_comment || c.is_whitespace() {
            first_ended |= !first.is_empty();
            continue;
        }
        if c == ';' {
            ended = !first.is_empty();
            continue;
        }
        if ended {
            return Err(Refused::Several);
        }
        if !first_ended && (c.is_alphanumeric() || c == '_' || first.is_empty()) {
            first.push_str(token);
            first_ended = !(c.is_alphanumeric() || c == '_');
        } else {
            first_ended = true;
        }
    }
    match first.to_lowercase().as_str() {
        "" => Err(Refused::Empty),
        "select" | "with" | "values" => Ok(Question::Rows),
        "explain" => Ok(Question::Plan),
        _ => Err(Refused::NoQuestion(first)),
    }
}

/// Bytes of the comment, quoted text or single character at the start of `rest`.
fn token_length(rest: &str, c: char) -> usize {
    let until =
        |from: usize, end: &str| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    match c {
        '-' if rest.starts_with("--") => until(2, "\n"),
        '/' if rest.starts_with("/*") => until(2, "*/"),
        // A doubled quote inside reads as two texts in a row, which is just as well here.
        '\'' => until(1, "'"),
        '"' => until(1, "\""),
        '`' => until(1, "`"),
        '[' => until(1, "]"),
        _ => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_question_is_let_through() {
        for sql in [
            "select 1",
            " SELECT ';' ; ",
            "-- why; not\nwith x as (select 1) select * from x;",
            "/* ; */ values (1);;",
            "select \"a;b\", [c;d] from t -- ; end",
            "select 'it''s; fine'",
            "select(1)",
        ] {
            assert_eq!(check_statement(sql), Ok(Question::Rows), "{sql}");
        }
        assert_eq!(check_statement("explain query plan select 1"), Ok(Question::Plan));
    }

    #[test]
    fn everything_else_is_refused() {
        assert_eq!(check_statement(" -- nothing"), Err(Refused::Empty));
        assert_eq!(check_statement(";"), Err(Refused::Empty));
        assert_eq!(check_statement("select 1; select 2"), Err(Refused::Several));
        assert_eq!(check_statement("select 1;delete from jobs"), Err(Refused::Several));
        for sql in
            ["attach 'x' as y", "pragma journal_mode=delete", "delete from jobs", "selectx", "'select'"]
        {
            assert!(matches!(check_statement(sql), Err(Refused::NoQuestion(_))), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(sql in ".{0,80}") {
            let _ = check_statement(&sql);
        }
    }
}
