//! One file for each verb.

mod alone;
mod change;
mod completions;
mod coordinator;
mod drain;
mod estimate;
mod explain;
mod export;
mod gc;
mod history;
mod images;
mod jobs;
mod logs;
mod man;
mod models;
mod render;
mod reproduce;
mod serving;
mod show;
mod sql;
mod submit;
mod timing;
mod token;
mod verify;
mod watch;
mod worker;
mod workers;

use crate::args::{Command, LogFormat};
use crate::error::{Error, Exit};
use crate::printer::Printer;

/// How it logs.
pub fn log_format(command: &Command) -> LogFormat {
    match command {
        Command::Coordinator(args) => args.watching.log_format,
        Command::Worker(args) => args.watching.log_format,
        _ => LogFormat::Text,
    }
}

/// What is logged unless the user says otherwise: servers tell what they do, tools only what is wrong.
pub fn log_level(command: &Command) -> &'static str {
    match command {
        Command::Coordinator(_) | Command::Worker(_) => "info",
        // Images that fail are told at the end, by what is wrong with them; `sanafarm logs` has the lines.
        Command::Render(_) => "warn,sanafarm_worker::report=error",
        Command::Submit(_)
        | Command::Estimate(_)
        | Command::Jobs(_)
        | Command::Show(_)
        | Command::Watch(_)
        | Command::Images(_)
        | Command::Explain(_)
        | Command::History(_)
        | Command::Logs(_)
        | Command::Workers(_)
        | Command::Drain(_)
        | Command::Pause(_)
        | Command::Resume(_)
        | Command::Priority(_)
        | Command::Retry(_)
        | Command::Cancel(_)
        | Command::Owner(_)
        | Command::Export(_)
        | Command::Verify(_)
        | Command::Reproduce(_)
        | Command::Gc(_)
        | Command::Sql(_)
        | Command::Token(_)
        | Command::Models(_)
        | Command::Completions(_)
        | Command::Man(_) => "warn",
    }
}

/// Runs a verb to its end.
pub async fn run(command: Command, printer: &Printer) -> Result<Exit, Error> {
    match command {
        Command::Render(args) => render::run(args, printer).await,
        Command::Coordinator(args) => coordinator::run(args, printer).await,
        Command::Worker(args) => worker::run(args, printer).await,
        Command::Submit(args) => submit::run(args, printer).await,
        Command::Estimate(args) => estimate::run(args, printer).await,
        Command::Jobs(args) => jobs::run(args, printer).await,
        Command::Show(args) => show::run(args, printer).await,
        Command::Watch(args) => watch::run(args, printer).await,
        Command::Images(args) => images::run(args, printer).await,
        Command::Explain(args) => explain::run(args, printer).await,
        Command::History(args) => history::run(args, printer).await,
        Command::Logs(args) => logs::run(args, printer).await,
        Command::Workers(args) => workers::run(args, printer).await,
        Command::Drain(args) => drain::run(args, printer).await,
        Command::Pause(args) => change::pause(args, printer).await,
        Command::Resume(args) => change::resume(args, printer).await,
        Command::Priority(args) => change::priority(args, printer).await,
        Command::Retry(args) => change::retry(args, printer).await,
        Command::Cancel(args) => change::cancel(args, printer).await,
        Command::Owner(args) => change::owner(args, printer).await,
        Command::Export(args) => export::run(args, printer).await,
        Command::Verify(args) => verify::run(args, printer).await,
        Command::Reproduce(args) => reproduce::run(args, printer).await,
        Command::Gc(args) => gc::run(args, printer).await,
        Command::Sql(args) => sql::run(args, printer).await,
        Command::Token(args) => token::run(args, printer).await,
        Command::Models(args) => models::run(args, printer).await,
        Command::Completions(args) => completions::run(&args, printer),
        Command::Man(args) => man::run(&args, printer),
    }
}
