//! What was downloaded: altered, checked, removed, and kept below a size.

use std::fs::FileTimes;

use super::*;

#[test]
fn what_was_altered_on_the_disk_is_fetched_again_and_no_more() {
    let bench = Bench::new();
    let held = bench.resolve("hf:acme/sana-tiny").unwrap();
    let reference = held.reference().to_owned();
    let weights = held.folder().join(WEIGHTS);
    let mut seen = bench.hub.requests().len();
    let again = |seen: &mut usize| {
        assert_is_tiny(&bench.resolve(&reference).unwrap());
        bench.requests_since(seen)
    };
    let listed = format!("list acme/sana-tiny {COMMIT}");

    // As after a copy of the whole cache.
    File::options().write(true).open(&weights).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(again(&mut seen), std::slice::from_ref(&listed));
    assert_eq!(again(&mut seen), [""; 0]);
    File::options().write(true).open(&weights).unwrap().set_len(5000).unwrap();
    assert_eq!(again(&mut seen), [listed.clone(), WEIGHTS.to_owned()]);
    std::fs::remove_file(&weights).unwrap();
    assert_eq!(again(&mut seen), [listed.clone(), WEIGHTS.to_owned()]);
    let mut bytes = std::fs::read(&weights).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    // The clock of files is coarse: it may tell the same time as when they came.
    File::options().write(true).open(&weights).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(again(&mut seen), [listed, WEIGHTS.to_owned()]);
}

#[test]
fn verify_finds_what_neither_length_nor_time_tells() {
    let bench = Bench::new();
    let held = bench.resolve("hf:acme/sana-tiny").unwrap();
    let verify = || bench.models().verify(Some("hf:acme/sana-tiny"), &Cancel::default()).unwrap();
    assert!(verify().iter().all(|file| file.fault.is_none()) && verify().len() == 10);

    let weights = held.folder().join(WEIGHTS);
    let time = std::fs::metadata(&weights).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&weights).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let file = File::options().write(true).open(&weights).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
    let bad: Vec<_> = verify().into_iter().filter(|file| file.fault.is_some()).collect();
    assert_eq!(bad.len(), 1);
    assert!(
        bad[0].file == WEIGHTS && bad[0].fault.as_ref().unwrap().starts_with("it was altered"),
        "{bad:?}"
    );
    assert_eq!(bench.models().list().unwrap()[1].state, State::Partial);
    assert_is_tiny(&bench.resolve(held.reference()).unwrap());
    assert!(verify().iter().all(|file| file.fault.is_none()));
}

#[test]
fn a_model_in_use_is_not_removed() {
    let bench = Bench::new();
    let held = bench.resolve("hf:acme/sana-tiny").unwrap();
    let models = bench.models();
    assert!(models.list().unwrap()[1].in_use);
    assert!(matches!(models.remove("hf:acme/sana-tiny"), Err(Error::InUse(_))));
    assert_is_tiny(&held);
    drop(held);
    let removed = models.remove("hf:acme/sana-tiny@0123456").unwrap();
    assert_eq!((removed.len(), removed[0].version.as_str(), removed[0].in_use), (1, COMMIT, false));
    assert_eq!(models.list().unwrap().len(), 1, "only the bundled one");
    assert!(matches!(models.remove("hf:acme/sana-tiny"), Err(Error::NotHere(_))));
    assert!(matches!(models.remove("sana-tiny"), Err(Error::Reference { .. })));
    assert_is_tiny(&bench.resolve("hf:acme/sana-tiny").unwrap());
}

#[test]
fn the_model_that_was_not_used_for_longest_makes_room_and_none_in_use() {
    let bench = Bench::new();
    for name in ["acme/b", "acme/c", "acme/d"] {
        bench.hub.publish(name, "main", COMMIT, &tiny());
    }
    let first = bench.resolve("hf:acme/sana-tiny").unwrap();
    let bytes = bench.models().list().unwrap()[1].bytes;
    drop(bench.resolve("hf:acme/b").unwrap());
    drop(bench.resolve("hf:acme/c").unwrap());
    drop(bench.resolve("hf:acme/b").unwrap());

    let limited =
        |models: u64| Models::new(Options { cache_size: Some(models * bytes + 1), ..bench.options() });
    let fourth = limited(3).resolve("hf:acme/d", &Cancel::default()).unwrap();
    let names = |models: &Models| {
        let mut names: Vec<_> = models.list().unwrap().into_iter().map(|listed| listed.model).collect();
        names.sort();
        names
    };
    assert_eq!(names(&bench.models()), ["hf:acme/b", "hf:acme/d", "hf:acme/sana-tiny", "sana-tiny"]);
    let refused = limited(2).resolve("hf:acme/c", &Cancel::default()).unwrap_err();
    assert!(matches!(&refused, Error::Room(text) if text.contains("and models in use take")), "{refused}");
    let refused = limited(0).resolve("hf:acme/c", &Cancel::default()).unwrap_err();
    assert!(matches!(&refused, Error::Room(text) if text.ends_with("the cache may have 1")), "{refused}");
    assert_eq!(names(&bench.models()), ["hf:acme/d", "hf:acme/sana-tiny", "sana-tiny"]);
    assert_is_tiny(&first);
    assert_is_tiny(&fourth);
}

#[test]
fn what_a_killed_removal_left_is_swept() {
    let bench = Bench::new();
    let folder = bench.resolve("hf:acme/sana-tiny").unwrap().folder().to_owned();
    let version = folder.parent().unwrap().parent().unwrap();
    std::fs::remove_file(version.join("manifest.json")).unwrap();
    bench.hub.publish("acme/b", "main", COMMIT, &tiny());
    bench.resolve("hf:acme/b").unwrap();
    assert!(!version.exists());
}
