//! Failures: one type for streams, statuses and stored outcomes, and the one mapping to gRPC and back.

use std::{collections::HashMap, fmt, time::Duration};

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::v1::{Failure, RetryClass};

/// A failure on its way to whoever asked. Built from a code of the catalogue, never from scratch.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault(Box<Failure>);

/// How long whoever was refused under overload is asked to wait, in milliseconds: some batches of a busy lane.
const RETRY_AFTER_MS: u64 = 50;
/// How long anybody is asked to wait who was refused for another reason that passes.
const PASSING: Duration = Duration::from_millis(100);

/// The result of what can end in a [`Fault`].
pub type FaultResult<T> = Result<T, Fault>;

impl Fault {
    /// A failure with a code of the catalogue.
    pub fn new(code: &'static str, retry_class: RetryClass, message: impl Into<String>, help: impl Into<String>) -> Fault {
        Fault(Box::new(Failure {
            code: code.to_owned(),
            message: message.into(),
            help: help.into(),
            retry_class: retry_class.into(),
            ..Failure::default()
        }))
    }

    /// Refused for a reason that stays.
    pub fn refused(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Fault {
        Fault::new(code, RetryClass::Refused, message, help)
    }

    /// Not executed; it may be sent again.
    pub fn retry(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Fault {
        Fault::new(code, RetryClass::Retry, message, help)
    }

    /// Not executed for lack of room or time: send it again after the pause that it names, and not too often.
    pub fn overloaded(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Fault {
        let mut fault = Fault::retry(code, message, help);
        fault.0.retry_after_ms = RETRY_AFTER_MS;
        fault
    }

    /// With another pause before it is sent again.
    #[must_use]
    pub fn with_retry_after(mut self, pause: Duration) -> Fault {
        self.0.retry_after_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// A fault of Rootward's own.
    pub fn internal(message: impl Into<String>) -> Fault {
        Fault::new("RW9001", RetryClass::Internal, message, "this is a fault of Rootward; please report it with the worker's log")
    }

    /// With what PostgreSQL said.
    #[must_use]
    pub fn with_postgres(mut self, sqlstate: &str, detail: Option<&str>, hint: Option<&str>) -> Fault {
        self.0.sqlstate = sqlstate.to_owned();
        self.0.detail = detail.unwrap_or_default().to_owned();
        self.0.hint = hint.unwrap_or_default().to_owned();
        self
    }

    /// Marked as the answer of an earlier request.
    #[must_use]
    pub fn from_stored_outcome(mut self) -> Fault {
        self.0.from_stored_outcome = true;
        self
    }

    /// What the sender may do.
    pub fn retry_class(&self) -> RetryClass {
        self.0.retry_class()
    }

    /// How long to wait at least before it is sent again; none where that is the sender's to choose.
    pub fn retry_after(&self) -> Option<Duration> {
        (self.0.retry_after_ms > 0).then(|| Duration::from_millis(self.0.retry_after_ms))
    }

    /// Whether it was refused because there is more to do than can be done: each retry then adds to the load.
    pub fn is_overload(&self) -> bool {
        self.retry_class() == RetryClass::Retry && matches!(self.code(), "RW3001" | "RW3103")
    }

    /// The catalogue's code.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do next.
    pub fn help(&self) -> &str {
        &self.0.help
    }

    /// The message of the wire.
    pub fn as_wire(&self) -> &Failure {
        &self.0
    }

    /// The message of the wire.
    pub fn into_wire(self) -> Failure {
        *self.0
    }

    /// The status that a unary call ends with: the failure in its details, and standard error details beside it.
    pub fn into_status(self) -> Status {
        let code = match (self.retry_class(), self.code()) {
            (_, "RW3001") => Code::ResourceExhausted,
            (_, "RW3103" | "RW3104") => Code::DeadlineExceeded,
            (RetryClass::Reroute | RetryClass::Retry, _) => Code::Unavailable,
            (RetryClass::OutcomeUnknown, _) => Code::Unknown,
            (RetryClass::Refused, "RW2001" | "RW2002" | "RW2003" | "RW2005" | "RW4004" | "RW5026" | "RW5041") => Code::InvalidArgument,
            (RetryClass::Refused, "RW2004") => Code::PermissionDenied,
            (RetryClass::Refused, _) => Code::FailedPrecondition,
            (RetryClass::NotFound, _) => Code::NotFound,
            (RetryClass::Internal | RetryClass::Unspecified, _) => Code::Internal,
        };
        let mut details = ErrorDetails::new();
        details.set_error_info(self.code(), "rootward", HashMap::from([("failure".to_owned(), hex(&self.0.encode_to_vec()))]));
        if !self.help().is_empty() {
            details.add_help_link(self.help(), format!("docs/errors.md#{}", self.code().to_lowercase()));
        }
        if matches!(self.retry_class(), RetryClass::Retry) {
            details.set_retry_info(Some(self.retry_after().unwrap_or(PASSING)));
        }
        Status::with_error_details(code, self.message(), details)
    }

    /// The failure of a status: the one in its details, or one that says what gRPC said.
    pub fn from_status(status: &Status) -> Fault {
        if let Some(info) = status.get_details_error_info()
            && let Some(bytes) = info.metadata.get("failure").and_then(|text| unhex(text))
            && let Ok(failure) = Failure::decode(bytes.as_slice())
        {
            return Fault(Box::new(failure));
        }
        match status.code() {
            // A request may have reached the other side before the connection broke, so only the id can tell.
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => Fault::new(
                "RW5003",
                RetryClass::OutcomeUnknown,
                format!("no answer came: {}", status.message()),
                "send it again with the same request id: it takes effect once",
            ),
            _ => Fault::internal(format!("{}: {}", status.code(), status.message())),
        }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Fault {
        Fault(Box::new(failure))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "error[{}]: {}", self.0.code, self.0.message)
    }
}

impl std::error::Error for Fault {}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |text, byte| text + &format!("{byte:02x}"))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_the_way_through_a_status() {
        let fault = Fault::refused("RW3101", "`withdraw` was refused: insufficient funds", "balance is 750.00")
            .with_postgres("23514", Some("detail"), None)
            .from_stored_outcome();
        let status = fault.clone().into_status();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(Fault::from_status(&status), fault);
    }

    #[test]
    fn a_refusal_under_overload_says_when_to_come_back() {
        let full = Fault::overloaded("RW3001", "full", "");
        assert!(full.is_overload() && !Fault::retry("RW5002", "away", "").is_overload());
        let status = full.clone().into_status();
        assert_eq!(status.get_details_retry_info().and_then(|info| info.retry_delay), full.retry_after());
        assert_eq!(Fault::from_status(&status).retry_after(), full.retry_after());
        assert!(full.retry_after().is_some() && Fault::retry("RW5002", "away", "").retry_after().is_none());
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_unknown() {
        let fault = Fault::from_status(&Status::unavailable("connection reset"));
        assert_eq!(fault.retry_class(), RetryClass::OutcomeUnknown);
    }
}
