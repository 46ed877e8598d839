//! `reproduce`: a picture rendered again from its own recipe.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::support::pictures::{self, Picture};
use crate::support::{Sandbox, bundled_model, copy_folder};

/// Writes pixels as a PNG with the texts of a picture, in another way than the program does.
fn write_png(path: &Path, picture: &Picture) {
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    for (keyword, text) in &picture.texts {
        encoder.add_itxt_chunk(keyword.clone(), text.clone()).unwrap();
    }
    encoder.write_header().unwrap().write_image_data(&picture.rgb).unwrap();
}

#[test]
fn a_picture_is_rendered_again_from_its_own_recipe_and_compared() {
    let sandbox = Sandbox::new();
    sandbox.write("list.jsonl", "{\"prompt\":\"red dots \u{2014} on white\",\"width\":100,\"height\":72}\n");
    let args = ["render", "list.jsonl", "--size", "64x64", "--steps", "2", "--output", "out", "--json"];
    let job = sandbox.run(&args).ok().last_json()["job_id"].as_str().unwrap().to_owned();
    let image = sandbox.run(&["images", &job, "--json"]).ok().last_json();
    let file = format!("out/{}", image["object"].as_str().unwrap());
    let picture = pictures::read(&sandbox.path(&file));

    let same = sandbox.run(&["reproduce", &file, "--json", "--output", "again.png"]).ok().last_json();
    assert_eq!((&same["verdict"], &same["causes"]), (&json!("identical"), &json!([])));
    assert_eq!((&same["sha256"], &same["new_sha256"]), (&image["sha256"], &image["sha256"]));
    assert_eq!(pictures::sha256(&sandbox.path("again.png")), image["sha256"].as_str().unwrap());
    let taken = sandbox.run(&["reproduce", &file, "--output", "again.png"]);
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.starts_with("error: again.png is there already"), "{}", taken.stderr);
    let stored = sandbox.run(&["reproduce", &format!("{job}/0")]).ok();
    assert_eq!(stored.stdout, "identical: the new file is the same to the bit\n");
    assert!(stored.stderr.starts_with("rendered on cpu in "), "{}", stored.stderr);
    copy_folder(&bundled_model(), &sandbox.path("mine"));
    let by_other = sandbox.run(&["reproduce", &file, "--model", "mine"]).ok();
    assert!(by_other.stderr.ends_with("/mine\n"), "the model that was used: {}", by_other.stderr);

    write_png(&sandbox.path("other.png"), &picture);
    let pixels = sandbox.run(&["reproduce", "other.png", "--json"]).ok().last_json();
    assert_eq!((&pixels["verdict"], &pixels["max_difference"]), (&json!("same_pixels"), &json!(0)));
    assert!(pixels["causes"][0].as_str().unwrap().contains("version of the encoder"), "{pixels}");

    let mut rgb = picture.rgb.clone();
    rgb[0] = if rgb[0] > 127 { rgb[0] - 100 } else { rgb[0] + 100 };
    write_png(&sandbox.path("changed.png"), &Picture { rgb, ..picture });
    let changed = sandbox.run(&["reproduce", "changed.png", "--json"]);
    assert_eq!(changed.code, Some(2));
    let changed = changed.last_json();
    assert_eq!((&changed["verdict"], &changed["max_difference"]), (&json!("differs"), &json!(100)));
    let share = changed["different_pixels"].as_f64().unwrap();
    assert!((share - 1.0 / 7200.0).abs() < 1e-9, "{changed}");
    let psnr = changed["psnr_db"].as_f64().unwrap();
    assert!((psnr - 10.0 * (65_025.0 * 21_600.0 / 10_000.0_f64).log10()).abs() < 1e-6, "{changed}");
    sandbox.run(&["reproduce", "changed.png", "--tolerance", "100"]).ok();
}

#[test]
fn what_cannot_be_rendered_again_is_a_mistake_that_says_why() {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "red dots\n");
    let args = ["render", "list.txt", "--size", "64x64", "--steps", "1", "--output", "out", "--json"];
    let job = sandbox.run(&args).ok().last_json()["job_id"].as_str().unwrap().to_owned();
    let file = "out/00000000-0.png";
    let sprint = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/pipeline_sprint/model");
    let picture = pictures::read(&sandbox.path(file));
    let foreign = Picture { texts: BTreeMap::new(), ..pictures::read(&sandbox.path(file)) };
    write_png(&sandbox.path("foreign.png"), &foreign);
    let mut recipe = picture.recipe();
    recipe["model"] = json!("another-model");
    let texts = BTreeMap::from([("sanafarm".to_owned(), recipe.to_string())]);
    write_png(&sandbox.path("unknown.png"), &Picture { texts, ..picture });
    for (args, why) in [
        (vec![file, "--model", sprint], "the weights of model model are "),
        (vec![file, "--device", "cuda:0"], "use device cuda:0: "),
        (vec!["foreign.png"], "it carries no recipe"),
        (vec!["unknown.png"], "there is no model folder another-model"),
        (vec!["nothing.png"], "there is no file nothing.png"),
        (vec![&format!("{job}/7")], "the job has no such image"),
    ] {
        let refused = sandbox.run(&[&["reproduce"], args.as_slice()].concat());
        assert_eq!(refused.code, Some(1), "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(why), "{args:?}: {}", refused.stderr);
    }
    let model = bundled_model();
    sandbox.run(&["reproduce", "unknown.png", "--model", model.to_str().unwrap()]).ok();
}

#[test]
fn pictures_of_every_format_come_out_the_same_to_the_bit() {
    for (format, more) in [
        ("jpeg", &[][..]),
        ("jpeg", &["--quality", "61"]),
        ("webp", &[]),
        ("webp", &["--quality", "35"]),
        ("webp-lossless", &[]),
    ] {
        let sandbox = Sandbox::new();
        sandbox.write("list.txt", "large red dots on white\n");
        let args =
            ["render", "list.txt", "--size", "64x96", "--steps", "1", "--output", "out", "--format", format];
        let job = sandbox.run(&[&args, more, &["--json"]].concat()).ok().last_json();
        let job = job["job_id"].as_str().unwrap();
        let image = sandbox.run(&["images", job, "--json"]).ok().last_json();
        for picture in [format!("{job}/0"), format!("out/{}", image["object"].as_str().unwrap())] {
            let told = sandbox.run(&["reproduce", &picture, "--json"]).ok().last_json();
            assert_eq!(told["verdict"], "identical", "{format} {more:?}: {told}");
        }
    }
}
