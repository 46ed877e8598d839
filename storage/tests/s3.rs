//! What an output in an object store promises, on a real S3 server over HTTP.

use std::fs;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use sanafarm_storage::{Digest, Entry, Error, Found, Input, Output, Put, Settings};
use sanafarm_test_servers::S3;
use sanafarm_test_servers::s3::{Fault, On};
use support::{content, get, open, output, patience, settings};

mod support;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn an_object_store_keeps_the_promises_of_a_folder() {
    let s3 = S3::start();
    let output = output(&s3);
    let small = Bytes::from_static(b"small");
    output.check_writable().await.unwrap();
    assert!(!s3.file("farm", "out").exists() || fs::read_dir(s3.file("farm", "out")).unwrap().count() == 0);

    assert_eq!(output.put_new("a.png", small.clone()).await, Ok(Put::Created));
    assert_eq!(output.put_new("a.png", Bytes::new()).await, Ok(Put::Exists));
    assert_eq!(fs::read(s3.file("farm", "out/a.png")).unwrap(), b"small");
    assert_eq!(output.get("a.png", 5).await, Ok(Found::Object(small)));
    assert_eq!(output.get("a.png", 4).await, Ok(Found::Larger));
    assert_eq!(output.get("b.png", 4).await, Ok(Found::Nothing));
    assert_eq!((output.size("a.png").await, output.size("b.png").await), (Ok(Some(5)), Ok(None)));

    output.check_replaceable("a.png").await.unwrap();
    output.replace("a.png", Bytes::new()).await.unwrap();
    assert_eq!(output.get("a.png", 0).await, Ok(Found::Object(Bytes::new())));

    assert_eq!((output.remove("a.png").await, output.remove("a.png").await), (Ok(true), Ok(false)));
    assert_eq!(output.size("a.png").await, Ok(None));
    assert_eq!((output.sweep_staging().await, output.folder()), (Ok(0), None));

    for name in ["ünï/cödé 100%.png", "a?b=c.png", "{x}.png", "#.png", "a+b&c.png"] {
        assert_eq!(output.put_new(name, Bytes::from_static(b"x")).await, Ok(Put::Created), "{name}");
        assert_eq!(fs::read(s3.file("farm", &format!("out/{name}"))).unwrap(), b"x", "{name}");
        assert_eq!(get(&output, name).await, "x", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_sixteen_writers_of_one_name_one_wins_and_its_object_is_whole() {
    let s3 = S3::start();
    let output = output(&s3);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16_u8 {
        let output = output.clone();
        writers.spawn(async move {
            (writer, output.put_new("shared.png", Bytes::from(vec![writer; MIB])).await.unwrap())
        });
    }
    let results = writers.join_all().await;
    let winners: Vec<_> = results.iter().filter(|(_, put)| *put == Put::Created).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    assert_eq!(get(&output, "shared.png").await, vec![winners[0].0; MIB]);
}

#[tokio::test]
async fn a_file_of_any_size_arrives_as_it_is() {
    let s3 = S3::start();
    let output = output(&s3);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("local");
    for bytes in [0, 1, 8 * MIB - 1, 8 * MIB, 45 * MIB] {
        let content = content(bytes);
        fs::write(&file, &content).unwrap();
        let name = format!("{bytes}.tar");
        assert_eq!(output.put_new_file(&name, &file).await, Ok(Put::Created), "{bytes}");
        assert_eq!(output.put_new_file(&name, &file).await, Ok(Put::Exists), "{bytes}");
        output.replace_file("manifest", &file).await.unwrap();
        for name in [&name, "manifest"] {
            assert!(fs::read(s3.file("farm", &format!("out/{name}"))).unwrap() == content, "{name}: {bytes}");
        }
    }
    assert!(s3.seen(&On::put("45.tar")) == 0 && s3.seen(&On::put("partNumber=6")) == 2);
    assert_eq!(s3.uploads(), Vec::<String>::new());
    let absent = output.put_new_file("x", &folder.path().join("absent")).await.unwrap_err();
    assert!(matches!(absent, Error::NotFound(_)), "{absent:?}");
}

#[tokio::test]
async fn an_object_is_read_in_pieces_and_hashed() {
    let s3 = S3::start();
    let output = output(&s3);
    let content = content(5 * MIB + 1);
    output.put_new("a.tar", content.clone().into()).await.unwrap();
    let reading = output.read("a.tar").await.unwrap().unwrap();
    assert_eq!(reading.bytes(), content.len() as u64);
    let pieces: Vec<Bytes> = reading.try_collect().await.unwrap();
    assert!(pieces.concat() == content);
    output.put_new("hello", Bytes::from_static(b"hello")).await.unwrap();
    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824".to_owned();
    assert_eq!(output.digest("hello").await, Ok(Some(Digest { bytes: 5, sha256 })));
    assert_eq!(output.digest("absent").await, Ok(None));
    assert!(output.read("absent").await.unwrap().is_none());
}

#[tokio::test]
async fn all_objects_are_listed_in_the_order_of_their_names_over_several_pages() {
    let s3 = S3::start();
    let mut names: Vec<String> = (0..2500).map(|at| format!("{:02}/{at:08}.png", at % 50)).collect();
    names.extend(["a.png", "a/b.png", "a0.png", "manifest.parquet", "ö.png"].map(str::to_owned));
    names.sort();
    for name in &names {
        let file = s3.file("farm", &format!("out/{name}"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "12345").unwrap();
    }
    // Others in the same bucket, before, after and beside.
    for other in ["ou/x", "out-2/x", "out.png", "outer/x"] {
        fs::create_dir_all(s3.file("farm", other).parent().unwrap()).unwrap();
        fs::write(s3.file("farm", other), "x").unwrap();
    }
    let output = output(&s3);
    let entries: Vec<Entry> = output.list(None).try_collect().await.unwrap();
    assert!(entries.iter().all(|entry| entry.bytes == 5));
    let listed: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(listed, names);
    assert!(s3.seen(&On::get("list-type=2")) >= 3, "pages");

    for after in [names[1234].as_str(), "a", "a.png", "a/", "b", "ö.png", "00/00000000.png~"] {
        let rest: Vec<Entry> = output.list(Some(after)).try_collect().await.unwrap();
        let listed: Vec<&str> = rest.iter().map(|entry| entry.name.as_str()).collect();
        let wanted: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name > after).collect();
        assert_eq!(listed, wanted, "after {after}");
    }
    assert_eq!(open(&s3, "s3://farm/none").list(None).count().await, 0);
    let whole: Vec<Entry> = open(&s3, "s3://farm").list(None).try_collect().await.unwrap();
    assert_eq!(whole.len(), names.len() + 4);
}

#[tokio::test]
async fn a_list_goes_on_after_a_page_that_broke() {
    let s3 = S3::start();
    let folder = s3.file("farm", "out");
    fs::create_dir(&folder).unwrap();
    for at in 0..1500 {
        fs::write(folder.join(format!("{at:08}.png")), "x").unwrap();
    }
    s3.inject(On::get("list-type=2"), 1, Fault::CutAnswer(1000));
    s3.inject(On::get("continuation-token"), 1, Fault::CutAnswer(1000));
    assert_eq!(output(&s3).list(None).map(Result::unwrap).count().await, 1500);
}

#[tokio::test]
async fn publishing_is_repeated_after_a_crash_at_any_moment() {
    let s3 = S3::start();
    let output = output(&s3);
    let (from, to) = ("attempts/7/00000003.tar", "00000003.tar");
    let write = async || output.put_new(from, Bytes::from_static(b"whole")).await.unwrap();
    write().await;
    assert_eq!(output.publish(from, to).await, Ok(Put::Created));
    assert_eq!((output.size(from).await, get(&output, to).await), (Ok(None), "whole".into()));
    // Killed after all was done.
    assert_eq!(output.publish(from, to).await, Ok(Put::Exists));
    // Killed between the copy and the removal: the caller compares and removes.
    write().await;
    assert_eq!(output.publish(from, to).await, Ok(Put::Exists));
    assert_eq!(output.digest(from).await, output.digest(to).await);
    assert_eq!(output.remove(from).await, Ok(true));
    // Somebody else's object is left alone.
    output.replace(to, Bytes::from_static(b"another")).await.unwrap();
    write().await;
    assert_eq!(output.publish(from, to).await, Ok(Put::Exists));
    assert_eq!(get(&output, to).await, "another");
    // Nothing to publish.
    let nothing = output.publish("attempts/8/x.tar", "x.tar").await.unwrap_err();
    assert!(matches!(nothing, Error::NotFound(_)), "{nothing:?}");
    assert_eq!(s3.uploads(), Vec::<String>::new());
}

#[tokio::test]
async fn of_two_who_publish_one_name_one_wins() {
    let s3 = S3::start();
    let output = output(&s3);
    for at in 0..4 {
        output.put_new(&format!("attempts/{at}.tar"), Bytes::from(vec![at; 100])).await.unwrap();
    }
    let publish = (0..4).map(|at| {
        let output = output.clone();
        async move { output.publish(&format!("attempts/{at}.tar"), "final.tar").await.unwrap() }
    });
    let puts = futures::future::join_all(publish).await;
    assert_eq!(puts.iter().filter(|put| **put == Put::Created).count(), 1, "{puts:?}");
    let winner = puts.iter().position(|put| *put == Put::Created).unwrap();
    assert_eq!(get(&output, "final.tar").await, vec![winner as u8; 100]);
    assert_eq!(output.list(None).count().await, 4, "the losers' objects are theirs to remove");
}

#[tokio::test]
async fn what_comes_damaged_is_refused() {
    let s3 = S3::start();
    let output = output(&s3);
    s3.inject(On::put("a.png"), 1, Fault::Damage);
    let damaged = output.put_new("a.png", content(1000).into()).await.unwrap_err();
    assert!(matches!(damaged, Error::Unavailable(_)), "{damaged:?}");
    assert!(!s3.file("farm", "out/a.png").exists());
    assert_eq!(output.put_new("a.png", content(1000).into()).await, Ok(Put::Created));
}

#[tokio::test]
async fn thousands_of_puts_share_a_few_connections() {
    let s3 = S3::start();
    let names: Vec<String> = (0..200).map(|at| format!("{at}.png")).collect();
    let puts = futures::stream::iter(&names).map(|name| {
        // An output of its own for each job and lease, as workers have it.
        let output = open(&s3, &format!("s3://farm/job-{}", name.len()));
        async move { output.put_new(name, Bytes::from_static(b"x")).await.unwrap() }
    });
    let held = output(&s3);
    assert_eq!(
        puts.buffer_unordered(4).filter(|put| std::future::ready(*put == Put::Created)).count().await,
        200
    );
    drop(held);
    assert!(s3.connections() <= 8, "{} connections", s3.connections());
}

#[tokio::test]
async fn a_missing_bucket_wrong_keys_and_a_wrong_region_say_what_to_check_and_are_not_tried_again() {
    let s3 = S3::start();
    let said = async |output: &Output| {
        let before = s3.seen(&On::new("", ""));
        let error = output.put_new("a.png", Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(s3.seen(&On::new("", "")) - before, 1, "{error}");
        error
    };

    let missing = open(&s3, "s3://nowhere/out");
    let error = said(&missing).await;
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    assert!(
        error.to_string().starts_with("write a.png in s3://nowhere/out: the server answers 404 NoSuchBucket"),
        "{error}"
    );
    for error in [
        missing.get("a.png", 1).await.map(drop).unwrap_err(),
        missing.size("a.png").await.map(drop).unwrap_err(),
        missing.list(None).next().await.unwrap().map(drop).unwrap_err(),
        missing.check_writable().await.unwrap_err(),
    ] {
        assert!(matches!(&error, Error::NotFound(text) if text.contains("check its name")), "{error:?}");
    }

    let mut wrong = settings(&s3);
    for (name, value) in &mut wrong.options {
        if name == "AWS_SECRET_ACCESS_KEY" {
            *value = "guessed".to_owned();
        }
    }
    let denied = Output::open_with("s3://farm/out", &wrong).unwrap();
    let error = said(&denied).await;
    assert!(matches!(&error, Error::Denied(text) if text.contains("403 SignatureDoesNotMatch")), "{error:?}");
    assert!(error.to_string().contains("check the credentials"), "{error}");

    s3.inject(On::new("", ""), usize::MAX, Fault::moved("eu-west-1"));
    let error = said(&output(&s3)).await;
    assert!(matches!(&error, Error::Invalid(text) if text.contains("set AWS_REGION=eu-west-1")), "{error:?}");
    s3.heal();
    s3.inject(On::new("", ""), usize::MAX, Fault::Answer(301, "PermanentRedirect", Vec::new()));
    let error = said(&output(&s3)).await;
    assert!(matches!(&error, Error::Invalid(text) if text.contains("check AWS_REGION")), "{error:?}");
}

#[tokio::test]
async fn who_has_no_keys_is_told_so() {
    let s3 = S3::start();
    let mut keyless = settings(&s3);
    keyless.options.retain(|(name, _)| !name.contains("KEY"));
    // Nothing like the service of a cloud machine is there.
    keyless.options.push(("AWS_METADATA_ENDPOINT".into(), "http://127.0.0.1:1".into()));
    let output = Output::open_with("s3://farm/out", &keyless).unwrap();
    let error = output.check_writable().await.unwrap_err();
    assert!(matches!(&error, Error::Denied(text) if text.contains("no credentials")), "{error:?}");
}

#[tokio::test]
async fn a_server_that_overwrites_in_spite_of_the_condition_is_found_out() {
    let s3 = S3::start();
    s3.inject(On::put(""), usize::MAX, Fault::Answer(200, "", vec![("etag", "\"x\"".to_owned())]));
    let error = output(&s3).check_writable().await.unwrap_err();
    assert!(matches!(&error, Error::Invalid(text) if text.contains("If-None-Match")), "{error:?}");
}

#[tokio::test]
async fn a_list_is_read_from_a_bucket() {
    let s3 = S3::start();
    let list = content(300_000);
    fs::write(s3.file("farm", "my list.txt"), &list).unwrap();
    let input = Input::open("s3://farm/my%20list.txt").unwrap();
    // Broken off in the middle once, and taken up again.
    s3.inject(On::get("list.txt"), 1, Fault::CutAnswer(100_000));
    let pieces: Vec<Bytes> = input.read_with(&settings(&s3)).await.unwrap().try_collect().await.unwrap();
    assert!(pieces.concat() == list);
    let keyless = Settings { options: s3.environment()[..2].to_vec(), patience: patience() };
    let keyless = Settings {
        options: [keyless.options, vec![("AWS_SKIP_SIGNATURE".into(), "true".into())]].concat(),
        ..keyless
    };
    let denied = input.read_with(&keyless).await.map(drop).unwrap_err();
    assert!(matches!(denied, Error::Denied(_)), "{denied:?}");
}
