//! The objects that an output may hold.

use futures::TryStreamExt;

use super::Bench;
use super::archives::{tar, tars};
use super::bench::*;
use crate::domain::archive::staged_name;
use crate::domain::blame::ErrorClass;
use crate::domain::form::Form;
use crate::domain::listing::ObjectState;
use crate::domain::spec::{JobSpec, Row};
use crate::store::records::{Change, Lease, Listed};

impl Bench {
    /// Everything that is listed, which is in byte order.
    async fn listed(&self, output: &str) -> Vec<Listed> {
        let manifests = ["manifest.parquet".to_owned(), "a.json".to_owned()];
        let pages: Vec<Vec<Listed>> =
            self.store.objects(output, &manifests).await.unwrap().try_collect().await.unwrap();
        let listed = pages.concat();
        assert!(listed.is_sorted_by(|a, b| a.name.as_bytes() < b.name.as_bytes()), "{listed:?}");
        listed
    }

    async fn names(&self, output: &str) -> Vec<(String, &'static str)> {
        let listed = self.listed(output).await;
        listed.into_iter().map(|object| (object.name, object.state.word())).collect()
    }
}

fn named(names: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    names.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect()
}

pub async fn what_an_output_may_hold_is_listed_in_byte_order(bench: Bench) {
    let wanted = JobSpec {
        // Not in the order of the indices, nor in that of any language.
        name_template: "{id}/{index}".to_owned(),
        form: Form { thumbnails: true, ..Form::default() },
        ..spec("a")
    };
    let ids = ["b", "B", "ä", "a-1", "a"];
    let rows = (1..).zip(ids).map(|(line, id)| Row { id: Some(id.to_owned()), ..row(line) });
    let id = bench.submit_rows(wanted, rows, 5).await;
    let other = bench.submit("b", 1, 1).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let results = [done(&lease.images[0]), error(&lease.images[1], ErrorClass::Prompt)];
    bench.report(&session, &lease.lease, &results).await;
    let listed = bench.listed("/out/a").await;
    let of_image: Vec<_> = listed.iter().filter(|object| object.index == Some(0)).collect();
    let object = &lease.images[0].object;
    assert_eq!(
        of_image[0],
        &Listed {
            name: object.clone(),
            state: ObjectState::Done,
            bytes: Some(1000),
            sha256: Some(format!("{:064x}", 0)),
            job: Some(id.clone()),
            index: Some(0),
        }
    );
    let thumbnail = Form { thumbnails: true, ..Form::default() }.thumbnail(object).unwrap();
    assert_eq!((of_image[1].name.as_str(), of_image[1].bytes), (thumbnail.as_str(), None));
    assert_eq!(listed.len(), 5 * 2 + 2);
    let states = |wanted| listed.iter().filter(|object| object.state == wanted).count();
    // What failed may be tried again.
    assert_eq!((states(ObjectState::Pending), states(ObjectState::Manifest)), (8, 2));
    bench.change(&id, Change::Cancel).await;
    let dead = bench.listed("/out/a").await.iter().filter(|object| object.state == ObjectState::Dead).count();
    assert_eq!(dead, 8);
    assert_eq!(bench.listed("/out/b").await[0].job.as_ref(), Some(&other));
    assert_eq!(
        bench.names("/out/nowhere").await,
        named(&[("a.json", "manifest"), ("manifest.parquet", "manifest")])
    );
}

pub async fn a_long_list_comes_in_pages(bench: Bench) {
    bench.submit("a", 2500, 500).await;
    assert_eq!(bench.listed("/out/a").await.len(), 2502);
    // Whoever takes one page only leaves nothing behind that others wait for.
    for _ in 0..20 {
        let mut pages = bench.store.objects("/out/a", &[]).await.unwrap();
        assert_eq!(pages.try_next().await.unwrap().unwrap().len(), 1000);
    }
}

pub async fn tars_are_listed_on_their_way_to_their_names(bench: Bench) {
    // Shards of twenty: those of tars are larger.
    let id = bench.submit_rows(tars("a"), (1..=40).map(row), 2).await;
    let session = bench.session("w").await;
    let (first, second) = (bench.lease(&session).await.unwrap(), bench.lease(&session).await.unwrap());
    let staged = |lease: &Lease| staged_name(lease.lease.shard.as_str(), lease.lease.attempt);
    let others = named(&[("a.json", "manifest"), ("manifest.parquet", "manifest")]);
    let list = |names: &[(&str, &'static str)]| {
        let mut names = [named(names), others.clone()].concat();
        names.sort();
        names
    };
    let (one, two) = (staged(&first), staged(&second));
    assert_eq!(bench.names("/out/a").await, list(&[(&one, "pending"), (&two, "pending")]));
    let results: Vec<_> = first.images.iter().map(done).collect();
    bench.report_tar(&session, &first.lease, &results, tar(&first, "")).await.unwrap();
    assert_eq!(bench.names("/out/a").await, list(&[(&one, "staged"), (&two, "pending")]));
    let numbered = bench.store.number_archives("/out/a", 10).await.unwrap();
    let manifest = "manifests/train-000000.parquet";
    assert_eq!(
        bench.names("/out/a").await,
        list(&[(&one, "staged"), (&two, "pending"), ("train-000000.tar", "pending"), (manifest, "manifest")])
    );
    bench.store.archive_published(&numbered[0].lease, bench.now).await.unwrap();
    bench.change(&id, Change::Cancel).await;
    let listed = bench.listed("/out/a").await;
    let archive = listed.iter().find(|object| object.state == ObjectState::Archive).unwrap();
    assert_eq!((archive.name.as_str(), archive.bytes), ("train-000000.tar", Some(numbered[0].bytes)));
    assert_eq!((archive.sha256.as_ref(), archive.job.as_ref()), (Some(&numbered[0].sha256), Some(&id)));
    let expected = list(&[("train-000000.tar", "archive"), (manifest, "manifest")]);
    assert_eq!(bench.names("/out/a").await, expected, "nobody waits for the other tar any more");
}
