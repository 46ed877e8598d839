//! What each error of the store is on the wire. The one place that decides it.

use tonic::{Code, Status};

use crate::store::Error;

/// The status of an error; those that are nobody's input are logged here, where they leave the program.
pub(crate) fn status(error: Error) -> Status {
    status_of(&error)
}

fn status_of(error: &Error) -> Status {
    let code = match error {
        Error::Shared(cause) => return status_of(cause),
        Error::Invalid(_) | Error::Ambiguous(_) | Error::Refused(_) | Error::Query(_) => {
            Code::InvalidArgument
        }
        Error::NotFound { .. } | Error::SessionClosed(_) => Code::NotFound,
        Error::Move(_)
        | Error::NoAppend { .. }
        | Error::ReadOnly
        | Error::NoReader(_)
        | Error::Newer { .. }
        | Error::Older { .. } => Code::FailedPrecondition,
        // Not permission denied: that is the token's fault, and may pass. Of a lease that nobody gave out nothing will come.
        Error::NotYours(_) => Code::OutOfRange,
        Error::OutputTaken { .. } => Code::AlreadyExists,
        Error::Replaced(_) | Error::RowsLost(_) => Code::Aborted,
        Error::TimedOut(_) => Code::DeadlineExceeded,
        Error::Full { .. } => Code::ResourceExhausted,
        Error::Busy | Error::Crowded | Error::Closed | Error::Unreachable { .. } => Code::Unavailable,
        Error::Open { .. } | Error::Database(_) => Code::Internal,
        Error::Corrupt(_) => Code::DataLoss,
    };
    if matches!(code, Code::Internal | Code::DataLoss | Code::ResourceExhausted) {
        tracing::error!(%error, "call failed");
    }
    Status::new(code, error.to_string())
}

/// The coordinator is going away.
pub(super) fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping; try again")
}
