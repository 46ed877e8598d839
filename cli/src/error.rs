//! How a command ends: its exit code, and the error that the person at the terminal reads.

use std::process::ExitCode;

use tonic::{Code, Status};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for is done.
    Success = 0,
    /// The user can mend it: a wrong option, a wrong file, a wrong place.
    Mistake = 1,
    /// It went wrong on the way.
    Failure = 2,
    /// Every device of a worker broke: nothing can be rendered here until somebody looks after them.
    NoDevice = 3,
    /// Stopped by Ctrl-C or SIGTERM before the end.
    Interrupted = 130,
}

impl Exit {
    /// How a worker ends by such an error.
    pub fn of_worker(error: &sanafarm_worker::Error) -> Self {
        match error {
            sanafarm_worker::Error::NoDevice(_) => Self::NoDevice,
            sanafarm_worker::Error::Devices(_) | sanafarm_worker::Error::OutboxInUse(_) => Self::Mistake,
            sanafarm_worker::Error::Storage(_)
            | sanafarm_worker::Error::Coordinator(_)
            | sanafarm_worker::Error::Outbox(_)
            | sanafarm_worker::Error::Engine(_) => Self::Failure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What went wrong, why, and what to try. Texts are lowercase without a final period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The exit code it ends with.
    pub exit: Exit,
    /// What could not be done, with the name of the thing.
    pub what: String,
    /// From the nearest cause to the deepest.
    pub causes: Vec<String>,
    /// What to try.
    pub hint: Option<String>,
}

impl Error {
    /// Something that the user can mend.
    pub fn mistake(what: impl Into<String>) -> Self {
        Self { exit: Exit::Mistake, what: what.into(), causes: Vec::new(), hint: None }
    }

    /// Something that went wrong on the way.
    pub fn failure(what: impl Into<String>) -> Self {
        Self { exit: Exit::Failure, ..Self::mistake(what) }
    }

    /// Whoever read the standard output has left, as `head` does: no reason to complain.
    pub fn reader_left() -> Self {
        Self { exit: Exit::Success, ..Self::mistake("write to standard output: its reader has left") }
    }

    /// A gRPC call that was answered with an error. Whether it is the user's mistake follows from the code.
    pub fn call(what: impl Into<String>, status: &Status) -> Self {
        let exit = match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange => Exit::Mistake,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Exit::Failure,
        };
        let reason = match status.message() {
            "" => format!("{:?}", status.code()),
            message => message.to_owned(),
        };
        let hint = hint_for(status);
        Self { exit, hint: hint.map(str::to_owned), ..Self::mistake(what) }.because(reason)
    }

    /// Adds an error and its sources as causes.
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // Some errors repeat their source in their own text.
            let repeated = self.causes.last().is_some_and(|last| last.ends_with(&text));
            if !repeated {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Adds a cause in words.
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says what to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Words of the transport.
const BROKEN: [&str; 3] = ["http2 error", "transport error", "operation was canceled"];

/// What to try after an answer that any call may get.
fn hint_for(status: &Status) -> Option<&'static str> {
    let text = status.message();
    match status.code() {
        Code::NotFound if text.starts_with("no job ") => Some("`sanafarm jobs` lists jobs"),
        // How the end of a connection is told. What a server of TLS sends to whoever speaks without is no HTTP/2 and ends it.
        Code::Cancelled | Code::Unknown | Code::Internal | Code::Unavailable
            if BROKEN.iter().any(|broken| text.contains(broken)) =>
        {
            Some(
                "the connection broke off: it may speak TLS, try https://; or see whether the coordinator still runs",
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_become_causes_once() {
        let inner = std::io::Error::other("disk full");
        let outer = crate::prompts::Error::Read { list: "a.txt".to_owned(), source: inner };
        let error = Error::failure("submit").caused_by(&outer);
        assert_eq!(error.causes, ["read prompt list a.txt", "disk full"]);
    }

    #[test]
    fn a_worker_without_devices_ends_with_a_code_of_its_own() {
        let broken = sanafarm_worker::Error::NoDevice("cuda:0: it fell off the bus".to_owned());
        assert_eq!(Exit::of_worker(&broken) as u8, 3);
        assert!(broken.to_string().contains("no device is left"), "{broken}");
        let absent = sanafarm_worker::Error::Devices("there is no device cuda:9".to_owned());
        assert_eq!(Exit::of_worker(&absent), Exit::Mistake);
    }

    #[test]
    fn the_code_of_a_status_tells_whose_fault_it_is() {
        assert_eq!(Error::call("show job", &Status::not_found("no job x")).exit, Exit::Mistake);
        assert_eq!(Error::call("show job", &Status::unavailable("")).exit, Exit::Failure);
        assert_eq!(Error::call("show job", &Status::unavailable("")).causes, ["Unavailable"]);
        let hint = |status: Status| Error::call("show job", &status).hint;
        assert_eq!(hint(Status::not_found("no job x")).as_deref(), Some("`sanafarm jobs` lists jobs"));
        assert_eq!(hint(Status::not_found("no worker x")), None);
        let broken = ["h2 protocol error: http2 error", "transport error", "operation was canceled"];
        assert!(broken.iter().all(|text| hint(Status::unknown(*text)).unwrap().contains("https://")));
    }
}
