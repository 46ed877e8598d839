//! Joins calls that arrive while the store is busy into its next call: the busier the farm, the larger the
//! transactions. A call waits for others only when the one before it had several: then there will be some, and one
//! transaction for all of them costs the database a fraction of one for each.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::store::{Error, Result};

/// From the beginning of a call for several to the next call, at least.
const GATHER: Duration = Duration::from_millis(10);
/// Items that may wait for their turn.
const QUEUE: usize = 4096;

type Item<In, Out> = (In, oneshot::Sender<Result<Out>>);

/// The way to a store call that takes many items and answers each.
#[derive(Debug)]
pub(crate) struct Batcher<In, Out> {
    queue: mpsc::Sender<Item<In, Out>>,
}

impl<In: Clone + Send + Sync + 'static, Out: Send + 'static> Batcher<In, Out> {
    /// `call` gets at most `most` items at a time. Ends with `stop`. When a call fails for a reason that may lie in one
    /// of its items, each is tried by itself: its neighbours do not suffer for it.
    pub fn start(
        tasks: &TaskTracker,
        stop: CancellationToken,
        most: usize,
        call: impl Fn(Arc<[In]>) -> BoxFuture<'static, Result<Vec<Result<Out>>>> + Send + Sync + 'static,
    ) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = run(items, most, call) => {}
            }
        });
        Self { queue }
    }

    /// Has one item answered.
    pub async fn call(&self, item: In) -> Result<Out> {
        let (reply, answer) = oneshot::channel();
        self.queue.send((item, reply)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

async fn run<In: Clone, Out>(
    mut queue: mpsc::Receiver<Item<In, Out>>,
    most: usize,
    call: impl Fn(Arc<[In]>) -> BoxFuture<'static, Result<Vec<Result<Out>>>>,
) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, most).await > 0 {
        let (items, replies): (Vec<_>, Vec<_>) = waiting.drain(..).unzip();
        let items: Arc<[In]> = items.into();
        let next = Instant::now() + if items.len() > 1 { GATHER } else { Duration::ZERO };
        let answers = match call(Arc::clone(&items)).await {
            Ok(answers) => answers,
            Err(error @ (Error::Database(_) | Error::Corrupt(_))) if items.len() > 1 => {
                tracing::warn!(%error, items = items.len(), "a call for many failed; trying one by one");
                let mut answers = Vec::with_capacity(items.len());
                for item in items.iter() {
                    answers.push(alone(&call, item.clone()).await);
                }
                answers
            }
            Err(error) => shared(error, replies.len()),
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Whoever asked may have gone away; what was done for it is done.
            let _ = reply.send(answer);
        }
        sleep_until(next).await;
    }
}

async fn alone<In, Out>(
    call: &impl Fn(Arc<[In]>) -> BoxFuture<'static, Result<Vec<Result<Out>>>>,
    item: In,
) -> Result<Out> {
    let mut answers = call([item].into()).await?;
    answers.pop().unwrap_or_else(|| Err(Error::Corrupt("a call without an answer".to_owned())))
}

/// One error for everybody who was part of the call.
pub(crate) fn shared<Out>(error: Error, count: usize) -> Vec<Result<Out>> {
    let error = Arc::new(error);
    (0..count).map(|_| Err(Error::Shared(Arc::clone(&error)))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn what_arrives_meanwhile_is_one_call() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (sizes, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let (seen, open) = (Arc::clone(&sizes), Arc::clone(&gate));
        let batcher = Arc::new(Batcher::start(&tasks, stop.clone(), 3, move |items: Arc<[u32]>| {
            seen.lock().unwrap().push(items.len());
            let open = Arc::clone(&open);
            async move {
                open.acquire().await.unwrap().forget();
                match items[0] {
                    0 => Ok(items.iter().map(|item| Ok(item * 10)).collect()),
                    _ => Err(Error::Busy),
                }
            }
            .boxed()
        }));
        let ask = |item| {
            let batcher = Arc::clone(&batcher);
            tokio::spawn(async move { batcher.call(item).await })
        };
        let first = ask(0);
        while sizes.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let rest: Vec<_> = (1..=4).map(ask).collect();
        while batcher.queue.capacity() > QUEUE - 4 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(3);
        assert_eq!(first.await.unwrap().unwrap(), 0);
        for answer in rest {
            let error = answer.await.unwrap().unwrap_err();
            assert!(matches!(&error, Error::Shared(cause) if matches!(**cause, Error::Busy)), "{error:?}");
        }
        assert_eq!(*sizes.lock().unwrap(), [1, 3, 1]);
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        assert!(matches!(batcher.call(1).await, Err(Error::Closed)));
    }

    #[tokio::test]
    async fn one_bad_item_fails_alone() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (sizes, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let (seen, open) = (Arc::clone(&sizes), Arc::clone(&gate));
        let batcher = Arc::new(Batcher::start(&tasks, stop.clone(), 10, move |items: Arc<[u32]>| {
            seen.lock().unwrap().push(items.len());
            let open = Arc::clone(&open);
            async move {
                open.acquire().await.unwrap().forget();
                if items.contains(&2) {
                    return Err(Error::Corrupt("two".to_owned()));
                }
                Ok(items.iter().map(|item| Ok(item * 10)).collect())
            }
            .boxed()
        }));
        let ask = |item| {
            let batcher = Arc::clone(&batcher);
            tokio::spawn(async move { batcher.call(item).await })
        };
        let first = ask(0);
        while sizes.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let mut asked: Vec<_> = (1..=3).map(ask).collect();
        while batcher.queue.capacity() > QUEUE - 3 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(5);
        assert_eq!(first.await.unwrap().unwrap(), 0);
        assert_eq!(asked.remove(0).await.unwrap().unwrap(), 10);
        assert!(matches!(asked.remove(0).await.unwrap(), Err(Error::Corrupt(_))));
        assert_eq!(asked.remove(0).await.unwrap().unwrap(), 30);
        assert_eq!(*sizes.lock().unwrap(), [1, 3, 1, 1, 1]);
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
