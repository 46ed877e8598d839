//! `verify`: what is wrong is found, with its reason, and rendered again.

use std::path::{Path, PathBuf};

use sanafarm_test_servers::S3;
use serde_json::json;

use super::{Farm, found};
use crate::support::{Ended, Sandbox};

/// What [`damage`] does to the first five pictures.
const DAMAGE: [(u64, &str); 5] = [(0, "missing"), (1, "sha256"), (2, "recipe"), (3, "recipe"), (4, "size")];

fn contents(files: &[PathBuf]) -> Vec<Vec<u8>> {
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Removes the first, flips a bit of the second, swaps the third and the fourth, and cuts the fifth.
fn damage(files: &[PathBuf]) {
    let before = contents(files);
    std::fs::remove_file(&files[0]).unwrap();
    flip(&files[1]);
    std::fs::write(&files[2], &before[3]).unwrap();
    std::fs::write(&files[3], &before[2]).unwrap();
    std::fs::write(&files[4], &before[4][..before[4].len() / 2]).unwrap();
}

/// Flips a bit among the pixels.
fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes.len() * 3 / 4;
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn lost_and_damaged_pictures_are_found_each_with_its_reason_and_rendered_again() {
    let farm = Farm::new();
    let job = farm.render(8, "out", &[]);
    let (code, problems, sum) = farm.verify(&job, &["--deep"]);
    assert_eq!((code, problems.len()), (Some(0), 0), "{problems:?}");
    assert_eq!((&sum["checked"], &sum["problems"], &sum["failed"]), (&json!(8), &json!(0), &json!(0)));
    let told = farm.run(&["verify", &job]).ok();
    assert!(told.stdout.is_empty() && told.stderr.starts_with("looked at 8 pictures, "), "{told:?}");
    assert!(told.stderr.ends_with(": all is well\n"), "{}", told.stderr);

    let paths = farm.pictures(&job);
    let before = contents(&paths);
    damage(&paths);

    let wrong = found(&DAMAGE);
    let (code, problems, sum) = farm.verify(&job, &[]);
    assert_eq!((code, &problems), (Some(2), &wrong));
    assert_eq!(sum["by"], json!({ "missing": 1, "size": 1, "sha256": 1, "recipe": 2 }));
    let (_, problems, sum) = farm.verify(&job, &["--quick"]);
    assert_eq!(problems.get(&0).map(String::as_str), Some("missing"));
    assert_eq!(problems.get(&4).map(String::as_str), Some("size"));
    assert!(!problems.contains_key(&1) && sum["bytes"] == 0, "{problems:?} {sum}");
    let (_, _, sum) = farm.verify(&job, &["--sample", "3"]);
    assert_eq!(sum["checked"], 3);

    let (code, problems, sum) = farm.verify(&job, &["--requeue", "--reason", "a disk died"]);
    assert_eq!((code, &problems, &sum["requeued"]), (Some(2), &wrong, &json!(5)));
    farm.watch(&job);
    assert!(contents(&paths) == before, "a picture that was rendered again is another one");
    assert_eq!(farm.verify(&job, &["--deep"]).1, found(&[]));
    let why = "select kind, reason from audit_events where kind = 'job_requeued'";
    assert_eq!(farm.run(&["sql", "--csv", why]).ok().stdout, "kind,reason\njob_requeued,a disk died\n");
}

#[test]
fn tables_that_are_gone_or_of_another_job_are_told() {
    let sandbox = Sandbox::new();
    let render = |list: &str, output: &str| {
        sandbox.write("list.txt", list);
        let args = ["render", "list.txt", "--size", "64x64", "--steps", "1", "--output", output, "--json"];
        sandbox.run(&args).ok().last_json()["job_id"].as_str().unwrap().to_owned()
    };
    let job = render("red dots\nblue dots\n", "out");
    render("green dots\n", "other");
    sandbox.run(&["verify", &job]).ok();
    let lines = |ended: Ended| -> Vec<String> {
        ended.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    std::fs::copy(sandbox.path("other/manifest.parquet"), sandbox.path("out/manifest.parquet")).unwrap();
    std::fs::remove_file(sandbox.path("out/metadata.jsonl")).unwrap();
    let ended = sandbox.run(&["verify", &job]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        lines(ended),
        [
            "rows - manifest.parquet: it has 0 rows and 0 pictures of the job instead of 2 and 2",
            "missing - metadata.jsonl: there is no such object",
        ]
    );
    std::fs::write(sandbox.path("out/manifest.parquet"), "no table").unwrap();
    let told = lines(sandbox.run(&["verify", &job]));
    assert!(told[0].starts_with("unreadable - manifest.parquet: "), "{told:?}");

    // The whole again, and then one thing after the other.
    let whole = render("red dots\nblue dots\n", "whole");
    sandbox.run(&["verify", &whole]).ok();
    let part = "whole/manifests/part-000000.parquet";
    std::fs::copy(sandbox.path("other/manifests/part-000000.parquet"), sandbox.path(part)).unwrap();
    std::fs::write(sandbox.path("whole/metadata.jsonl"), "{}\n{}\n").unwrap();
    let [metadata, rows] = &lines(sandbox.run(&["verify", &whole]))[..] else { panic!("two problems") };
    assert!(
        metadata.starts_with("rows - metadata.jsonl: its line 1 does not tell of 00000000-"),
        "{metadata}"
    );
    let told = "rows - manifests/part-000000.parquet: its row of image 0 is none of manifest.parquet's next";
    assert_eq!(rows, told);
    std::fs::remove_file(sandbox.path(part)).unwrap();
    let told = lines(sandbox.run(&["verify", &whole, "--quick"]));
    assert_eq!(told[1], "missing - manifests/part-000000.parquet: there is no such object");

    std::fs::rename(sandbox.path("out"), sandbox.path("moved")).unwrap();
    let refused = sandbox.run(&["verify", &job]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("there is no output folder [DIR]/out"), "{}", refused.stderr);
    assert!(!sandbox.path("out").exists(), "the folder was made");
    assert_eq!(sandbox.run(&["verify", &job, "--output", "moved", "--quick"]).code, Some(2));
}

/// Writes a tar anew, with something done to the content of one member.
fn repack(tar: &Path, name: &str, change: impl Fn(&mut Vec<u8>)) {
    let mut old = tar::Archive::new(std::fs::File::open(tar).unwrap());
    let mut new = tar::Builder::new(Vec::new());
    for member in old.entries().unwrap() {
        let mut member = member.unwrap();
        let path = member.path().unwrap().into_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut member, &mut content).unwrap();
        if path == Path::new(name) {
            change(&mut content);
        }
        let mut header = member.header().clone();
        header.set_size(content.len() as u64);
        new.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    std::fs::write(tar, new.into_inner().unwrap()).unwrap();
}

#[test]
fn tars_are_read_member_by_member() {
    let farm = Farm::new();
    let job = farm.render(6, "out", &["--layout", "webdataset", "--format", "webp", "--thumbnails"]);
    let (code, problems, sum) = farm.verify(&job, &["--deep"]);
    assert_eq!((code, problems, &sum["checked"]), (Some(0), found(&[]), &json!(6)), "{sum}");
    assert!(sum["tars"].as_u64().unwrap() > 0, "{sum}");
    farm.run(&["verify", &job, "--quick"]).ok();
    let again = farm.run(&["reproduce", &format!("{job}/3")]).ok();
    assert_eq!(again.stdout, "identical: the new file is the same to the bit\n");

    let images = farm.run(&["images", &job, "--json"]).ok().json_lines();
    let tar = images[3]["archive"].as_str().unwrap();
    let path = farm.sandbox.path("out").join(tar);
    let name = format!("manifests/{}", tar.replace(".tar", ".parquet"));
    let whole = std::fs::read(&path).unwrap();
    let told = |args: &[&str]| -> Vec<(String, String)> {
        let ended = farm.run(&[&["verify", &job, "--json"], args].concat());
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let mut lines = ended.json_lines();
        lines.pop();
        let text = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap().to_owned();
        lines.iter().map(|line| (text(line, "object"), text(line, "what"))).collect()
    };
    let wrong = |object: &str, what: &str| (object.to_owned(), what.to_owned());
    let part = farm.sandbox.path("out").join(&name);
    let rows = std::fs::read(&part).unwrap();
    std::fs::remove_file(&part).unwrap();
    assert_eq!(told(&["--quick"]), [wrong(&name, "missing")]);
    std::fs::write(&part, &rows[..rows.len() / 2]).unwrap();
    assert_eq!(told(&[]), [wrong(&name, "unreadable")]);
    std::fs::write(&part, rows).unwrap();

    repack(&path, "00000003.webp", |picture| *picture.last_mut().unwrap() ^= 1);
    repack(&path, "00000003.txt", |prompt| prompt.push(b'!'));
    let member = |ending: &str| format!("{tar}/00000003.{ending}");
    let found = told(&[]);
    assert_eq!(found[1..], [wrong(&member("webp"), "sha256"), wrong(&member("txt"), "recipe")]);
    assert!(found[0] == wrong(tar, "sha256") || found[0] == wrong(tar, "size"), "{found:?}");

    std::fs::write(&path, &whole[..whole.len() - 2048]).unwrap();
    assert_eq!(told(&["--quick"]), [wrong(tar, "size")]);
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(farm.sandbox.path("out/index.json")).unwrap();
    std::fs::remove_file(farm.sandbox.path("out/thumbnails/00000003.jpg")).unwrap();
    let all =
        [wrong("thumbnails/00000003.jpg", "missing"), wrong(tar, "missing"), wrong("index.json", "missing")];
    assert_eq!(told(&[]), all);

    // A tar is rendered again as a whole. One that was altered stands in the way of the new one.
    std::fs::write(&path, &whole[..whole.len() - 2048]).unwrap();
    let sum = farm.run(&["verify", &job, "--json", "--requeue"]).last_json();
    let in_tar = images.iter().filter(|image| image["archive"] == tar).count();
    assert_eq!(sum["requeued"], json!(in_tar), "{sum}");
    farm.watch(&job);
    assert!(std::fs::read(&path).unwrap() == whole, "the tar is another one");
    farm.run(&["verify", &job, "--deep"]).ok();
}

#[test]
fn buckets_are_verified_and_mended_like_folders() {
    let s3 = S3::start();
    let farm = Farm::with(&s3.environment());
    let job = farm.render(8, "s3://farm/renders", &[]);
    let images = farm.run(&["images", &job, "--json"]).ok().json_lines();
    let object = |image: &serde_json::Value| format!("renders/{}", image["object"].as_str().unwrap());
    let paths: Vec<PathBuf> = images.iter().map(|image| s3.file("farm", &object(image))).collect();
    let before = contents(&paths);
    assert_eq!(farm.verify(&job, &[]).0, Some(0));
    damage(&paths);
    let (code, problems, sum) = farm.verify(&job, &["--requeue"]);
    assert_eq!((code, problems, &sum["requeued"]), (Some(2), found(&DAMAGE), &json!(5)));
    farm.watch(&job);
    assert!(contents(&paths) == before, "a picture that was rendered again is another one");
    assert_eq!(farm.verify(&job, &["--deep"]).1, found(&[]));
}
