//! What a farm wrote is looked after: `verify`, `reproduce` and `gc`.

mod gc;
mod reproduce;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::farm::{coordinator, worker};
use crate::support::{Ended, Running, Sandbox};

/// A coordinator and a worker.
struct Farm {
    sandbox: Sandbox,
    address: String,
    _coordinator: Running,
    _worker: Running,
}

impl Farm {
    fn new() -> Self {
        Self::with(&[])
    }

    /// All of its processes, and all commands, in an environment with these variables.
    fn with(environment: &[(String, String)]) -> Self {
        let sandbox = Sandbox::new().with_environment(environment);
        let (coordinator, address) = coordinator(&sandbox);
        let worker = worker(&sandbox, &address, "w");
        Self { sandbox, address, _coordinator: coordinator, _worker: worker }
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.sandbox.run(&[args, &["--coordinator", &self.address]].concat())
    }

    /// Renders a list of so many prompts into `output`.
    fn render(&self, images: usize, output: &str, args: &[&str]) -> String {
        let prompt = |number| format!("large dots of colour {number} on white\n");
        self.sandbox.write("list.txt", (0..images).map(prompt).collect::<String>());
        let submit = ["submit", "list.txt", "--size", "64x64", "--steps", "2", "--output", output];
        let job = self.run(&[&submit, args].concat()).ok().stdout.trim_end().to_owned();
        self.watch(&job);
        job
    }

    fn watch(&self, job: &str) {
        let ended = self.run(&["watch", job, "--json"]).ok().last_json();
        assert_eq!(ended["state"], "succeeded");
    }

    /// Where the pictures of a job in `out` are, by index.
    fn pictures(&self, job: &str) -> Vec<PathBuf> {
        let images = self.run(&["images", job, "--json"]).ok().json_lines();
        let path = |image: &Value| self.sandbox.path("out").join(image["object"].as_str().unwrap());
        images.iter().map(path).collect()
    }

    fn verify(&self, job: &str, args: &[&str]) -> (Option<i32>, BTreeMap<u64, String>, Value) {
        let ended = self.run(&[&["verify", job, "--json"], args].concat());
        let mut lines = ended.json_lines();
        let sum = lines.pop().unwrap_or_else(|| panic!("{}", ended.stderr));
        let found = lines.iter().map(|line| {
            let index = line["index"].as_u64().unwrap_or_else(|| panic!("{line}"));
            (index, line["what"].as_str().unwrap().to_owned())
        });
        (ended.code, found.collect(), sum)
    }
}

fn found(wrong: &[(u64, &str)]) -> BTreeMap<u64, String> {
    wrong.iter().map(|(index, what)| (*index, (*what).to_owned())).collect()
}
