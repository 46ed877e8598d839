//! The one queue from which all engines take their work, so that a slow device never holds any back.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::command::Command;

/// The engines' end.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// For engines that wait for work.
    filled: Condvar,
    /// For the async side, which waits for room.
    room: Notify,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Command>,
    /// Images that each device takes at once; 0 for one that works no more.
    shares: Vec<usize>,
    /// Nothing is sent any more.
    closed: bool,
}

impl State {
    fn at_once(&self) -> usize {
        self.shares.iter().sum()
    }

    fn devices(&self) -> usize {
        self.shares.iter().filter(|share| **share > 0).count()
    }
}

/// The async side's end. The engines end when it is dropped and all is taken.
#[derive(Debug)]
pub(crate) struct Commands(Arc<Queue>);

impl Commands {
    /// Waits until one more command may wait: as many as the devices take at once.
    pub(crate) async fn room(&self) {
        loop {
            let changed = self.0.room.notified();
            {
                let state = self.0.lock();
                if state.waiting.len() < state.at_once() {
                    return;
                }
            }
            changed.await;
        }
    }

    pub(crate) fn send(&self, command: Command) {
        let mut state = self.0.lock();
        // Without devices nobody answers it: it counts as skipped.
        if state.devices() > 0 {
            state.waiting.push_back(command);
            self.0.filled.notify_one();
        }
    }

    /// Images that all devices together take at once.
    pub(crate) fn at_once(&self) -> usize {
        self.0.lock().at_once()
    }

    /// Devices at work.
    pub(crate) fn devices(&self) -> usize {
        self.0.lock().devices()
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.filled.notify_all();
    }
}

impl Queue {
    /// For so many devices, each of which takes one image at a time until it says otherwise.
    pub(super) fn new(devices: usize) -> (Commands, Arc<Self>) {
        let state = State { waiting: VecDeque::new(), shares: vec![1; devices], closed: false };
        let queue = Arc::new(Self { state: Mutex::new(state), filled: Condvar::new(), room: Notify::new() });
        (Commands(queue.clone()), queue)
    }

    /// The next command, when there is one; `None` at the end.
    pub(super) fn take(&self) -> Option<Command> {
        let mut state = self.lock();
        loop {
            if let Some(command) = state.waiting.pop_front() {
                self.room.notify_one();
                return Some(command);
            }
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Those that wait next and are like `first`, at most so many, and no more than this device's part of what waits: the
    /// last images of a job are for all devices.
    pub(super) fn take_like(&self, first: &Command, most: usize) -> Vec<Command> {
        let mut state = self.lock();
        // With the first, which was taken before.
        let part = (state.waiting.len() + 1).div_ceil(state.devices().max(1)) - 1;
        let alike = state.waiting.iter().take(most.min(part)).take_while(|next| next.is_like(first)).count();
        let taken = state.waiting.drain(..alike).collect();
        self.room.notify_one();
        taken
    }

    /// Gives commands to the other devices, before all others.
    pub(super) fn put_back(&self, commands: Vec<Command>) {
        let mut state = self.lock();
        for command in commands.into_iter().rev() {
            state.waiting.push_front(command);
        }
        self.filled.notify_all();
    }

    /// The device at this place takes so many images at once.
    pub(super) fn set_share(&self, place: usize, images: usize) {
        if let Some(share) = self.lock().shares.get_mut(place) {
            *share = images.max(1);
        }
        self.room.notify_one();
    }

    /// The device at this place works no more. What waits when there is no other counts as skipped.
    pub(super) fn leave(&self, place: usize) {
        let mut state = self.lock();
        if let Some(share) = state.shares.get_mut(place) {
            *share = 0;
        }
        if state.devices() == 0 {
            state.waiting.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No critical section leaves it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use sana::{BinMode, DecodeMode, Recipe};
    use sanafarm_telemetry::image_log::ImageLog;
    use tokio_util::sync::CancellationToken;

    use super::super::command::{Claim, Reply};
    use super::*;
    use crate::leases::LeaseKey;

    fn command(index: u64, width: u32) -> Command {
        Command {
            lease: LeaseKey { shard_id: "a".into(), attempt: 1 },
            job: "job".into(),
            index,
            model: "model".into(),
            recipe: Recipe {
                prompt: format!("prompt {index}"),
                negative_prompt: String::new(),
                seed: index,
                width,
                height: 64,
                steps: 2,
                guidance: 4.5,
                bin: BinMode::Auto,
                decode: DecodeMode::Exact,
            },
            encoding: crate::picture::Encoding::new(None).unwrap(),
            claim: Claim::new(CancellationToken::new()),
            halt: CancellationToken::new(),
            log: ImageLog::new("job", index),
            reply: Reply::new().0,
        }
    }

    fn indices(commands: &[Command]) -> Vec<u64> {
        commands.iter().map(|command| command.index).collect()
    }

    #[test]
    fn a_batch_is_of_one_size_and_leaves_other_devices_their_part() {
        let (commands, queue) = Queue::new(2);
        (0..7).for_each(|index| commands.send(command(index, 64)));
        (7..9).for_each(|index| commands.send(command(index, 96)));
        let first = queue.take().unwrap();
        assert_eq!((first.index, indices(&queue.take_like(&first, 3))), (0, vec![1, 2, 3]));
        let first = queue.take().unwrap();
        // Five images were waiting for two devices.
        assert_eq!((first.index, indices(&queue.take_like(&first, 8))), (4, vec![5, 6]));
        queue.leave(0);
        let first = queue.take().unwrap();
        assert_eq!((first.index, indices(&queue.take_like(&first, 8))), (7, vec![8]));
        queue.put_back(vec![command(20, 64), command(21, 64)]);
        let first = queue.take().unwrap();
        assert_eq!((first.index, indices(&queue.take_like(&first, 8))), (20, vec![21]));
        drop(commands);
        assert!(queue.take().is_none());
    }

    #[tokio::test]
    async fn as_many_wait_as_the_devices_take_at_once() {
        let (commands, queue) = Queue::new(2);
        for index in 0..2 {
            commands.room().await;
            commands.send(command(index, 64));
        }
        let full = |commands: &Commands| {
            let mut room = Box::pin(commands.room());
            let waker = std::task::Waker::noop();
            room.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending()
        };
        assert!(full(&commands));
        queue.set_share(1, 3);
        commands.room().await;
        assert_eq!((commands.at_once(), commands.devices()), (4, 2));
        (2..4).for_each(|index| commands.send(command(index, 64)));
        assert!(full(&commands));
        queue.take().unwrap();
        commands.room().await;
    }

    #[test]
    fn without_devices_nothing_waits() {
        let (commands, queue) = Queue::new(1);
        let (reply, answer) = Reply::new();
        commands.send(Command { reply, ..command(0, 64) });
        queue.leave(0);
        commands.send(command(1, 64));
        assert!(answer.blocking_recv().is_err(), "it counts as skipped");
        drop(commands);
        assert!(queue.take().is_none());
    }
}
