//! What an output folder promises, seen from outside.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use std::path::Path;

use bytes::Bytes;
use futures::TryStreamExt;
use sanafarm_storage::{Error, Found, Output, Put};
use tempfile::TempDir;

fn open(folder: &Path) -> Output {
    Output::open(folder.to_str().unwrap()).unwrap()
}

/// The whole object.
async fn get(output: &Output, name: &str) -> Bytes {
    match output.get(name, u64::MAX).await.unwrap() {
        Found::Object(bytes) => bytes,
        other => panic!("{name}: {other:?}"),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixteen_writers_of_one_name_one_wins_and_its_object_is_whole() {
    let folder = TempDir::new().unwrap();
    let output = open(folder.path());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16_u8 {
        let output = output.clone();
        writers.spawn(async move {
            let put = output.put_new("shared.png", Bytes::from(vec![writer; 1 << 20])).await.unwrap();
            (writer, put)
        });
    }
    let results = writers.join_all().await;
    let winners: Vec<_> = results.iter().filter(|(_, put)| *put == Put::Created).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    let stored = get(&output, "shared.png").await;
    assert_eq!(stored, vec![winners[0].0; 1 << 20]);
    assert_eq!(names(folder.path()), ["shared.png"], "no staged file stays");
}

#[tokio::test]
async fn readers_see_a_replaced_object_whole_at_every_moment() {
    let folder = TempDir::new().unwrap();
    let output = open(folder.path());
    output.replace("manifest", Bytes::from(vec![0; 1 << 20])).await.unwrap();
    let writer = tokio::spawn({
        let output = output.clone();
        async move {
            for turn in 1..=20_u8 {
                output.replace("manifest", Bytes::from(vec![turn; 1 << 20])).await.unwrap();
            }
        }
    });
    let mut seen = 0;
    while !writer.is_finished() {
        let bytes = get(&output, "manifest").await;
        assert_eq!(bytes.len(), 1 << 20);
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mix of two writes");
        seen += 1;
    }
    writer.await.unwrap();
    assert!(seen > 0);
    assert_eq!(get(&output, "manifest").await[0], 20);
}

#[tokio::test]
async fn a_taken_name_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let output = open(folder.path());
    std::fs::write(folder.path().join("mine.png"), "somebody's").unwrap();
    let put = output.put_new("mine.png", Bytes::from_static(b"ours")).await.unwrap();
    assert_eq!(put, Put::Exists);
    assert_eq!(std::fs::read(folder.path().join("mine.png")).unwrap(), b"somebody's");
}

#[tokio::test]
async fn an_absent_object_is_none_and_folders_in_names_are_made() {
    let folder = TempDir::new().unwrap();
    let output = open(folder.path());
    assert_eq!(output.get("a/b/c.png", u64::MAX).await.unwrap(), Found::Nothing);
    output.put_new("a/b/c.png", Bytes::from_static(b"c")).await.unwrap();
    assert_eq!(std::fs::read(folder.path().join("a/b/c.png")).unwrap(), b"c");
}

#[tokio::test]
async fn a_file_of_several_parts_arrives_as_it_is() {
    let folder = TempDir::new().unwrap();
    let output = open(folder.path());
    let source = TempDir::new().unwrap();
    for length in [0, 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, 20 << 20] {
        let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let file = source.path().join("manifest");
        std::fs::write(&file, &content).unwrap();
        output.replace_file("manifest.parquet", &file).await.unwrap();
        assert!(std::fs::read(folder.path().join("manifest.parquet")).unwrap() == content, "{length} bytes");
    }
    assert_eq!(names(folder.path()), ["manifest.parquet"]);
    let absent = output.replace_file("x", &source.path().join("absent")).await.unwrap_err();
    assert!(matches!(absent, Error::NotFound(_)), "{absent:?}");
}

#[tokio::test]
async fn an_object_is_read_only_up_to_the_limit() {
    let folder = TempDir::new().unwrap();
    let output = open(folder.path());
    std::fs::write(folder.path().join("a.png"), "12345").unwrap();
    assert_eq!(output.get("a.png", 5).await.unwrap(), Found::Object(Bytes::from_static(b"12345")));
    assert_eq!(output.get("a.png", 4).await.unwrap(), Found::Larger);
    std::fs::create_dir(folder.path().join("b.png")).unwrap();
    assert!(matches!(output.get("b.png", 5).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn the_sweep_leaves_peoples_own_files_alone() {
    let folder = TempDir::new().unwrap();
    let output = open(folder.path());
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    let mine = ["a.png", "notes.md#2", "a.png#1", "sub/b.png#3", "c.part", ".sanafarm-notes.part"];
    for file in mine {
        std::fs::write(folder.path().join(file), "x").unwrap();
    }
    assert_eq!(output.sweep_staging().await.unwrap(), 0);
    for file in mine {
        assert!(folder.path().join(file).exists(), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_are_not_disturbed_by_the_sweeps_and_checks_of_others() {
    let folder = TempDir::new().unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..2 {
        let output = open(folder.path());
        writers.spawn(async move {
            for turn in 0..100 {
                let name = format!("{writer}/{turn}.png");
                output.put_new(&name, Bytes::from(vec![7; 100_000])).await.unwrap();
                output.replace(&format!("{writer}.parquet"), Bytes::from_static(b"rows")).await.unwrap();
            }
        });
    }
    let third = open(folder.path());
    let fourth = open(folder.path());
    while !writers.is_empty() {
        let (swept, checked) = tokio::join!(third.sweep_staging(), fourth.check_writable());
        swept.unwrap();
        checked.unwrap();
        while writers.try_join_next().transpose().unwrap().is_some() {}
    }
    for writer in 0..2 {
        for turn in 0..100 {
            assert_eq!(
                std::fs::read(folder.path().join(format!("{writer}/{turn}.png"))).unwrap().len(),
                100_000
            );
        }
    }
    assert_eq!(names(folder.path()), ["0", "0.parquet", "1", "1.parquet"]);
}

#[tokio::test]
async fn a_folder_in_the_place_of_an_object_is_found_before_it_is_written() {
    let folder = TempDir::new().unwrap();
    let output = open(folder.path());
    std::fs::create_dir(folder.path().join("manifest")).unwrap();
    let found = output.check_replaceable("manifest").await.unwrap_err();
    let written = output.replace("manifest", Bytes::new()).await.unwrap_err();
    for error in [found, written] {
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    }
    output.check_replaceable("other").await.unwrap();
    assert_eq!(names(folder.path()), ["manifest"]);
}

#[tokio::test]
async fn a_writable_folder_passes_the_check_and_stays_empty() {
    let folder = TempDir::new().unwrap();
    let output = open(&folder.path().join("new/sub"));
    output.check_writable().await.unwrap();
    assert!(names(&folder.path().join("new/sub")).is_empty());
}

#[tokio::test]
async fn a_file_in_the_place_of_the_folder_is_a_clear_error() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("taken");
    std::fs::write(&file, "x").unwrap();
    for place in [file.clone(), file.join("sub")] {
        let error = Output::open(place.to_str().unwrap()).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains(place.to_str().unwrap()), "{error}");
    }
    // The folder goes away while the job runs.
    let gone = folder.path().join("gone");
    let output = open(&gone);
    std::fs::remove_dir(&gone).unwrap();
    std::fs::write(&gone, "x").unwrap();
    let error = output.check_writable().await.unwrap_err();
    assert!(error.to_string().contains(gone.to_str().unwrap()), "{error}");
    let error = output.put_new("a.png", Bytes::from_static(b"a")).await.unwrap_err();
    assert!(error.to_string().starts_with("write a.png in "), "{error}");
}

#[tokio::test]
async fn names_cannot_leave_the_output() {
    let folder = TempDir::new().unwrap();
    let output = open(&folder.path().join("out"));
    for name in ["", "/etc/passwd", "../a", "a/../../b", "a//b", "./a", "a/", "a\\b", "a\u{0}b"] {
        let error = output.put_new(name, Bytes::from_static(b"x")).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{name:?}: {error:?}");
        assert!(output.get(name, 1).await.is_err(), "{name:?}");
        assert!(output.replace(name, Bytes::new()).await.is_err(), "{name:?}");
    }
    assert_eq!(names(folder.path()), ["out"]);
    for name in ["ünï/cödé 100%.png", "a?b=c.png", "{x}.png", "#.png", "a.png#1", "a b"] {
        output.put_new(name, Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(std::fs::read(folder.path().join("out").join(name)).unwrap(), b"x", "{name:?}");
    }
}

#[tokio::test]
async fn places_are_named_by_path_or_url() {
    let folder = TempDir::new().unwrap();
    let url = format!("file://{}/by%20url", folder.path().display());
    let output = Output::open(&url).unwrap();
    output.put_new("a.png", Bytes::from_static(b"a")).await.unwrap();
    assert_eq!(output.folder().unwrap(), folder.path().join("by url"));
    assert_eq!(std::fs::read(folder.path().join("by url/a.png")).unwrap(), b"a");

    for bad in ["", "memory:///x", "http://", "nonsense://x", "https://host/x", "s3:///x"] {
        assert!(matches!(Output::open(bad), Err(Error::Invalid(_))), "{bad}");
    }
}

#[tokio::test]
async fn publishing_is_repeated_after_a_crash_at_any_moment() {
    let folder = TempDir::new().unwrap();
    let output = open(folder.path());
    let (from, to) = ("attempts/7/00000003.tar", "00000003.tar");
    let write = async || output.put_new(from, Bytes::from_static(b"whole")).await.unwrap();
    write().await;
    assert_eq!(output.publish(from, to).await, Ok(Put::Created));
    assert_eq!((output.size(from).await, get(&output, to).await), (Ok(None), "whole".into()));
    // Killed after all was done.
    assert_eq!(output.publish(from, to).await, Ok(Put::Exists));
    // Killed between the two names: the caller compares and removes.
    std::fs::hard_link(folder.path().join(to), folder.path().join(from)).unwrap();
    assert_eq!(output.publish(from, to).await, Ok(Put::Exists));
    assert_eq!(output.digest(from).await, output.digest(to).await);
    assert_eq!(output.remove(from).await, Ok(true));
    assert_eq!(output.remove(from).await, Ok(false));
    // Somebody else's file is left alone.
    output.replace(to, Bytes::from_static(b"another")).await.unwrap();
    write().await;
    assert_eq!(output.publish(from, to).await, Ok(Put::Exists));
    assert_eq!(get(&output, to).await, "another");
    let nothing = output.publish("attempts/8/x.tar", "x.tar").await.unwrap_err();
    assert!(matches!(nothing, Error::NotFound(_)), "{nothing:?}");
}

#[tokio::test]
async fn files_are_listed_read_and_hashed_like_objects() {
    let folder = TempDir::new().unwrap();
    let output = open(folder.path());
    let source = TempDir::new().unwrap();
    let file = source.path().join("local");
    std::fs::write(&file, "hello").unwrap();
    let names = ["a.png", "a/b.png", "a/c/d.png", "a0.png", "b/x.png", "manifest.parquet", "ö.png"];
    for name in names {
        assert_eq!(output.put_new_file(name, &file).await, Ok(Put::Created));
        assert_eq!(output.put_new_file(name, &file).await, Ok(Put::Exists));
    }
    // None of these is an object.
    let staged = format!(".sanafarm-{}.part", "0".repeat(32));
    std::fs::write(folder.path().join(staged), "half").unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let listed = async |after: Option<&str>| -> Vec<String> {
        output.list(after).map_ok(|entry| entry.name).try_collect().await.unwrap()
    };
    assert_eq!(listed(None).await, names);
    for after in ["a", "a.png", "a/", "a/b.png", "a/c", "a/c/d.png", "a0", "b/y", "ö.png"] {
        let wanted: Vec<&str> = names.into_iter().filter(|name| *name > after).collect();
        assert_eq!(listed(Some(after)).await, wanted, "after {after}");
    }
    let digest = output.digest("a/b.png").await.unwrap().unwrap();
    assert_eq!((digest.bytes, &digest.sha256[..8]), (5, "2cf24dba"));
    let pieces: Vec<Bytes> = output.read("a/b.png").await.unwrap().unwrap().try_collect().await.unwrap();
    assert_eq!(pieces.concat(), b"hello");
    assert_eq!((output.digest("absent").await, output.size("absent").await), (Ok(None), Ok(None)));
    assert!(matches!(output.size("empty").await, Err(Error::Invalid(_))));
}
