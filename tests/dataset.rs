//! A data set on its whole way: a list, presigned uploads into a bucket, workers that are taken away, and the libraries that
//! training runs read it with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sanafarm_test_servers::S3;
use serde_json::Value;

use crate::support::books::assert_balanced;
use crate::support::cluster::{Cluster, Coordinator};
use crate::support::web::WebServer;
use crate::support::{Running, Sandbox};

const PROMPTS: usize = 500;
/// Where AWS tells that a spot machine is taken back.
const NOTICE: &str = "latest/meta-data/spot/instance-action";

/// Two workers without keys of the bucket, one of them on a spot machine.
struct Farm {
    cluster: Cluster,
    s3: S3,
    coordinator: Coordinator,
    python: PathBuf,
}

impl Farm {
    fn start() -> Self {
        let (cluster, s3) = (Cluster::new(), S3::start());
        let coordinator = cluster.coordinator_with(&["--presign"], |command| {
            command.envs(s3.environment());
        });
        let farm = Self { cluster, s3, coordinator, python: python() };
        farm.write_list();
        farm
    }

    /// A Parquet list with a column of its own.
    fn write_list(&self) {
        let script = format!(
            "import pyarrow, pyarrow.parquet\n\
             rows = range({PROMPTS})\n\
             table = pyarrow.table({{'prompt': [f'large red dots on blue {{n}}' for n in rows], \
             'id': [f'row-{{n}}' for n in rows], 'source': ['made up'] * {PROMPTS}}})\n\
             pyarrow.parquet.write_table(table, 'list.parquet')"
        );
        let mut command = Command::new(&self.python);
        command.args(["-c", &script]).current_dir(self.sandbox().path("."));
        assert!(command.status().unwrap().success());
    }

    fn sandbox(&self) -> &Sandbox {
        &self.cluster.sandbox
    }

    fn worker(&self, name: &str, more: &[&str]) -> Running {
        let outbox = format!("outbox-{name}");
        let args =
            ["worker", "--coordinator", &self.coordinator.address, "--name", name, "--outbox", &outbox];
        self.sandbox().start(&[&args, more].concat())
    }

    /// A command with the keys of the bucket.
    fn run(&self, args: &[&str]) -> Value {
        let address = ["--coordinator", &self.coordinator.address, "--json"];
        let mut command = self.sandbox().command(&[args, &address].concat());
        let output = command.envs(self.s3.environment()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{args:?}: {stdout}{stderr}{}", self.sandbox().running_log());
        serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
    }

    /// Renders the list while one worker is taken away and the other one is killed and started again; the job.
    fn render(&self, layout: &str) -> String {
        let metadata = WebServer::new([("latest/api/token", b"token".to_vec())]);
        let endpoint = metadata.url("");
        let spot = self.worker("spot", &["--spot", "aws", "--spot-endpoint", endpoint.trim_end_matches('/')]);
        let other = self.worker("other", &[]);
        let output = format!("s3://farm/{layout}");
        let what = ["submit", "list.parquet", "--size", "64x64", "--steps", "2", "--layout", layout];
        let submitted = self.run(&[&what[..], &["--output", &output]].concat());
        let job = submitted["job_id"].as_str().unwrap().to_owned();
        let done = format!("select done from audit_jobs where job_id = '{job}'");
        crate::support::wait_until("half of the pictures", || self.cluster.number(&done) >= PROMPTS / 2);
        metadata.put(NOTICE, br#"{"action": "terminate", "time": "2100-01-01T00:00:00Z"}"#);
        assert!(spot.wait().success(), "{}", self.sandbox().running_log());
        other.kill();
        let _again = self.worker("other", &[]);
        let ended = self.cluster.watch(&self.coordinator.address, &job);
        assert_eq!(ended["state"], "succeeded", "{ended}");
        job
    }

    /// What the database has of each image: its checksum.
    fn told(&self, job: &str) -> BTreeMap<u64, String> {
        let sql =
            format!("select image_index, sha256 from audit_images where job_id = '{job}' and state = 'done'");
        let rows = self.cluster.sql(&sql);
        rows.lines()
            .map(|row| row.split_once('|').unwrap())
            .map(|(index, sum)| (index.parse().unwrap(), sum.to_owned()))
            .collect()
    }

    /// What a library finds in the output: for each reader its samples, each once.
    fn read(&self, layout: &str) -> BTreeMap<String, BTreeMap<u64, String>> {
        let mut found: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
        for sample in read(&self.python, layout, &self.s3.file("farm", layout)) {
            assert_eq!(sample.prompt, format!("large red dots on blue {}", sample.index));
            let Sample { reader, index, sha256, .. } = sample;
            let samples = found.entry(reader.clone()).or_default();
            assert_eq!(samples.insert(index, sha256), None, "{reader} reads image {index} twice");
        }
        found
    }
}

/// What a library reads of an image.
#[derive(serde::Deserialize)]
struct Sample {
    reader: String,
    index: u64,
    sha256: String,
    prompt: String,
}

/// All that the libraries read in an output.
fn read(python: &Path, layout: &str, output: &Path) -> Vec<Sample> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/read_dataset.py");
    let output = Command::new(python).arg(script).arg(layout).arg(output).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A Python with the libraries, made by the first test that needs it.
fn python() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/venv");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "tests/venv: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

#[test]
fn training_libraries_read_what_workers_without_keys_made_whatever_became_of_them() {
    let farm = Farm::start();
    for (layout, readers) in [("webdataset", &["datasets", "webdataset"][..]), ("files", &["datasets"])] {
        let job = farm.render(layout);
        let told = farm.told(&job);
        assert!(told.keys().copied().eq(0..PROMPTS as u64), "{layout}: {} images", told.len());
        let found = farm.read(layout);
        assert!(found.keys().eq(readers), "{layout}: {:?}", found.keys());
        for (reader, samples) in found {
            assert!(samples == told, "{reader} reads {} samples of {layout} and other bytes", samples.len());
        }
        let verified = farm.run(&["verify", &job]);
        assert_eq!(verified["problems"], 0, "{verified}");
    }
    assert_balanced(&farm.cluster);
}

/// Lists with other columns, names in other folders, thumbnails beside pictures of the same kind.
#[test]
fn training_libraries_read_outputs_that_several_jobs_have_filled() {
    let (python, sandbox) = (python(), Sandbox::new());
    sandbox.write("plain.txt", "red dots\ngreen dots\nblue dots\n");
    sandbox.write(
        "rows.jsonl",
        "{\"prompt\": \"red stripes\", \"id\": \"a\", \"kind\": \"stripes\", \"width\": 96}\n\
         {\"prompt\": \"blue bricks\", \"kind\": \"bricks\", \"score\": 0.5, \"seed\": 7}\n",
    );
    for (layout, format, template, readers) in [
        ("files", "jpeg", "{kind}/{index:08}", &["datasets"][..]),
        ("files", "webp", "{prompt_hash}", &["datasets"]),
        ("webdataset", "jpeg", "{index:010}", &["datasets", "webdataset"]),
        ("webdataset", "webp-lossless", "{index:08}", &["datasets", "webdataset"]),
    ] {
        let output = format!("{layout}-{format}");
        let render = |list: &str, more: &[&str]| {
            let what = ["render", list, "--output", &output, "--layout", layout, "--format", format];
            let how = ["--thumbnails", "--size", "64x64", "--steps", "1", "--json"];
            let ended = sandbox.run(&[&what[..], &how, more].concat()).ok();
            ended.last_json()["job_id"].as_str().unwrap().to_owned()
        };
        let jobs =
            [render("plain.txt", &[]), render("rows.jsonl", &["--append", "--name-template", template])];
        let mut told: Vec<[String; 2]> = Vec::new();
        for job in &jobs {
            sandbox.run(&["verify", job, "--deep"]).ok();
            let images = sandbox.run(&["images", job, "--json"]).ok().json_lines();
            let text = |image: &Value, key: &str| image[key].as_str().unwrap().to_owned();
            told.extend(images.iter().map(|image| [text(image, "prompt"), text(image, "sha256")]));
        }
        told.sort();
        assert_eq!(told.len(), 5);
        let mut found: BTreeMap<String, Vec<[String; 2]>> = BTreeMap::new();
        for Sample { reader, prompt, sha256, .. } in read(&python, layout, &sandbox.path(&output)) {
            found.entry(reader).or_default().push([prompt, sha256]);
        }
        assert!(found.keys().eq(readers), "{output}: {:?}", found.keys());
        for (reader, mut samples) in found {
            samples.sort();
            assert_eq!(samples, told, "{reader} of {output}");
        }
    }
}
