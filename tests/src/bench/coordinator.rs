//! A coordinator in this process, for the benchmark that started it.

use std::time::Duration;

use sanafarm_coordinator::{Coordinator, Database, Options};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::args::CoordinatorArgs;
use crate::child::{answer, told};
use crate::database::is_url;
use crate::error::Error;

/// Serves on a free port, tells its address, and ends when it is told no more.
pub fn serve(args: CoordinatorArgs) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(Error::io("start the async runtime"))?.block_on(run(args))
}

async fn run(args: CoordinatorArgs) -> Result<(), Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Error::io("listen on a free port"))?;
    let address = listener.local_addr().map_err(Error::io("ask for the port"))?;
    let options = Options {
        redis: args.redis.map(Into::into),
        target_shard_duration: Duration::from_secs_f64(args.shard_seconds),
        ..Options::new(database(args.database), args.scratch)
    };
    let coordinator = Coordinator::open(options).await?;
    answer(&address.to_string())?;
    let shutdown = CancellationToken::new();
    let end = async {
        let mut told = told();
        while told.recv().await.is_some() {}
        shutdown.cancel();
    };
    let (served, ()) = tokio::join!(coordinator.serve(listener, shutdown.clone()), end);
    coordinator.close().await;
    Ok(served?)
}

fn database(name: String) -> Database {
    if is_url(&name) { Database::Server(name) } else { Database::File(name.into()) }
}
