//! One image, with its JSON texts read once.

use serde_json::{Map, Value};

use crate::store::records::ManifestRow;

/// An image as both files tell it.
#[derive(Debug)]
pub(super) struct Line {
    pub row: ManifestRow,
    recipe: Option<Value>,
    extra: Map<String, Value>,
}

impl Line {
    pub fn read(row: ManifestRow) -> Self {
        let recipe = row.image.result.as_ref().and_then(|result| result.recipe.as_deref());
        // Both were checked to be JSON before they were stored.
        let recipe = recipe.and_then(|text| serde_json::from_str(text).ok());
        let extra = row.extra.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Self { row, recipe, extra }
    }

    /// A text of the recipe; none when the image failed or its worker did not say.
    pub fn recipe_text(&self, key: &str) -> Option<String> {
        Some(self.recipe.as_ref()?.get(key)?.as_str()?.to_owned())
    }

    /// A pass-through column as text. All rows give one type, whatever they held.
    pub fn extra_text(&self, column: &str) -> Option<String> {
        match self.extra.get(column)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Some(other.to_string())
            }
        }
    }
}

/// Names for the pass-through columns that none of `taken` has: a name that is taken gets the prefix `input_`, and one
/// that ImageFolder takes for a picture's path (`file_name`, `*_file_names`) the ending `_text`.
pub(super) fn free_names(columns: &[String], taken: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(columns.len());
    for column in columns {
        let is_path = ["file_name", "file_names"].iter().any(|word| {
            column.strip_suffix(word).is_some_and(|before| before.is_empty() || before.ends_with('_'))
        });
        let mut name = if is_path { format!("{column}_text") } else { column.clone() };
        // An unchanged column keeps its name, so a prefixed one must also avoid those further on.
        while taken.contains(&name.as_str())
            || names.contains(&name)
            || (name != *column && columns.contains(&name))
        {
            name.insert_str(0, "input_");
        }
        names.push(name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::free_names;

    #[test]
    fn taken_names_get_a_prefix_and_stay_different() {
        let columns = ["seed", "input_seed", "note"].map(str::to_owned);
        assert_eq!(free_names(&columns, &["seed"]), ["input_input_seed", "input_seed", "note"]);
    }

    #[test]
    fn no_column_is_taken_for_a_path() {
        let columns = ["file_name", "source_file_names", "profile_name", "file_name_text"].map(str::to_owned);
        assert_eq!(
            free_names(&columns, &["file_name"]),
            ["input_file_name_text", "source_file_names_text", "profile_name", "file_name_text"]
        );
    }
}
