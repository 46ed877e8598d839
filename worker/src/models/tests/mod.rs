//! Models from a hub over real sockets.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use sanafarm_test_servers::Port;
use sanafarm_test_servers::hub::{Fault, Hub};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{Cancel, Error, Held, Models, Options, State, Token};

mod keeping;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";
const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

/// The bundled model as it lies in the repository.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny")
}

/// A hub with `acme/sana-tiny`, and an empty cache.
struct Bench {
    hub: Hub,
    cache: TempDir,
}

impl Bench {
    fn new() -> Self {
        let hub = Hub::start();
        hub.publish("acme/sana-tiny", "main", COMMIT, &tiny());
        Self { hub, cache: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> Options {
        Options { hub: self.hub.endpoint(), ..Options::new(self.cache.path()) }
    }

    fn models(&self) -> Models {
        Models::new(self.options())
    }

    fn resolve(&self, reference: &str) -> Result<Held, Error> {
        self.models().resolve(reference, &Cancel::default())
    }

    /// What was asked for since the last time.
    fn requests_since(&self, seen: &mut usize) -> Vec<String> {
        let requests = self.hub.requests();
        let new = requests[*seen..].to_vec();
        *seen = requests.len();
        new
    }

    /// How often bytes of a file were asked for.
    fn count(&self, file: &str) -> usize {
        self.hub.requests().iter().filter(|request| request.split(' ').next() == Some(file)).count()
    }
}

/// All files below a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            found.extend(
                files(&entry.path()).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)),
            );
        } else {
            found.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

#[track_caller]
fn assert_is_tiny(held: &Held) {
    let mut wanted = files(&tiny());
    wanted.remove("MODEL_CARD.md");
    let found = files(held.folder());
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    assert!(found == wanted, "other bytes");
}

#[test]
fn a_model_is_downloaded_once_and_what_sana_does_not_read_is_left_there() {
    let bench = Bench::new();
    let mut published = files(&tiny());
    for other in [
        "transformer/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "Sana.pth",
    ] {
        published.insert(other.to_owned(), b"not wanted".to_vec());
    }
    bench.hub.publish_files("acme/sana-tiny", "main", COMMIT, published);

    let held = bench.resolve("hf:acme/sana-tiny").unwrap();
    assert_is_tiny(&held);
    assert!(
        held.folder().is_absolute() && held.folder().ends_with("sana-tiny"),
        "the recipe's name of the model"
    );
    assert_eq!(held.reference(), format!("hf:acme/sana-tiny@{COMMIT}"));
    sana::inspect(held.folder()).unwrap();
    let mut asked = bench.hub.requests();
    assert_eq!(asked.remove(0), "list acme/sana-tiny main");
    asked.sort();
    assert_eq!(asked, files(held.folder()).into_keys().collect::<Vec<_>>(), "each file once");

    let mut seen = bench.hub.requests().len();
    assert_is_tiny(&bench.resolve("hf:acme/sana-tiny").unwrap());
    assert_eq!(bench.requests_since(&mut seen), ["list acme/sana-tiny main"]);
    assert_is_tiny(&bench.resolve(held.reference()).unwrap());
    assert_eq!(bench.requests_since(&mut seen), [""; 0], "a commit never changes");
}

#[test]
fn a_branch_that_moves_is_another_version() {
    let bench = Bench::new();
    let first = bench.resolve("hf:acme/sana-tiny").unwrap();
    let mut later = files(&tiny());
    later.insert("tokenizer/tokenizer_config.json".to_owned(), b"{}".to_vec());
    bench.hub.publish_files("acme/sana-tiny", "main", LATER, later);
    let second = bench.resolve("hf:acme/sana-tiny").unwrap();
    assert_ne!(first.folder(), second.folder());
    assert_eq!(std::fs::read(second.folder().join("tokenizer/tokenizer_config.json")).unwrap(), b"{}");
    assert_is_tiny(&bench.resolve(&format!("hf:acme/sana-tiny@{COMMIT}")).unwrap());
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_broke() {
    let bench = Bench::new();
    bench.hub.spoil(WEIGHTS, [Fault::CutAfter(100_000), Fault::Status(503), Fault::CutAfter(200_000)]);
    assert_is_tiny(&bench.resolve("hf:acme/sana-tiny").unwrap());
    let requests = bench.hub.requests();
    let asked: Vec<_> = requests.iter().filter(|request| request.starts_with(WEIGHTS)).collect();
    let wanted = ["", " 100000", " 100000", " 300000"].map(|first| format!("{WEIGHTS}{first}"));
    assert_eq!(asked, wanted.each_ref());
}

#[test]
fn a_hub_that_knows_no_ranges_is_read_from_the_start() {
    let bench = Bench::new();
    bench.hub.spoil(WEIGHTS, [Fault::CutAfter(100_000), Fault::IgnoreRange]);
    assert_is_tiny(&bench.resolve("hf:acme/sana-tiny").unwrap());
    assert_eq!(bench.count(WEIGHTS), 2);
}

#[test]
fn altered_bytes_are_refused_and_fetched_again_once() {
    let bench = Bench::new();
    bench.hub.spoil(WEIGHTS, [Fault::Altered]);
    assert_is_tiny(&bench.resolve("hf:acme/sana-tiny").unwrap());
    assert_eq!(bench.count(WEIGHTS), 2);

    let bench = Bench::new();
    bench.hub.spoil(WEIGHTS, [Fault::Altered, Fault::Altered]);
    let error = bench.resolve("hf:acme/sana-tiny").unwrap_err();
    assert!(matches!(&error, Error::Damaged(text) if text.starts_with(WEIGHTS)), "{error}");
    assert_eq!(bench.models().list().unwrap()[1].state, State::Partial);
    assert_is_tiny(&bench.resolve("hf:acme/sana-tiny").unwrap());
}

#[test]
fn a_download_that_is_stopped_ends_at_once_and_goes_on_later() {
    let bench = Bench::new();
    bench.hub.spoil(WEIGHTS, [Fault::HoldAfter(100_000)]);
    let token = CancellationToken::new();
    let cancel = Cancel::when_any([CancellationToken::new(), token.clone()]);
    let models = bench.models().watched(std::sync::Arc::new({
        let token = token.clone();
        move |progress| {
            if progress.file == WEIGHTS && progress.done > 0 && progress.total > progress.done {
                token.cancel();
            }
        }
    }));
    let stopped = models.resolve("hf:acme/sana-tiny", &cancel).unwrap_err();
    assert!(matches!(stopped, Error::Cancelled), "{stopped}");
    bench.hub.release();
    assert_is_tiny(&bench.resolve("hf:acme/sana-tiny").unwrap());
    let all = bench.hub.requests().len() - 1;
    let names = bench.hub.requests().into_iter().filter(|request| !request.starts_with("list"));
    let distinct: std::collections::BTreeSet<_> =
        names.map(|name| name.split(' ').next().unwrap().to_owned()).collect();
    assert!(
        all <= distinct.len() + 2,
        "only the file in hand was asked for twice: {:?}",
        bench.hub.requests()
    );
}

#[test]
fn many_that_want_a_model_at_once_download_it_once() {
    let bench = Bench::new();
    bench.hub.spoil("model_index.json", [Fault::HoldAfter(1)]);
    std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..4).map(|_| scope.spawn(|| bench.resolve("hf:acme/sana-tiny").unwrap())).collect();
        while bench.hub.requests().iter().filter(|request| request.starts_with("list")).count() < 4 {
            std::thread::yield_now();
        }
        bench.hub.release();
        all.into_iter().for_each(|held| assert_is_tiny(&held.join().unwrap()));
    });
    for file in files(&tiny()).keys().filter(|name| *name != "MODEL_CARD.md") {
        assert_eq!(bench.count(file), 1, "{file}");
    }
}

#[test]
fn a_hub_that_refuses_is_told_with_what_to_do() {
    let bench = Bench::new();
    bench.hub.require_token("hf_secret");
    let refused = bench.resolve("hf:acme/sana-tiny").unwrap_err();
    assert!(matches!(refused, Error::Denied { .. }), "{refused}");
    let told = refused.in_full();
    assert!(told.contains("list acme/sana-tiny at http://127.0.0.1:") && told.contains("401"), "{told}");
    assert!(told.contains("set HF_TOKEN"), "{told}");

    let with = |token: &str| Options { token: Some(Token::new(token.to_owned())), ..bench.options() };
    let refused = Models::new(with("hf_wrong")).resolve("hf:acme/sana-tiny", &Cancel::default()).unwrap_err();
    assert!(refused.hint().contains("the token in HF_TOKEN may not read it"), "{refused}");
    let models = Models::new(with("hf_secret"));
    assert!(!format!("{models:?}").contains("hf_secret"));
    assert_is_tiny(&models.resolve("hf:acme/sana-tiny", &Cancel::default()).unwrap());
}

#[test]
fn what_is_not_on_the_hub_is_named() {
    let bench = Bench::new();
    let error = |reference| bench.resolve(reference).unwrap_err().to_string();
    assert_eq!(error("hf:acme/sana-tiny@v9"), "the hub has no revision v9 of acme/sana-tiny");
    assert_eq!(error("hf:acme/other"), "the hub has no model acme/other");
    let mut part = files(&tiny());
    part.remove(WEIGHTS);
    bench.hub.publish_files("acme/part", "main", COMMIT, part);
    let told = error("hf:acme/part");
    assert!(
        told.starts_with("hf:acme/part cannot be used: transformer/ holds no diffusion_pytorch_model"),
        "{told}"
    );
    assert_eq!(bench.hub.requests().iter().filter(|request| !request.starts_with("list")).count(), 0);
}

#[test]
fn a_hub_out_of_reach_leaves_what_is_here() {
    let bench = Bench::new();
    let held = bench.resolve("hf:acme/sana-tiny").unwrap();
    // Nobody listens at it while this test has it.
    let port = Port::take();
    let hub = format!("http://127.0.0.1:{}", port.number());
    let models = Models::new(Options { hub, ..bench.options() });
    let again = models.resolve("hf:acme/sana-tiny", &Cancel::default()).unwrap();
    assert_eq!((again.folder(), again.reference()), (held.folder(), held.reference()));
    let error = models.resolve("hf:acme/sana-tiny@v2", &Cancel::default()).unwrap_err();
    assert!(matches!(&error, Error::Unreachable(text) if text.contains("Connection refused")), "{error}");
}

#[test]
fn an_outline_brings_the_small_files_and_a_use_the_rest() {
    let bench = Bench::new();
    let outlined = bench.models().outline("hf:acme/sana-tiny", &Cancel::default()).unwrap();
    assert_eq!(sana::outline(outlined.folder()).unwrap().native_size, 512);
    assert_eq!(bench.hub.requests().len(), 4, "{:?}", bench.hub.requests());
    let held = bench.resolve(outlined.reference()).unwrap();
    assert_is_tiny(&held);
    assert_eq!(bench.count("model_index.json"), 1);
}

#[test]
fn other_models_are_folders_with_an_index() {
    let cache = tempfile::tempdir().unwrap();
    let models = Models::new(Options::new(cache.path()));
    let resolve = |reference: &str| models.resolve(reference, &Cancel::default());
    let absent = resolve("Efficient-Large-Model/Sana").unwrap_err();
    assert!(matches!(absent, Error::Absent(_)) && absent.in_full().contains("hf:owner/name"), "{absent}");
    let folder = tempfile::tempdir().unwrap();
    let reference = folder.path().to_str().unwrap();
    assert!(matches!(resolve(reference), Err(Error::NoModel(_))));
    File::create(folder.path().join("model_index.json")).unwrap();
    for reference in [reference, &format!("file://{reference}")] {
        let held = resolve(reference).unwrap();
        assert_eq!((held.folder(), held.reference()), (folder.path(), folder.path().to_str().unwrap()));
    }
}
