//! Whether a picture was made from what the history says.

use std::collections::BTreeSet;

use sanafarm_proto::v1::Image;
use sanafarm_worker::picture::Provenance;
use serde_json::{Map, Value, json};

use crate::job_view::settings_json;

/// Names of the fields in which the recipe in a picture differs from the image in the history and from the recipe there.
pub fn differences(carried: &Provenance, image: &Image) -> Vec<String> {
    json_differences(&serde_json::to_value(carried).unwrap_or_default(), image)
}

/// The same of a recipe as JSON.
pub fn json_differences(carried: &Value, image: &Image) -> Vec<String> {
    let none = Map::new();
    let carried = carried.as_object().unwrap_or(&none);
    let mut different = differing(&row(image), carried);
    if !image.recipe.is_empty() {
        let reported: Value = serde_json::from_str(&image.recipe).unwrap_or_default();
        let reported = reported.as_object().unwrap_or(&none);
        different.extend(differing(reported, carried));
        different.extend(differing(carried, reported));
    }
    different.into_iter().collect()
}

/// What the image itself says about its recipe.
fn row(image: &Image) -> Map<String, Value> {
    let settings = image.settings.as_ref().map_or(Value::Null, settings_json);
    let mut row = settings.as_object().cloned().unwrap_or_default();
    row.insert("prompt".to_owned(), json!(image.prompt));
    row.insert("negative_prompt".to_owned(), json!(image.negative_prompt));
    row.insert("seed".to_owned(), json!(image.seed));
    row
}

/// Fields that the other has not, or has otherwise.
fn differing(one: &Map<String, Value>, other: &Map<String, Value>) -> BTreeSet<String> {
    one.iter()
        .filter(|(name, value)| other.get(*name) != Some(*value))
        .map(|(name, _)| name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sanafarm_proto::v1::{BinMode, DecodeMode, Settings};

    #[test]
    fn the_fields_that_differ_are_named() {
        let settings = Settings {
            width: 64,
            height: 64,
            steps: 2,
            guidance: 4.5,
            bin: BinMode::Auto.into(),
            decode: DecodeMode::Exact.into(),
        };
        let mut image =
            Image { prompt: "a".to_owned(), seed: 7, settings: Some(settings), ..Image::default() };
        let mut carried = json!({
            "prompt": "a", "negative_prompt": "", "seed": 7, "width": 64, "height": 64, "steps": 2,
            "guidance": 4.5, "bin": "auto", "decode": "exact", "dtype": "f32",
        });
        assert!(json_differences(&carried, &image).is_empty());
        image.recipe = carried.to_string();
        assert!(json_differences(&carried, &image).is_empty());
        (carried["seed"], carried["dtype"]) = (json!(8), json!("bf16"));
        assert_eq!(json_differences(&carried, &image), ["dtype", "seed"]);
        image.recipe = "no JSON".to_owned();
        assert!(json_differences(&carried, &image).contains(&"steps".to_owned()));
    }
}
