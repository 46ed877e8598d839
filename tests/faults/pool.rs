//! A PostgreSQL server that has no connection to give.

use sanafarm_test_servers::postgres::Options;
use sqlx::{Connection, PgConnection, Row};
use tokio::runtime::Runtime;

use crate::support::books::assert_whole;
use crate::support::cluster::Cluster;
use crate::support::{Running, wait_until};

/// What the server has to give: enough for a coordinator, and for those that the test has just closed.
const CONNECTIONS: usize = 48;

/// All connections of a server, taken by the test.
struct Hoard {
    runtime: Runtime,
    held: Vec<PgConnection>,
}

impl Hoard {
    /// Takes every connection, those of the coordinator too: it stands still meanwhile, else it would open
    /// them again as fast as they are taken.
    fn take_all(cluster: &Cluster, coordinator: &Running) -> Self {
        coordinator.freeze();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let first = runtime.block_on(PgConnection::connect(cluster.url())).unwrap();
        let mut hoard = Self { runtime, held: vec![first] };
        wait_until("all connections to be taken", || {
            while let Ok(connection) = hoard.runtime.block_on(PgConnection::connect(cluster.url())) {
                hoard.held.push(connection);
            }
            let theirs =
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'sanafarm'";
            let ended = sqlx::query(theirs).execute(&mut hoard.held[0]);
            hoard.runtime.block_on(ended).unwrap();
            hoard.held.len() == CONNECTIONS
        });
        coordinator.thaw();
        hoard
    }

    /// Pictures that are committed.
    fn pictures(&mut self) -> i64 {
        let counted = sqlx::query("select count(*) from results").fetch_one(&mut self.held[0]);
        self.runtime.block_on(counted).unwrap().get(0)
    }
}

#[test]
fn a_farm_goes_on_when_its_database_had_no_connection_left() {
    const IMAGES: usize = 40;
    let cluster = Cluster::with(Options {
        settings: vec![format!("max_connections={CONNECTIONS}")],
        ..Options::default()
    });
    let coordinator = cluster.coordinator(&[]);
    let at = coordinator.address.as_str();
    let _workers = [cluster.worker(at, "one"), cluster.worker(at, "two")];
    cluster.wait_for_workers(2);
    let job = cluster.submit(at, IMAGES, "96x96", "3");
    cluster.wait_for_pictures(4);

    let mut hoard = Hoard::take_all(&cluster, &coordinator.process);
    let before = hoard.pictures();
    std::thread::scope(|scope| {
        let calls = [vec!["jobs"], vec!["cancel", &job]].map(|verb| {
            let cluster = &cluster;
            scope.spawn(move || cluster.sandbox.run(&[&verb[..], &["--coordinator", at]].concat()))
        });
        for refused in calls.map(|call| call.join().unwrap()) {
            assert_eq!(refused.code, Some(2), "{}", refused.stderr);
            let told = ["the database is busy; try again", "cannot be reached; it is tried again"];
            assert!(told.iter().any(|told| refused.stderr.contains(told)), "{}", refused.stderr);
        }
    });
    assert_eq!(hoard.pictures(), before, "there was no connection to commit with");
    drop(hoard);

    cluster.watch(at, &job);
    assert_whole(&cluster, &job, IMAGES);
}
