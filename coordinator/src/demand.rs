//! What workers could do, for all who ask often: autoscalers and metrics.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::records::Demand;
use crate::store::{Result, Store};

/// The database is asked this often at most, however many ask.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

/// The last look at the database. Those who ask while somebody looks wait for the same answer.
#[derive(Debug, Default)]
pub(crate) struct Demands(Mutex<Option<(Instant, Arc<[Demand]>)>>);

impl Demands {
    /// What is left by job, as it was a moment ago.
    pub async fn look(&self, store: &dyn Store) -> Result<Arc<[Demand]>> {
        self.seen(|at| at.elapsed() <= FRESH, || store.demand()).await
    }

    /// What is left by job, as it was at that moment or later: at once, unless the database was asked just before.
    pub async fn look_after(&self, store: &dyn Store, moment: Instant) -> Result<Arc<[Demand]>> {
        self.seen(|at| at >= moment, || store.demand()).await
    }

    async fn seen<F>(&self, serves: impl Fn(Instant) -> bool, ask: impl Fn() -> F) -> Result<Arc<[Demand]>>
    where
        F: Future<Output = Result<Vec<Demand>>>,
    {
        loop {
            let mut last = self.0.lock().await;
            if let Some((at, seen)) = &*last {
                if serves(*at) {
                    return Ok(Arc::clone(seen));
                }
                let turn = *at + FRESH;
                if Instant::now() < turn {
                    drop(last);
                    tokio::time::sleep_until(turn).await;
                    continue;
                }
            }
            let at = Instant::now();
            let seen: Arc<[Demand]> = ask().await?.into();
            *last = Some((at, Arc::clone(&seen)));
            return Ok(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn the_database_is_asked_once_a_second_however_often_there_is_a_hint() {
        let (demands, asked) = (Demands::default(), AtomicU32::new(0));
        let ask = || async {
            asked.fetch_add(1, Ordering::Relaxed);
            Ok(Vec::new())
        };
        let begun = Instant::now();
        let watch = async || {
            while begun.elapsed() < FRESH * 2 {
                let moment = Instant::now();
                demands.seen(|at| at >= moment, ask).await.unwrap();
            }
        };
        let scrape = async {
            while begun.elapsed() < FRESH * 2 {
                demands.seen(|at| at.elapsed() <= FRESH, ask).await.unwrap();
                tokio::time::sleep(FRESH / 50).await;
            }
        };
        tokio::join!(watch(), watch(), scrape);
        let (looks, seconds) = (asked.load(Ordering::Relaxed), begun.elapsed().as_secs());
        assert!(u64::from(looks) <= seconds + 1, "{looks} looks in {seconds} seconds");
    }
}
