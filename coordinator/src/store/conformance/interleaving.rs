//! Several sessions do whatever they may, in random order, and nothing is lost or done twice.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::state::ImageState;
use crate::domain::tail::{Part, Share};
use crate::store::records::{Change, Lease, LeaseRef, ResultRecord};

#[derive(Clone, Debug)]
enum Step {
    Lease { who: usize },
    Done { who: usize, lease: usize, image: usize },
    Error { who: usize, lease: usize, image: usize },
    Renew { who: usize, lease: usize },
    Release { who: usize, lease: usize, drain: bool },
    TakeOver { who: usize, lease: usize, part: Part },
    Requeue { image: u64 },
    Reopen { who: usize },
    Wait { seconds: u64 },
    Sweep,
    Restart,
}

const WORKERS: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let who = 0..WORKERS;
    let which = 0usize..8;
    prop_oneof![
        4 => who.clone().prop_map(|who| Step::Lease { who }),
        8 => (who.clone(), which.clone(), 0usize..4).prop_map(|(who, lease, image)| Step::Done { who, lease, image }),
        2 => (who.clone(), which.clone(), 0usize..4).prop_map(|(who, lease, image)| Step::Error { who, lease, image }),
        2 => (who.clone(), which.clone()).prop_map(|(who, lease)| Step::Renew { who, lease }),
        2 => (who.clone(), which.clone(), any::<bool>()).prop_map(|(who, lease, drain)| Step::Release { who, lease, drain }),
        3 => (who.clone(), which, part()).prop_map(|(who, lease, part)| Step::TakeOver { who, lease, part }),
        1 => (0u64..12).prop_map(|image| Step::Requeue { image }),
        1 => who.prop_map(|who| Step::Reopen { who }),
        3 => (1u64..40).prop_map(|seconds| Step::Wait { seconds }),
        3 => Just(Step::Sweep),
        1 => Just(Step::Restart),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![(1u64..4).prop_map(Part::Last), Just(Part::Whole)]
}

pub async fn nothing_is_lost_or_done_twice(mut bench: Bench) {
    // The same steps in every run; what they find depends on the store alone.
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let steps = prop::collection::vec(step(), 150);
    for round in 0..4 {
        let steps = steps.new_tree(&mut runner).unwrap().current();
        run(&mut bench, &format!("round {round}"), steps).await;
    }
}

/// There is something to render, and nothing that has been.
fn check_open(lease: &Lease, committed: &HashMap<u64, ResultRecord>) {
    assert!(lease.images.iter().all(|image| !committed.contains_key(&image.index)));
    assert!(!lease.images.is_empty());
}

async fn run(bench: &mut Bench, token: &str, steps: Vec<Step>) {
    let id = bench.submit(token, 12, 3).await;
    let mut sessions = Vec::new();
    for worker in 0..WORKERS {
        sessions.push(bench.open(&format!("w{worker}"), worker == 0).await);
    }
    // Every lease that was ever given out, also the lost ones, and to whom: zombies report too.
    let mut leases: Vec<(usize, Lease)> = Vec::new();
    let mut attempts = HashMap::new();
    let mut committed: HashMap<u64, ResultRecord> = HashMap::new();
    for step in steps {
        let pick = |lease: usize| leases.get(lease % leases.len().max(1)).cloned();
        match step {
            Step::Lease { who } => {
                if let Ok(Some(lease)) = bench.try_lease(&sessions[who], None).await {
                    let last = attempts.insert(lease.lease.shard.clone(), lease.lease.attempt);
                    assert_eq!(lease.lease.attempt, last.unwrap_or(0) + 1, "attempts rise by one");
                    check_open(&lease, &committed);
                    leases.push((who, lease));
                }
            }
            Step::TakeOver { who, lease, part } => {
                let Some((_, Lease { lease: LeaseRef { shard, attempt }, .. })) = pick(lease) else {
                    continue;
                };
                let share = Share { shard, attempt, part };
                let taken = bench.store.take_over(&sessions[who], &share, LEASE, bench.now).await;
                if let Ok(Some(lease)) = taken {
                    assert_eq!(lease.lease.attempt, attempt + 1, "attempts of an image rise by one");
                    attempts.insert(lease.lease.shard.clone(), lease.lease.attempt);
                    check_open(&lease, &committed);
                    leases.push((who, lease));
                }
            }
            Step::Done { who, lease, image } => {
                let Some((_, lease)) = pick(lease) else { continue };
                let image = &lease.images[image % lease.images.len()];
                bench.report(&sessions[who], &lease.lease, &[done(image)]).await;
            }
            Step::Error { who, lease, image } => {
                let Some((holder, lease)) = pick(lease) else { continue };
                let image = &lease.images[image % lease.images.len()];
                let error = error(image, ErrorClass::Internal);
                let told = bench.try_report(&sessions[who], &lease.lease, &[error]).await;
                assert_eq!(told.is_ok(), who == holder, "{told:?}");
            }
            Step::Renew { who, lease } => {
                let Some((_, lease)) = pick(lease) else { continue };
                // A session that was closed as silent or with the process is refused, which is fine here.
                let _ = bench.try_renew(&sessions[who], &lease.lease, &[lease.images[0].index]).await;
            }
            Step::Release { who, lease, drain: leaving } => {
                let Some((_, lease)) = pick(lease) else { continue };
                let release = if leaving { drain() } else { finished() };
                let _ = bench.store.release_lease(&sessions[who], &lease.lease, &release, bench.now).await;
            }
            Step::Requeue { image } => {
                let requeue = Change::Requeue(vec![image]);
                let changed = bench.store.change_job(&id, &requeue, &by_bob(), bench.now).await.unwrap();
                let was = committed.get(&image).filter(|result| result.error.is_none());
                assert_eq!(
                    changed.retried,
                    u64::from(was.is_some()),
                    "pictures are taken back, and no failures"
                );
                if was.is_some() {
                    committed.remove(&image);
                }
            }
            Step::Reopen { who } => {
                bench.store.close_session(&sessions[who], "reopen", bench.now).await.unwrap();
                sessions[who] = bench.open(&format!("w{who}"), who == 0).await;
            }
            Step::Wait { seconds } => bench.pass(Duration::from_secs(seconds)),
            Step::Sweep => while bench.store.expire_leases(CAPS, bench.now).await.unwrap() > 0 {},
            Step::Restart => {
                bench.store.recover(LEASE, bench.now).await.unwrap();
            }
        }
        for image in bench.images(&id).await {
            match (committed.get(&image.index), image.result) {
                (Some(before), now) => assert_eq!(Some(before), now.as_ref(), "a result never changes"),
                (None, Some(result)) => {
                    assert_ne!(image.state, ImageState::Pending);
                    committed.insert(image.index, result);
                }
                (None, None) => assert_eq!(image.state, ImageState::Pending),
            }
        }
        bench.check_invariants().await;
    }
    // Whatever happened, an honest worker brings it to its end.
    let honest = bench.session("honest").await;
    for _ in 0..100 {
        bench.pass(LEASE * 3);
        while bench.store.expire_leases(CAPS, bench.now).await.unwrap() > 0 {}
        bench.render_all(&honest).await;
    }
    let job = bench.store.job(id.as_str()).await.unwrap();
    assert_eq!(job.done + job.failed, job.images);
    bench.store.finish_job(&id, bench.now).await.unwrap();
    bench.check_invariants().await;
}
