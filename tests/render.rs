//! `sanafarm render` end to end with the bundled model, at small sizes and few steps.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};

use crate::support::pictures::{self, assert_whole};
use crate::support::{Sandbox, database, wait_until};

/// Two sizes, one of them no multiple of 32, a seed of its own and a column that passes through.
const LIST: &str = concat!(
    "{\"prompt\":\"large red dots on a blue background\",\"kind\":\"dots\",\"id\":\"first\"}\n",
    "{\"prompt\":\"green and white \u{2014} diagonal stripes\",\"width\":96,\"seed\":7}\n",
    "{\"prompt\":\"black grid on yellow\",\"width\":300,\"height\":500}\n",
);

#[test]
fn a_list_becomes_pictures_a_manifest_and_a_history() {
    let sandbox = Sandbox::new();
    sandbox.write("list.jsonl", LIST);
    let args = ["render", "list.jsonl", "--size", "128x128", "--steps", "2", "--output", "out", "--json"];
    let result = sandbox.run(&args).ok().last_json();
    assert_eq!(
        (&result["state"], &result["images"], &result["done"], &result["failed"]),
        (&json!("succeeded"), &json!(3), &json!(3), &json!(0))
    );
    let output = sandbox.path("out");
    assert_eq!(
        (&result["output"], &result["database"]),
        (&json!("[DIR]/out"), &json!("[DIR]/.sanafarm/sanafarm.db"))
    );
    assert_whole(&sandbox.database(), &output, 3);

    let job = result["job_id"].as_str().unwrap();
    let images = sandbox.run(&["images", job, "--json"]).ok().json_lines();
    let seen: Vec<_> =
        images.iter().map(|image| (image["seed"].as_u64().unwrap(), &image["object"])).collect();
    assert_eq!(seen.iter().map(|(seed, _)| *seed).collect::<Vec<_>>(), [0, 7, 2]);
    for (image, (width, height)) in images.iter().zip([(128, 128), (96, 128), (300, 500)]) {
        let picture = pictures::read(&output.join(image["object"].as_str().unwrap()));
        assert_eq!((picture.width, picture.height), (width, height));
        assert!(picture.rgb.iter().collect::<BTreeSet<_>>().len() > 8, "the picture is flat");
        let prompt = image["prompt"].as_str().unwrap();
        assert!(picture.texts["parameters"].starts_with(&format!("{prompt}\nSteps: 2, ")));
        let recipe = picture.recipe();
        assert_eq!(
            (&recipe["prompt"], &recipe["seed"], &recipe["steps"]),
            (&json!(prompt), &image["seed"], &json!(2))
        );
    }

    let manifest =
        SerializedFileReader::new(std::fs::File::open(output.join("manifest.parquet")).unwrap()).unwrap();
    let metadata = manifest.metadata().file_metadata();
    assert_eq!(metadata.num_rows(), 3);
    let columns: Vec<&str> = metadata.schema_descr().columns().iter().map(|column| column.name()).collect();
    for column in ["image_name", "prompt", "seed", "step", "cfg", "width", "height", "sha256", "kind"] {
        assert!(columns.contains(&column), "{column} is not in {columns:?}");
    }
    let lines = std::fs::read_to_string(output.join("metadata.jsonl")).unwrap();
    let names: BTreeSet<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["file_name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, seen.iter().map(|(_, object)| object.as_str().unwrap().to_owned()).collect());
}

#[test]
fn a_sprint_model_renders_in_its_own_steps_and_says_what_it_leaves_out() {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "a tiny astronaut\n");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/pipeline_sprint/model");
    let args = ["render", "list.txt", "--model", model, "--size", "64x96", "--output", "out"];
    let ended = sandbox.run(&[&args[..], &["--negative-prompt", "blur"]].concat()).ok();
    assert!(ended.stderr.contains("takes no negative prompt"), "{}", ended.stderr);
    let mut files = sandbox.path("out").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let picture = files.find(|path| path.extension().is_some_and(|end| end == "png")).unwrap();
    let recipe = pictures::read(&picture).recipe();
    assert_eq!(
        (&recipe["steps"], &recipe["guidance"], &recipe["scheduler"]),
        (&json!(2), &json!(4.5), &json!("scm"))
    );
}

#[test]
fn the_question_that_is_printed_works_as_it_is_printed() {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "red dots on blue\n");
    let args = ["render", "list.txt", "--size", "64x64", "--steps", "1", "--data", "my data"];
    let ended = sandbox.run(&args).ok();
    let output = ended.stdout.trim_end();
    assert!(output.starts_with("renders/list-") && sandbox.path(output).is_dir(), "{output}");
    let question =
        ended.stderr.lines().last().unwrap().trim().replace("[DIR]", sandbox.path("").to_str().unwrap());
    let answer = Command::new("sh").arg("-c").arg(&question).current_dir(sandbox.path("")).output().unwrap();
    let answer = String::from_utf8(answer.stdout).unwrap();
    assert_eq!(answer.lines().count(), 2, "{question}\n{answer}");
    assert!(answer.contains("red dots on blue"), "{answer}");
}

#[test]
fn the_same_command_again_renders_nothing_and_says_so() {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "red dots\nblue waves\n");
    let args = ["render", "list.txt", "--size", "64x64", "--steps", "1", "--output", "out"];
    sandbox.run(&args).ok();
    let before = database::committed(&sandbox.database());
    let again = sandbox.run(&args).ok();
    assert!(again.stderr.contains("nothing to render: this job was finished before"), "{}", again.stderr);
    assert_eq!(database::committed(&sandbox.database()), before);
    assert_eq!(database::texts(&sandbox.database(), "select job_id from audit_jobs").len(), 1);
    // A blank line changes no picture, so it is still the same job.
    sandbox.write("list.txt", "red dots\n\nblue waves\n");
    sandbox.run(&args).ok();
    assert_eq!(database::committed(&sandbox.database()), before);
}

#[test]
fn pictures_that_were_moved_away_are_not_called_done() {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "red dots\n");
    let args = ["render", "list.txt", "--size", "64x64", "--steps", "1", "--output", "out"];
    sandbox.run(&args).ok();
    std::fs::remove_dir_all(sandbox.path("out")).unwrap();
    let again = sandbox.run(&args);
    assert_eq!(again.code, Some(2), "{}", again.stderr);
    assert!(again.stderr.contains("manifest.parquet is no longer in [DIR]/out"), "{}", again.stderr);
}

/// Prompt and seed of each picture with the checksum of its file.
fn sums(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let sql =
        "select seed || ' ' || width || 'x' || height || ' ' || prompt || '\t' || sha256 from audit_images";
    let rows = database::texts(&sandbox.database(), sql);
    rows.iter().map(|row| row.split_once('\t').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[test]
fn a_picture_depends_on_its_recipe_alone() {
    let rows = [
        "{\"prompt\":\"red dots on white\",\"seed\":1}\n",
        "{\"prompt\":\"blue waves on black\",\"seed\":2,\"width\":160}\n",
        "{\"prompt\":\"green grid on pink\",\"seed\":3,\"width\":100,\"height\":90}\n",
        "{\"prompt\":\"red dots on white\",\"seed\":4}\n",
    ];
    let render = |lists: &[&[usize]], threads: &str| {
        let sandbox = Sandbox::new();
        for (number, list) in lists.iter().enumerate() {
            let name = format!("{number}.jsonl");
            sandbox.write(&name, list.iter().map(|row| rows[*row]).collect::<String>());
            let mut command = sandbox.command(&["render", &name, "--size", "128x96", "--steps", "2"]);
            let ended = command.env("RAYON_NUM_THREADS", threads).output().unwrap();
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        }
        sums(&sandbox)
    };
    let first = render(&[&[0, 1, 2, 3]], "1");
    assert_eq!(first.len(), 4);
    assert_eq!(first, render(&[&[3, 2, 1, 0]], "2"), "another order, another number of threads");
    assert_eq!(first, render(&[&[1], &[0, 3], &[2]], "2"), "other jobs");
}

#[test]
fn copies_of_a_prompt_have_seeds_of_their_own() {
    let sandbox = Sandbox::new();
    let args = [
        "render",
        "-",
        "--size",
        "64x64",
        "--steps",
        "1",
        "--images-per-prompt",
        "2",
        "--seed",
        "10",
        "--json",
    ];
    let result = sandbox.run_with_input(&args, "red dots\nblue dots\n").ok().last_json();
    assert_eq!(result["images"], 4);
    assert!(result["output"].as_str().unwrap().contains("/renders/stdin-"), "{result}");
    let sql = "select seed || ' ' || prompt from audit_images order by image_index";
    let rows = database::texts(&sandbox.database(), sql);
    assert_eq!(rows, ["10 red dots", "11 red dots", "12 blue dots", "13 blue dots"]);
}

#[test]
fn bad_lines_are_skipped_and_listed_when_asked() {
    let sandbox = Sandbox::new();
    sandbox.write("list.csv", "prompt,width\nred dots,64\n,64\nblue dots,many\ngreen dots,96\n");
    let args = ["render", "list.csv", "--size", "64x64", "--steps", "1", "--skip-invalid", "--json"];
    let ended = sandbox.run(&args).ok();
    let skipped = [
        "list.csv:3: empty prompt",
        "list.csv:4: `width` is `many`, expected a whole number from 1 to 16384",
    ];
    let result = ended.last_json();
    assert_eq!((&result["images"], &result["skipped"]), (&json!(2), &json!(skipped)));
    let listed = format!("warning: skipped 2 bad lines:\n  {}\n  {}\n", skipped[0], skipped[1]);
    assert!(ended.stderr.contains(&listed), "{}", ended.stderr);
}

#[test]
fn the_reading_verbs_answer_from_the_data_folder() {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "red dots\n");
    sandbox.run(&["render", "list.txt", "--size", "64x64", "--steps", "1"]).ok();
    let jobs = sandbox.run(&["jobs", "--json"]).ok().json_lines();
    assert_eq!(jobs.len(), 1);
    let id = jobs[0]["job_id"].as_str().unwrap();
    assert_eq!(sandbox.run(&["show", id, "--json"]).ok().last_json(), jobs[0]);
    assert_eq!(sandbox.run(&["watch", id, "--json"]).ok().last_json(), jobs[0]);
    let sql = "select prompt, seed, null as absent from audit_images";
    assert_eq!(sandbox.run(&["sql", sql]).ok().stdout, "prompt    seed  absent\nred dots  0\n");
    assert_eq!(sandbox.run(&["sql", sql, "--csv"]).ok().stdout, "prompt,seed,absent\nred dots,0,\n");
    assert_eq!(
        sandbox.run(&["sql", sql, "--json"]).ok().stdout,
        "{\"prompt\":\"red dots\",\"seed\":0,\"absent\":null}\n"
    );
    for change in ["delete from audit_images", "drop table jobs", "select 1; select 2", "selec 1"] {
        let refused = sandbox.run(&["sql", change]);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{change}: {}", refused.stderr);
        assert!(refused.stderr.starts_with("error: ask the history\n  caused by: "), "{}", refused.stderr);
    }
    let unknown = sandbox.run(&["show", "nothing"]);
    assert_eq!(unknown.code, Some(1), "{}", unknown.stderr);
}

#[test]
fn an_output_of_another_job_is_refused_and_left_as_it_is() {
    let sandbox = Sandbox::new();
    sandbox.write("a.txt", "small red dots on white\n");
    let first = ["render", "a.txt", "--output", "out", "--size", "64x64", "--steps", "1"];
    assert_eq!(sandbox.run(&first).code, Some(0));
    let manifest = std::fs::read(sandbox.path("out/manifest.parquet")).unwrap();
    for data in [".sanafarm", "elsewhere"] {
        let other = ["render", "a.txt", "--output", "out", "--size", "64x64", "--steps", "2", "--data", data];
        let ended = sandbox.run(&other);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("choose another output"), "{}", ended.stderr);
    }
    assert_eq!(std::fs::read(sandbox.path("out/manifest.parquet")).unwrap(), manifest);
    assert_eq!(std::fs::read_dir(sandbox.path("out")).unwrap().count(), 5);
    assert_eq!(sandbox.run(&first).code, Some(0), "the job itself is still done");
}

#[test]
fn another_list_in_the_same_data_folder_renders_its_own_images_only() {
    let sandbox = Sandbox::new();
    sandbox.write("long.txt", "small red dots on white\n".repeat(400));
    let long = sandbox.start(&["render", "long.txt", "--size", "64x64", "--steps", "2"]);
    wait_until("a first picture", || database::done(&sandbox.database()) > 0);
    long.kill();
    let leases = "select cast(count(*) as text) from audit_attempts where job_id = \
                  (select job_id from audit_jobs where images = 400)";
    let before = database::texts(&sandbox.database(), leases);
    sandbox.write("short.txt", "blue waves on white\n");
    assert_eq!(sandbox.run(&["render", "short.txt", "--size", "64x64", "--steps", "1"]).code, Some(0));
    // What the killed one had finished may be reported now; nothing more of its list is rendered.
    assert_eq!(database::texts(&sandbox.database(), leases), before);
    let short = "select cast(done as text) from audit_jobs where images = 1";
    assert_eq!(database::texts(&sandbox.database(), short), ["1"]);
}
