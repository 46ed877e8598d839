//! Prompt lists of every kind and from everywhere, and what is told of them before anything is rendered.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::Value;

use crate::farm;
use crate::support::web::WebServer;
use crate::support::{Sandbox, database, files_below};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A Parquet file with the one column `caption`.
fn parquet(path: &Path, captions: &[&str]) {
    let schema = Arc::new(parse_message_type("message m { required binary caption (UTF8); }").unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let captions: Vec<ByteArray> = captions.iter().map(|caption| ByteArray::from(*caption)).collect();
    column.typed::<ByteArrayType>().write_batch(&captions, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

/// What `estimate --json` says of a list.
#[track_caller]
fn estimate(sandbox: &Sandbox, args: &[&str]) -> Value {
    sandbox.run(&[&["estimate", "--json"], args].concat()).ok().last_json()
}

#[test]
fn lists_of_every_format_are_rendered_with_what_they_pass_through() {
    let sandbox = Sandbox::new();
    parquet(&sandbox.path("a.parquet"), &["red dots"]);
    sandbox.write(
        "captions.json",
        r#"{"images":[{"id":1,"file_name":"1.jpg"}],"annotations":[{"id":9,"image_id":1,"caption":"red dots"}]}"#,
    );
    sandbox.write("b.jsonl.gz", gzip("{\"prompt\":\"red dots\",\"note\":\"x\"}\n"));
    for list in ["a.parquet", "captions.json", "b.jsonl.gz"] {
        let output = format!("out-{list}");
        sandbox.run(&["render", list, "--size", "32x32", "--steps", "1", "--output", &output]).ok();
        assert!(sandbox.path(&output).join("00000000-0.png").is_file());
    }
    let sql = "select j.name || ' ' || coalesce(i.extra, '') from audit_images i join audit_jobs j using (job_id) \
               where i.prompt = 'red dots' order by 1";
    assert_eq!(
        database::texts(&sandbox.database(), sql),
        ["a ", r#"b {"note":"x"}"#, r#"captions {"image_id":1,"file_name":"1.jpg"}"#]
    );
}

#[test]
fn a_list_on_a_web_server_is_read_although_its_connection_breaks() {
    let sandbox = Sandbox::new();
    let text: String =
        (0..60_000).map(|number| format!("{number},prompt {}\n", number * 7919 % 60_000)).collect();
    let bytes = gzip(&format!("id,prompt\n{text}"));
    let server = WebServer::that_breaks([("lists/a.csv.gz", bytes.clone())]);
    let url = server.url("lists/a.csv.gz?signature=secret");
    let told = estimate(&sandbox, &[&url]);
    assert_eq!((told["rows"].as_u64(), told["duplicates"].as_u64()), (Some(60_000), Some(0)));
    assert_eq!(told["list"], server.url("lists/a.csv.gz"));
    let requests = server.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert_eq!(requests[0], "/lists/a.csv.gz?signature=secret");
    // It goes on where it broke.
    let asked = format!("bytes={}-{}", bytes.len() / 2, bytes.len() - 1);
    assert_eq!(requests[1], format!("/lists/a.csv.gz?signature=secret {asked}"));
}

#[test]
fn a_parquet_list_on_a_web_server_is_read_from_a_copy_that_does_not_stay() {
    let sandbox = Sandbox::new();
    parquet(&sandbox.path("a.parquet"), &["red dots", "blue dots"]);
    let bytes = std::fs::read(sandbox.path("a.parquet")).unwrap();
    std::fs::remove_file(sandbox.path("a.parquet")).unwrap();
    let server = WebServer::new([("a.parquet", bytes)]);
    assert_eq!(estimate(&sandbox, &[&server.url("a.parquet")])["rows"], 2);
    let left = files_below(&sandbox.path(".sanafarm"));
    assert!(left.iter().all(|name| name.starts_with("models/")), "{left:?}");
}

#[test]
fn a_list_that_is_not_on_the_server_is_named_with_what_to_try() {
    let server = WebServer::new([]);
    let url = server.url("none.csv?signature=secret");
    let ended = Sandbox::new().run(&["render", &url]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    let shown = server.url("none.csv");
    let start = format!("error: read prompt list {shown}\n  caused by: read {shown}: ");
    assert!(ended.stderr.starts_with(&start), "{}", ended.stderr);
    assert!(ended.stderr.contains("404"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
    let hint = "\n\nhint: check the URL, and that this machine may read it\n";
    assert!(ended.stderr.ends_with(hint), "{}", ended.stderr);
}

#[test]
fn urls_of_other_kinds_are_refused() {
    for (url, what) in [
        ("ftp://host/a.csv", "URLs of `ftp` cannot be read; those of s3, gs, az, https, http and file can"),
        ("s3://bucket", "the URL names no object"),
    ] {
        let ended = Sandbox::new().run(&["render", url]);
        assert_eq!((ended.code, ended.stderr), (Some(1), format!("error: {url}: {what}\n")));
    }
}

#[test]
fn a_dry_run_counts_and_renders_nothing() {
    let sandbox = Sandbox::new();
    let rows = "prompt,width,seed\nred dots,32,5\nred dots,32,5\nblue dots,,\n";
    sandbox.write("a.csv", rows);
    let options = ["a.csv", "--size", "64x64", "--bin", "always", "--steps", "2", "--images-per-prompt", "2"];
    let ended = sandbox.run(&[&["render", "--dry-run"], &options[..]].concat()).ok();
    let told = "\
list        a.csv
rows        3
images      6
duplicates  2
groups      2
shards      2
device time not known: nothing like it was rendered yet
bytes       not known: nothing like it was rendered yet
size   steps  guidance  images  shards  s/image  bytes/image  measured on
32x64  2      4.5       4       1
64x64  2      4.5       2       1
";
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), (told, ""));
    assert!(!sandbox.path("renders").exists() && !sandbox.database().exists());
    // Without a coordinator a submission is counted too.
    assert_eq!(sandbox.run(&[&["submit", "--dry-run"], &options[..]].concat()).ok().stdout, told);
    assert!(!sandbox.path("renders").exists() && !sandbox.database().exists());
}

#[test]
fn what_was_rendered_before_tells_time_and_bytes() {
    let sandbox = Sandbox::new();
    sandbox.write("a.txt", "red dots\nblue dots\n");
    sandbox.run(&["render", "a.txt", "--size", "32x32", "--steps", "1"]).ok();
    let number = |sql: &str| {
        let sql = format!("select cast({sql} as text) from audit_images");
        database::texts(&sandbox.database(), &sql)[0].parse::<f64>().unwrap()
    };
    // SQLite prints 15 digits.
    let same = |told: &Value, number: f64| (told.as_f64().unwrap() / number - 1.0).abs() < 1e-12;
    let (seconds, bytes) = (number("avg(render_seconds)"), number("sum(bytes)"));
    sandbox.write("b.csv", "prompt,width\na,32\nb,32\nc,64\n");
    let told = estimate(&sandbox, &["b.csv", "--size", "32x32", "--steps", "1"]);
    let group = &told["groups"][0];
    assert_eq!((group["images"].as_u64(), group["measured_images"].as_u64()), (Some(2), Some(2)));
    assert!(same(&group["seconds_per_image"], seconds) && same(&told["seconds"], 4.0 * seconds), "{told}");
    assert!(same(&told["bytes"], 2.0 * bytes), "{told}");
    // The other size goes by its pixels, and that is told.
    assert_eq!((&told["unmeasured_images"], &told["scaled_images"]), (&Value::from(0), &Value::from(1)));
    let other = &told["groups"][1];
    assert!(same(&other["seconds_per_image"], 2.0 * seconds), "{told}");
    assert_eq!((&group["scaled_from"], &other["measured_images"]), (&Value::Null, &Value::from(0)));
    let from = serde_json::json!({ "pixels": 32 * 32, "steps": 1, "images": 2 });
    assert_eq!(other["scaled_from"], from);
    assert_eq!((&told["workers"], &told["farm_seconds"]), (&Value::Null, &Value::Null));
    let words = sandbox.run(&["estimate", "b.csv", "--size", "32x32", "--steps", "1"]).ok().stdout;
    let time = words.lines().find(|line| line.starts_with("device time")).unwrap_or_default();
    assert!(time.ends_with("; 1 image by those of another size or number of steps"), "{words}");
    assert!(words.trim_end().ends_with("2 of 0.001 MP, 1 steps"), "{words}");
}

#[test]
fn small_jobs_that_come_later_leave_what_was_measured() {
    let sandbox = Sandbox::new();
    sandbox.write("a.csv", "prompt,width\nred dots,32\nblue dots,64\n");
    sandbox.run(&["render", "a.csv", "--size", "32x32", "--steps", "1"]).ok();
    let before = estimate(&sandbox, &["a.csv", "--size", "32x32", "--steps", "1"]);
    for number in 0..6 {
        sandbox.write("b.txt", format!("green dots {number}\n"));
        sandbox.run(&["render", "b.txt", "--size", "96x32", "--steps", "1"]).ok();
    }
    let after = estimate(&sandbox, &["a.csv", "--size", "32x32", "--steps", "1"]);
    assert_eq!((&after["scaled_images"], &after["unmeasured_images"]), (&Value::from(0), &Value::from(0)));
    assert_eq!(after["seconds"], before["seconds"]);
}

#[test]
fn all_bad_lines_are_told_by_a_dry_run() {
    let sandbox = Sandbox::new();
    sandbox.write("a.csv", "prompt,width\na,32\n,32\nb,x\n");
    let ended = sandbox.run(&["render", "a.csv", "--bin", "always", "--dry-run", "--json"]);
    assert_eq!(ended.code, Some(1));
    let told = ended.last_json();
    assert_eq!((told["rows"].as_u64(), told["invalid_lines"].as_u64()), (Some(1), Some(2)));
    let wrong = "a.csv:4: `width` is `x`, expected a whole number from 1 to 16384";
    assert_eq!(told["invalid"], serde_json::json!(["a.csv:3: empty prompt", wrong]));
    assert_eq!(
        ended.stderr,
        format!(
            "error: a.csv: 2 lines are invalid\n  caused by: a.csv:3: empty prompt\n  caused by: {wrong}\n\nhint: mend \
             them, or skip bad lines with --skip-invalid\n"
        )
    );
    let skipped = sandbox.run(&["render", "a.csv", "--dry-run", "--json", "--skip-invalid"]).ok();
    assert_eq!(skipped.last_json()["skipped_lines"], 2);
}

#[test]
fn equal_images_are_refused_or_merged_when_asked() {
    let sandbox = Sandbox::new();
    sandbox.write("a.csv", "prompt,seed\nred dots,5\nblue dots,5\nred dots,5\n");
    let base = ["render", "a.csv", "--size", "32x32", "--bin", "always", "--steps", "1", "--output", "out"];
    let run = |policy: &str| sandbox.run(&[&base[..], &["--on-duplicate", policy]].concat());
    let refused = run("refuse");
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.starts_with("error: a.csv:4: the same image as line 2\n\nhint: "),
        "{}",
        refused.stderr
    );
    assert!(!sandbox.path("out").exists() && !sandbox.database().exists());
    let merged = run("merge").ok();
    assert!(merged.stderr.contains("dropped 1 rows (1 images) that are there already"), "{}", merged.stderr);
    let rows = database::texts(&sandbox.database(), "select prompt from audit_images order by image_index");
    assert_eq!(rows, ["red dots", "blue dots"]);
}

#[test]
fn a_coordinator_tells_what_its_workers_would_take() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = farm::coordinator(&sandbox);
    sandbox.write("a.txt", "red dots\nblue dots\n");
    let options = ["a.txt", "--size", "32x32", "--steps", "1", "--coordinator", &address];
    let before = estimate(&sandbox, &options);
    assert_eq!((&before["workers"], &before["seconds"]), (&Value::from(0), &Value::Null));

    let job = sandbox.run(&[&["submit"], &options[..]].concat()).ok().stdout.trim_end().to_owned();
    let _worker = farm::worker(&sandbox, &address, "w");
    sandbox.run(&["watch", &job, "--coordinator", &address]).ok();
    let after = sandbox.run(&[&["submit", "--dry-run", "--json"], &options[..]].concat()).ok().last_json();
    assert_eq!((&after["workers"], &after["unmeasured_images"]), (&Value::from(1), &Value::from(0)));
    assert!(after["seconds"].as_f64().unwrap() > 0.0 && after["bytes"].as_f64().unwrap() > 0.0, "{after}");
    assert_eq!(after["farm_seconds"], after["seconds"]);
    // A dry run has submitted nothing.
    assert_eq!(sandbox.run(&["jobs", "--json", "--coordinator", &address]).ok().json_lines().len(), 1);
}
