use sanafarm_storage::Output;
use sanafarm_worker::models::BUNDLED;
use serde_json::json;

use sha2::{Digest, Sha256};

use super::*;

/// A tar on a disk: names and contents of its members.
async fn tar_of(members: &[(&str, &[u8])], images: &[Image]) -> Vec<(String, What)> {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    let file = builder.into_inner().unwrap();
    std::fs::write(folder.path().join("a.tar"), &file).unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    let tar = Tar {
        name: "a.tar".to_owned(),
        images: images.len() as u64,
        bytes: file.len() as u64,
        sha256: hex::encode(Sha256::digest(&file)),
        first: 0,
        last: 9,
    };
    let stream = Incoming::new(output.read("a.tar").await.unwrap().unwrap());
    let images = images.to_vec();
    let told = blocking(move || read(stream, &tar, images, Depth::Bytes)).await.unwrap().unwrap();
    told.1.into_iter().map(|problem| (problem.object, problem.what)).collect()
}

/// An image whose picture is these bytes, and its facts.
fn image(index: u64, picture: &[u8]) -> (Image, Vec<u8>) {
    let image = Image {
        index,
        prompt: format!("prompt {index}"),
        seed: index,
        object: format!("{index:08}.png"),
        bytes: picture.len() as u64,
        sha256: hex::encode(Sha256::digest(picture)),
        ..Image::default()
    };
    let recipe = json!({ "prompt": image.prompt, "negative_prompt": "", "seed": index, "model": BUNDLED });
    let facts = json!({ "index": index, "sha256": image.sha256, "recipe": recipe });
    (image, facts.to_string().into_bytes())
}

#[tokio::test]
async fn what_does_not_belong_in_a_tar_is_told_and_so_is_what_it_lacks() {
    let ((first, facts), (second, other_facts)) = (image(0, b"one"), image(1, b"two"));
    let images = [first, second];
    let whole: [(&str, &[u8]); 6] = [
        ("00000000.png", b"one"),
        ("00000000.json", &facts),
        ("00000000.txt", b"prompt 0"),
        ("00000001.png", b"two"),
        ("00000001.json", &other_facts),
        ("00000001.txt", b"prompt 1"),
    ];
    // They are no pictures, though as they were stored.
    let odd = [("00000000.png", What::Unreadable), ("00000001.png", What::Unreadable)];
    let told = |found: &[(&str, What)]| -> Vec<(String, What)> {
        found.iter().map(|(name, what)| (format!("a.tar/{name}"), *what)).collect()
    };
    assert_eq!(tar_of(&whole, &images).await, told(&odd));

    let mut apart = whole;
    apart.swap(2, 4);
    let found = tar_of(&apart, &images).await;
    for wrong in [
        ("00000000.txt", What::Missing),
        ("00000001.png", What::Unreadable),
        ("00000000.txt", What::Extra),
        ("00000001.txt", What::Extra),
    ] {
        assert!(found.contains(&told(&[wrong])[0]), "{wrong:?} is not in {found:?}");
    }

    let mut strange = whole.to_vec();
    strange[2] = ("00000000.txt", b"another prompt");
    strange[4] = ("00000001.json", &facts);
    strange.push(("00000001.txt", b"prompt 1"));
    strange.push(("notes.md", b"mine"));
    strange.push(("00000001/x.png", b"mine"));
    let found = tar_of(&strange, &images).await;
    let more = [
        odd[0],
        ("00000000.txt", What::Recipe),
        odd[1],
        ("00000001.json", What::Recipe),
        ("00000001.txt", What::Extra),
        ("notes.md", What::Extra),
        ("00000001/x.png", What::Extra),
    ];
    assert_eq!(found, told(&more));

    let found = tar_of(&whole[..3], &images).await;
    assert_eq!(found, told(&[odd[0], ("00000001.png", What::Missing)]));
}

#[tokio::test]
async fn a_tar_that_was_cut_is_no_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(600);
    builder.append_data(&mut header, "00000000.png", &[7_u8; 600][..]).unwrap();
    let file = builder.into_inner().unwrap();
    std::fs::write(folder.path().join("a.tar"), &file[..800]).unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    let (image, _) = image(0, &[7_u8; 600]);
    let tar = Tar {
        name: "a.tar".into(),
        images: 1,
        bytes: file.len() as u64,
        sha256: String::new(),
        first: 0,
        last: 0,
    };
    let stream = Incoming::new(output.read("a.tar").await.unwrap().unwrap());
    let told = blocking(move || read(stream, &tar, vec![image], Depth::Bytes)).await.unwrap().unwrap();
    assert_eq!(told.0, 800);
    assert_eq!(told.1[0].what, What::Unreadable, "{told:?}");
}
