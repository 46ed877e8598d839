//! Workers without keys: the coordinator signs the URLs that they write to.

use bytes::Bytes;
use sanafarm_proto::v1::{LeaseRef, SignedObject};
use sanafarm_storage::{Found, Patience, Put, Signed};
use sanafarm_test_servers::S3;
use tonic::Code;

use crate::support::hand::{Hand, pictures};
use crate::support::{Running, Sandbox};

/// A coordinator that has the keys of a server, and a job of two images that go there.
fn farm(sandbox: &Sandbox, s3: &S3, args: &[&str]) -> (Running, String) {
    let with_keys = |args: &[&str]| {
        let mut command = sandbox.command(args);
        command.envs(s3.environment());
        command
    };
    let mut coordinator =
        sandbox.start_command(with_keys(&[&["coordinator", "--listen", "127.0.0.1:0"], args].concat()));
    let line = coordinator.first_line();
    let address = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
    sandbox.write("list.txt", "red dots\nblue dots\n");
    let submit = ["submit", "list.txt", "--size", "64x64", "--steps", "2", "--output", "s3://farm/out"];
    let submitted = with_keys(&[&submit[..], &["--coordinator", &address]].concat()).output().unwrap();
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));
    (coordinator, address)
}

/// URLs for these objects of a lease.
fn signed(hand: &Hand, lease: &LeaseRef, objects: &[&str]) -> Result<Vec<SignedObject>, (Code, String)> {
    hand.sign(lease, objects).map_err(|status| (status.code(), status.message().to_owned()))
}

#[test]
fn a_worker_without_keys_writes_the_objects_of_its_lease_and_no_others() {
    let (sandbox, s3) = (Sandbox::new(), S3::start());
    let (_coordinator, address) = farm(&sandbox, &s3, &["--presign"]);
    let (hand, other) = (Hand::open(&address, "gpu-12"), Hand::open(&address, "gpu-13"));
    let (lease, leased) = hand.lease();
    assert!(leased.presigned);
    let objects: Vec<&str> = leased.images.iter().map(|image| image.object.as_str()).collect();
    let urls = signed(&hand, &lease, &objects).unwrap();
    assert_eq!(urls.iter().map(|url| url.object.as_str()).collect::<Vec<_>>(), objects);
    assert!(urls[0].expires_at.is_some());

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = Signed::with_patience(Patience { retries: 0, ..Patience::default() }).unwrap();
    let picture = Bytes::from_static(b"a picture");
    let put = urls[0].put_url.parse().unwrap();
    assert_eq!(runtime.block_on(client.put_new(&put, picture.clone())), Ok(Put::Created));
    assert_eq!(runtime.block_on(client.put_new(&put, Bytes::new())), Ok(Put::Exists));
    assert_eq!(std::fs::read(s3.file("farm", &format!("out/{}", objects[0]))).unwrap(), picture);
    let get = urls[0].get_url.parse().unwrap();
    assert_eq!(runtime.block_on(client.get(&get, 100)), Ok(Found::Object(picture)));

    let foreign = signed(&hand, &lease, &[objects[0], "manifest.parquet"]).unwrap_err();
    let shard = &lease.shard_id;
    let text = format!("\"manifest.parquet\" is no object of attempt 1 of shard {shard}");
    assert_eq!(foreign, (Code::PermissionDenied, text));
    let theirs = signed(&other, &lease, &objects).unwrap_err();
    let text = format!("attempt 1 of shard {shard} was not given to this worker");
    assert_eq!(theirs, (Code::OutOfRange, text), "no fault of a token: a worker gives up what it has of it");

    // A lease that is gone: what is on the worker's disk may still be written, and what has its result is only read.
    hand.told(&lease, &pictures(&leased.images)[..1]);
    hand.release(&lease).unwrap();
    let urls = signed(&hand, &lease, &objects).unwrap();
    assert_eq!((urls[0].put_url.as_str(), urls[1].put_url.is_empty()), ("", false));
    assert!(!urls[0].get_url.is_empty());
}

#[test]
fn a_coordinator_signs_nothing_unless_it_is_told_to() {
    let (sandbox, s3) = (Sandbox::new(), S3::start());
    let (_coordinator, address) = farm(&sandbox, &s3, &[]);
    let hand = Hand::open(&address, "gpu-12");
    let (lease, leased) = hand.lease();
    assert!(!leased.presigned);
    let (code, text) = signed(&hand, &lease, &[&leased.images[0].object]).unwrap_err();
    assert_eq!(code, Code::FailedPrecondition);
    assert!(text.contains("start it with --presign"), "{text}");
}

#[test]
fn a_folder_needs_no_signature() {
    let sandbox = Sandbox::new();
    let mut coordinator = sandbox.start(&["coordinator", "--listen", "127.0.0.1:0", "--presign"]);
    let line = coordinator.first_line();
    let address = line.strip_prefix("listening on ").unwrap();
    sandbox.write("list.txt", "red dots\n");
    sandbox.run(&["submit", "list.txt", "--size", "64x64", "--output", "out", "--coordinator", address]).ok();
    let (_, leased) = Hand::open(address, "gpu-12").lease();
    assert!(!leased.presigned);
}
