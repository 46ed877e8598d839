//! Tokens are kept, rotated and revoked.

use std::time::Duration;

use super::Bench;
use crate::domain::access::Role;
use crate::store::Error;
use crate::store::records::NewToken;

fn token(id: &str, role: Role) -> NewToken {
    NewToken {
        id: id.to_owned(),
        name: format!("token {id}"),
        role,
        owner: (role == Role::Submit).then(|| "ann".to_owned()),
        worker: (role == Role::Worker).then(|| "w1".to_owned()),
        hash: vec![1; 32],
        created_by: "root".to_owned(),
        expires_at: None,
    }
}

pub async fn a_token_is_kept_as_it_was_made(mut bench: Bench) {
    let expires_at = Some(bench.now.saturating_add(Duration::from_secs(60)).unwrap());
    let made = NewToken { expires_at, ..token("a", Role::Submit) };
    let first = bench.store.create_token(&made, bench.now).await.unwrap();
    assert_eq!(
        (first.name.as_str(), first.role, first.owner.as_deref()),
        ("token a", Role::Submit, Some("ann"))
    );
    assert_eq!((first.created_at, first.expires_at, &first.hash), (bench.now, expires_at, &vec![1; 32]));
    assert_eq!((first.last_used_at, first.rotated_at, first.revoked_at), (None, None, None));
    bench.pass(Duration::from_secs(1));
    let second = bench.store.create_token(&token("b", Role::Worker), bench.now).await.unwrap();
    assert_eq!((second.worker.as_deref(), second.owner.as_deref()), (Some("w1"), None));
    assert_eq!(bench.store.tokens().await.unwrap(), [second, first.clone()]);
    let asked = ["a".to_owned(), "none".to_owned()];
    assert_eq!(bench.store.tokens_by_id(&asked).await.unwrap(), [first]);
    assert!(bench.store.create_token(&made, bench.now).await.is_err(), "one id, one token");
    let debug = format!("{:?}", bench.store.tokens().await.unwrap());
    assert!(!debug.contains("1, 1") && !debug.contains("hash"), "{debug}");
}

pub async fn a_rotated_token_has_two_secrets_for_a_while(mut bench: Bench) {
    bench.store.create_token(&token("a", Role::Read), bench.now).await.unwrap();
    bench.pass(Duration::from_secs(1));
    let until = bench.now.saturating_add(Duration::from_secs(60)).unwrap();
    let rotated = bench.store.rotate_token("a", &[2; 32], until, bench.now).await.unwrap();
    assert_eq!((rotated.hash, rotated.old_hash), (vec![2; 32], Some(vec![1; 32])));
    assert_eq!((rotated.old_expires_at, rotated.rotated_at), (Some(until), Some(bench.now)));
    let unknown = bench.store.rotate_token("b", &[2; 32], until, bench.now).await;
    assert!(matches!(unknown, Err(Error::NotFound { what: "token in use", .. })), "{unknown:?}");
}

pub async fn a_revoked_token_stays_revoked(mut bench: Bench) {
    bench.store.create_token(&token("a", Role::Admin), bench.now).await.unwrap();
    let revoked = bench.store.revoke_token("a", bench.now).await.unwrap();
    assert_eq!(revoked.revoked_at, Some(bench.now));
    bench.pass(Duration::from_secs(5));
    let again = bench.store.revoke_token("a", bench.now).await.unwrap();
    assert_eq!(again.revoked_at, revoked.revoked_at, "the first time counts");
    let rotated = bench.store.rotate_token("a", &[2; 32], bench.now, bench.now).await;
    assert!(matches!(rotated, Err(Error::NotFound { .. })), "{rotated:?}");
    let unknown = bench.store.revoke_token("b", bench.now).await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })), "{unknown:?}");
}

pub async fn the_last_use_of_a_token_never_goes_back(mut bench: Bench) {
    bench.store.create_token(&token("a", Role::Admin), bench.now).await.unwrap();
    let early = bench.now;
    bench.pass(Duration::from_secs(5));
    for at in [bench.now, early] {
        bench.store.tokens_used(&[("a".to_owned(), at), ("gone".to_owned(), at)]).await.unwrap();
        assert_eq!(bench.store.tokens().await.unwrap()[0].last_used_at, Some(bench.now));
    }
}

pub async fn jobs_are_listed_by_owner(bench: Bench) {
    let mine = bench.submit("a", 1, 1).await;
    let ids = async |owner| {
        bench.store.jobs(owner, &[], 10).await.unwrap().into_iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(None).await, std::slice::from_ref(&mine));
    assert_eq!(ids(Some("ann")).await, [mine]);
    assert_eq!(ids(Some("bob")).await, []);
}
