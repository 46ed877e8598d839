//! Ctrl-C and SIGTERM: the first asks to leave, the second to leave now, the third does not ask.

use sanafarm_worker::Shutdown;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::error::{Error, Exit};
use crate::printer::Printer;

/// Listens for signals until it is dropped.
#[derive(Debug)]
pub struct Signals {
    _task: JoinSet<()>,
}

impl Signals {
    /// Cancels `shutdown.soft` at the first signal and says `message`, `shutdown.hard` at the second.
    pub fn listen(shutdown: Shutdown, message: &'static str, printer: &Printer) -> Result<Self, Error> {
        let listen =
            |kind| signal(kind).map_err(|error| Error::failure("listen for signals").caused_by(&error));
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let printer = printer.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            either(&mut interrupt, &mut terminate).await;
            printer.note(message);
            shutdown.soft.cancel();
            either(&mut interrupt, &mut terminate).await;
            printer.note("stopping now");
            shutdown.hard.cancel();
            either(&mut interrupt, &mut terminate).await;
            std::process::exit(Exit::Interrupted as i32);
        });
        Ok(Self { _task: task })
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
