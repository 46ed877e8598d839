//! Ctrl-C and SIGTERM: the first asks to leave, the second to leave now, the third does not ask. When nothing
//! is in hand, the first does not ask either.

use sanafarm_worker::Shutdown;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Exit};
use crate::printer::Printer;

/// Listens for signals while something is in hand that a signal can cut short.
#[derive(Debug)]
pub struct Signals {
    task: JoinSet<()>,
    nothing_in_hand: CancellationToken,
}

impl Signals {
    /// Cancels `shutdown.soft` at the first signal and says `message`, `shutdown.hard` at the second.
    pub fn listen(shutdown: Shutdown, message: &'static str, printer: &Printer) -> Result<Self, Error> {
        let listen =
            |kind| signal(kind).map_err(|error| Error::failure("listen for signals").caused_by(&error));
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let printer = printer.clone();
        let nothing_in_hand = CancellationToken::new();
        let at_once = nothing_in_hand.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let steps = [(message, shutdown.soft), ("stopping now", shutdown.hard)];
            for (message, step) in steps {
                either(&mut interrupt, &mut terminate).await;
                if at_once.is_cancelled() {
                    std::process::exit(Exit::Interrupted as i32);
                }
                printer.note(message);
                step.cancel();
            }
            either(&mut interrupt, &mut terminate).await;
            std::process::exit(Exit::Interrupted as i32);
        });
        Ok(Self { task, nothing_in_hand })
    }

    /// From now on any signal ends the process at once. Not to listen any more would make it deaf instead:
    /// tokio gives no signal back to the system.
    pub fn end_at_once(mut self) {
        self.nothing_in_hand.cancel();
        self.task.detach_all();
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
