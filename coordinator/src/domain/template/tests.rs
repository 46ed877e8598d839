//! Names from templates.

use super::*;
use proptest::prelude::*;

fn columns() -> Map<String, Value> {
    let Value::Object(columns) = serde_json::json!({
        "kind": "big cat", "year": 1999, "none": null, "list": [1], "path": "../../x/.y"
    }) else {
        unreachable!("written as an object")
    };
    columns
}

fn name_in(form: &Form, template: &str, id: Option<&str>) -> Result<String, Invalid> {
    let columns = columns();
    let image = Named { index: 7, seed: 42, job: "My job/1", id, prompt: "a cat", columns: &columns };
    Template::parse(template, form)?.name(&image)
}

fn files() -> Form {
    Form::default()
}

fn tars() -> Form {
    Form { layout: Layout::Webdataset, ..Form::default() }
}

/// Of an image with nothing but an index, a seed and an id.
fn plain(template: &Template, index: u64, seed: u64, job: &str, id: &str) -> Result<String, Invalid> {
    template.name(&Named { index, seed, job, id: Some(id), prompt: "", columns: &Map::new() })
}

#[test]
fn fills_in_its_placeholders() {
    let name = |t: &str| name_in(&files(), t, Some("a b/../c")).unwrap();
    assert_eq!(name(""), "00000007-42.png");
    assert_eq!(name("{job}/{index}.png"), "My_job_1/7.png");
    assert_eq!(name("x/{id}-{seed:04}.png"), "x/a_b_.._c-0042.png");
    assert_eq!(name("{prompt_hash}"), "51e4674156077982.png");
    assert_eq!(name("{kind}/{year}-{index}"), "big_cat/1999-7.png");
    assert_eq!(name("{path}/{index}"), "_.._x_.y/7.png");
}

#[test]
fn a_name_ends_in_the_extension_of_its_format() {
    let form = |format| Form { format, ..Form::default() };
    let name = |format, template| name_in(&form(format), template, Some("a.jpg"));
    assert_eq!(name(ImageFormat::Jpeg, "").unwrap(), "00000007-42.jpg");
    assert_eq!(name(ImageFormat::Jpeg, "{index}.JPEG").unwrap(), "7.JPEG");
    assert_eq!(name(ImageFormat::WebpLossless, "{index}.v2").unwrap(), "7.v2.webp");
    assert_eq!(name(ImageFormat::Png, "{id}").unwrap(), "a.jpg.png");
    let wrong = name(ImageFormat::Jpeg, "{index}.png").unwrap_err().to_string();
    assert!(wrong.contains("ends in .png, but format jpeg has .jpg"), "{wrong}");
}

#[test]
fn the_name_of_a_sample_has_one_dot_and_no_folder() {
    assert_eq!(name_in(&tars(), "", None).unwrap(), "00000007.png");
    let jpegs = Form { format: ImageFormat::Jpeg, ..tars() };
    assert_eq!(name_in(&jpegs, "{index}.JPEG", None).unwrap(), "7.jpg");
    assert_eq!(name_in(&tars(), "{id}", Some("a.b/c.png")).unwrap(), "a_b_c_png.png");
    for wrong in ["{kind}/{index}", "v1.{index}", "{index}.v2"] {
        assert!(name_in(&tars(), wrong, None).is_err(), "{wrong}");
    }
}

#[test]
fn a_field_that_a_row_lacks_is_named() {
    let refused = |template| name_in(&files(), template, None).unwrap_err().what;
    let text = refused("{colour}/{index}");
    assert!(text.contains("{colour} but the row has no field \"colour\"; there are index"), "{text}");
    assert!(text.ends_with("prompt_hash, kind, year, none, list, path"), "{text}");
    assert!(refused("{none}").contains("field \"none\" of the row is empty"));
    assert!(refused("{list}").contains("neither text nor number"));
    assert_eq!(refused("{id}"), "the name template has {id} but the row has no id");
}

#[test]
fn refuses_what_leaves_the_output_or_is_not_unique() {
    for wrong in [
        "/{index}.png",
        "../{index}.png",
        "a/../{index}.png",
        "a//{index}.png",
        "{index}/",
        ".{index}.png",
        "{index}#1.png",
        "{index}\\x.png",
        "{index",
        "{}{index}",
        "thumbnails/{index}",
        "manifests/{index}",
        "{index:0}",
        "{index:99}",
        "{job}.png",
        "fixed.png",
    ] {
        assert!(Template::parse(wrong, &files()).is_err(), "{wrong}");
    }
    let folder = Template::parse("{id}/{index}", &files()).unwrap();
    assert!(plain(&folder, 0, 0, "j", "thumbnails").is_err());
}

#[test]
fn the_index_may_tell_names_apart() {
    for (template, tells) in [
        ("", true),
        ("{job}/{index}.png", true),
        ("{id}-{index}.png", true),
        ("{seed}/{id}_{index:04}", true),
        ("{index}{seed}.png", false),
        ("{id}{index}.png", false),
        ("{index}7-{id}.png", false),
        ("{id}/{index}-{seed}.png", false),
        ("{seed}.png", false),
        ("{kind}/{index}-{prompt_hash}", false),
        ("{id}.png", false),
    ] {
        assert_eq!(Template::parse(template, &files()).unwrap().tells_by_index(), tells, "{template}");
    }
}

proptest! {
    #[test]
    fn what_the_index_tells_apart_never_collides(
        pieces in prop::collection::vec(prop::sample::select(vec!["{index}", "{index:03}", "{seed}", "{id}", "{job}", "-", "1", "a"]), 1..6),
        images in prop::collection::vec((0u64..200, 0u64..30, "[0-9a-]{1,3}"), 2..20),
    ) {
        let Ok(template) = Template::parse(&pieces.concat(), &files()) else { return Ok(()) };
        if template.tells_by_index() {
            let mut seen = std::collections::HashMap::new();
            for (index, seed, id) in images {
                let name = plain(&template, index, seed, "9j9", &id).unwrap();
                prop_assert_eq!(*seen.entry(name).or_insert(index), index);
            }
        }
    }

    #[test]
    fn names_stay_inside_whatever_the_id_and_the_job_say(id in ".{0,200}", job in ".{0,60}") {
        let template = Template::parse("{job}/{id}/{index}.png", &files()).unwrap();
        let name = plain(&template, 1, 2, &job, &id).unwrap();
        prop_assert!(!name.starts_with('/'));
        for part in name.split('/') {
            prop_assert!(!part.is_empty() && !part.starts_with('.'));
            prop_assert!(part.chars().all(may_stand));
        }
        prop_assert_eq!(name.split('/').count(), 3);
    }

    #[test]
    fn index_alone_makes_names_unique(a in 0u64..1_000_000, b in 0u64..1_000_000) {
        let template = Template::parse("{index:04}.png", &files()).unwrap();
        let name = |i| plain(&template, i, 0, "", "").unwrap();
        prop_assert_eq!(a == b, name(a) == name(b));
    }

    #[test]
    fn no_template_panics(text in ".{0,40}") {
        if let Ok(template) = Template::parse(&text, &files()) {
            let _ = plain(&template, u64::MAX, u64::MAX, "job", "id");
        }
    }
}
