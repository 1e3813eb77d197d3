//! Which versions of the messages between processes a process speaks, so that processes of different builds work together or refuse
//! each other by name.

use std::{fmt, ops::RangeInclusive, sync::OnceLock};

use tonic::{Request, Status};

use crate::Fault;

/// Raised with each change of what routers and workers send each other that an older process would misunderstand. What it merely
/// doesn't know, it passes over.
const NEWEST: u32 = 1;
/// The oldest version that this build still understands.
const OLDEST: u32 = 1;
/// Pretends other versions, such as `2-3`; for tests.
const VARIABLE: &str = "ROOTWARD_PROTOCOL";
const HEADER: &str = "user-agent";
const MARK: &str = "rootward-protocol/";

/// A range of versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol(RangeInclusive<u32>);

impl Protocol {
    /// What this process speaks.
    pub fn own() -> &'static Protocol {
        static OWN: OnceLock<Protocol> = OnceLock::new();
        OWN.get_or_init(|| {
            let pretended = std::env::var(VARIABLE).ok().and_then(|text| Protocol::parse(&text));
            pretended.unwrap_or(Protocol(OLDEST..=NEWEST))
        })
    }

    fn parse(text: &str) -> Option<Protocol> {
        let (oldest, newest) = text.split_once('-').unwrap_or((text, text));
        let (oldest, newest) = (oldest.parse().ok()?, newest.parse().ok()?);
        (oldest <= newest).then_some(Protocol(oldest..=newest))
    }

    /// What is said with each request of this process: the name of an agent that begins with it.
    pub fn agent(&self) -> String {
        format!("{MARK}{self} rootward/{}", env!("CARGO_PKG_VERSION"))
    }

    /// What an agent said; none if it is no process of ours, such as a tool.
    fn of_agent(agent: &str) -> Option<Protocol> {
        agent.split_whitespace().find_map(|word| Protocol::parse(word.strip_prefix(MARK)?))
    }

    /// Whether both speak one version.
    fn goes_with(&self, other: &Protocol) -> bool {
        self.0.start() <= other.0.end() && other.0.start() <= self.0.end()
    }

    /// Refuses a request of a process with which this one has no version in common. Requests that say nothing are let through.
    ///
    /// # Errors
    /// RW5030 with both versions.
    pub fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let agent = request.metadata().get(HEADER).and_then(|agent| agent.to_str().ok());
        match agent.and_then(Protocol::of_agent) {
            Some(other) if !self.goes_with(&other) => Err(self.refusal(&other).into_status()),
            _ => Ok(()),
        }
    }

    fn refusal(&self, other: &Protocol) -> Fault {
        let build = env!("CARGO_PKG_VERSION");
        Fault::retry(
            "RW5030",
            format!(
                "this worker (rootward {build}) speaks version {self} of the messages between processes, and was asked in version {other}"
            ),
            "nothing was executed; run builds side by side that have a version in common: upgrade in smaller steps",
        )
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (oldest, newest) = (self.0.start(), self.0.end());
        if oldest == newest { write!(out, "{newest}") } else { write!(out, "{oldest}-{newest}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Protocol {
        Protocol::parse(text).expect("versions")
    }

    #[test]
    fn versions_go_together_if_they_have_one_in_common() {
        for (one, other, wanted) in [("1", "1", true), ("1-2", "2-3", true), ("2", "1-3", true), ("1", "2", false), ("4-5", "1-3", false)] {
            assert_eq!((of(one).goes_with(&of(other)), of(other).goes_with(&of(one))), (wanted, wanted), "{one} {other}");
        }
        for wrong in ["", "x", "2-1", "1-x"] {
            assert_eq!(Protocol::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn who_says_nothing_is_let_through_and_who_has_no_version_in_common_is_refused_by_name() {
        let ask = |agent: &str| {
            let mut request = Request::new(());
            request.metadata_mut().insert(HEADER, agent.parse().expect("a name"));
            of("1-2").check(&request).map_err(|status| Fault::from_status(&status))
        };
        assert_eq!(of("1-2").check(&Request::new(())).map_err(|status| status.code()), Ok(()));
        assert_eq!((ask("grpcurl/1.8"), ask(&format!("{} tonic/0.14", of("2-3").agent()))), (Ok(()), Ok(())));
        let fault = ask(&of("3-4").agent()).expect_err("no version in common");
        assert_eq!(fault.code(), "RW5030");
        assert!(fault.message().contains("version 1-2") && fault.message().contains("version 3-4"), "{fault}");
    }
}
