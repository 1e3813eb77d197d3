//! The statuses of a chain and every transition between them: the table of docs/chains.md, and nothing else.

/// Where a chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Status {
    Scheduled,
    Running,
    Waiting,
    Paused,
    Parked,
    Compensating,
    Stuck,
    Completed,
    Failed,
    Compensated,
    Cancelled,
    Abandoned,
}

/// What happens to a chain: first what it does itself, then what people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Event {
    /// The scheduled start is due.
    Begin,
    /// Only timers and signals are left to wait for.
    Await,
    /// A timer is due or a signal came.
    Wake,
    /// A step was refused, the deadline passed, or attempts are used up, and what took effect has to be undone.
    TurnBack,
    /// The attempts are used up, or the definition is gone.
    Exhaust,
    /// Every step is done.
    Complete,
    /// Nothing is to be undone after a refusal.
    Fail,
    /// Everything is undone.
    Undo,
    /// Nothing was to be undone after a cancel.
    CallOff,
    /// What was to be called off turned out to be behind its pivot.
    GoOn,
    Pause,
    Resume,
    Cancel,
    Replay,
    Skip,
    Compensate,
    Abandon,
}

/// What a transition depends on besides the status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The name of the pivot, if it is done.
    pub passed_pivot: Option<String>,
}

/// Why an event can't happen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Illegal {
    /// Not in this status.
    Status,
    /// The chain has passed this pivot and only goes forward.
    Pivot(String),
}

impl Status {
    pub(crate) const ALL: [Status; 12] = [
        Status::Scheduled,
        Status::Running,
        Status::Waiting,
        Status::Paused,
        Status::Parked,
        Status::Compensating,
        Status::Stuck,
        Status::Completed,
        Status::Failed,
        Status::Compensated,
        Status::Cancelled,
        Status::Abandoned,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Scheduled => "scheduled",
            Status::Running => "running",
            Status::Waiting => "waiting",
            Status::Paused => "paused",
            Status::Parked => "parked",
            Status::Compensating => "compensating",
            Status::Stuck => "stuck",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Compensated => "compensated",
            Status::Cancelled => "cancelled",
            Status::Abandoned => "abandoned",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether nothing more happens by itself or by a person, but for `compensate` of a failed one.
    pub(crate) fn is_ended(self) -> bool {
        use Status::{Abandoned, Cancelled, Compensated, Completed, Failed};
        matches!(self, Completed | Failed | Compensated | Cancelled | Abandoned)
    }

    /// Whether it is on its way forward, or waits there.
    pub(crate) fn goes_forward(self) -> bool {
        use Status::{Parked, Paused, Running, Scheduled, Waiting};
        matches!(self, Scheduled | Running | Waiting | Paused | Parked)
    }

    /// Whether a driver works on it.
    pub(crate) fn is_driven(self) -> bool {
        matches!(self, Status::Running | Status::Compensating)
    }
}

impl Event {
    #[cfg(test)]
    pub(crate) const ALL: [Event; 17] = [
        Event::Begin,
        Event::Await,
        Event::Wake,
        Event::TurnBack,
        Event::Exhaust,
        Event::Complete,
        Event::Fail,
        Event::Undo,
        Event::CallOff,
        Event::GoOn,
        Event::Pause,
        Event::Resume,
        Event::Cancel,
        Event::Replay,
        Event::Skip,
        Event::Compensate,
        Event::Abandon,
    ];
    /// What people do.
    pub(crate) const VERBS: [Event; 7] =
        [Event::Replay, Event::Skip, Event::Compensate, Event::Pause, Event::Resume, Event::Cancel, Event::Abandon];

    /// The verb as it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Event::Begin => "begin",
            Event::Await => "await",
            Event::Wake => "wake",
            Event::TurnBack => "turn back",
            Event::Exhaust => "exhaust",
            Event::Complete => "complete",
            Event::Fail => "fail",
            Event::Undo => "undo",
            Event::CallOff => "call off",
            Event::GoOn => "go on",
            Event::Pause => "pause",
            Event::Resume => "resume",
            Event::Cancel => "cancel",
            Event::Replay => "replay",
            Event::Skip => "skip",
            Event::Compensate => "compensate",
            Event::Abandon => "abandon",
        }
    }
}

/// The status after an event, or why it can't happen. A cancel always goes through `compensating`: whether anything has to be
/// undone is only known once everything that may have started is called off.
pub(crate) fn transition(from: Status, event: Event, standing: &Standing) -> Result<Status, Illegal> {
    let before_pivot = |to| match &standing.passed_pivot {
        Some(pivot) => Err(Illegal::Pivot(pivot.clone())),
        None => Ok(to),
    };
    match (from, event) {
        (Status::Scheduled, Event::Begin) | (Status::Waiting, Event::Wake) | (Status::Paused, Event::Resume) => Ok(Status::Running),
        (Status::Running, Event::Await) => Ok(Status::Waiting),
        (Status::Running | Status::Waiting, Event::TurnBack) => before_pivot(Status::Compensating),
        (Status::Running, Event::Exhaust) => Ok(Status::Parked),
        (Status::Compensating, Event::Exhaust) => Ok(Status::Stuck),
        // From `compensating` if what was called off turns out to have been the pivot.
        (Status::Running | Status::Compensating, Event::Complete) => Ok(Status::Completed),
        (Status::Running | Status::Compensating, Event::Fail) => Ok(Status::Failed),
        (Status::Compensating, Event::Undo) => Ok(Status::Compensated),
        (Status::Compensating, Event::CallOff) => Ok(Status::Cancelled),
        (Status::Compensating, Event::GoOn) => Ok(Status::Running),
        (Status::Running | Status::Waiting, Event::Pause) => Ok(Status::Paused),
        (Status::Scheduled | Status::Running | Status::Waiting | Status::Paused | Status::Parked, Event::Cancel) => {
            before_pivot(Status::Compensating)
        }
        (Status::Parked, Event::Replay | Event::Skip) => Ok(Status::Running),
        (Status::Stuck, Event::Replay | Event::Skip) => Ok(Status::Compensating),
        (Status::Parked | Status::Failed, Event::Compensate) => before_pivot(Status::Compensating),
        (Status::Parked | Status::Stuck | Status::Paused, Event::Abandon) => Ok(Status::Abandoned),
        (
            Status::Scheduled
            | Status::Running
            | Status::Waiting
            | Status::Paused
            | Status::Parked
            | Status::Compensating
            | Status::Stuck
            | Status::Completed
            | Status::Failed
            | Status::Compensated
            | Status::Cancelled
            | Status::Abandoned,
            _,
        ) => Err(Illegal::Status),
    }
}

/// What a person can do to a chain in this status.
pub(crate) fn legal_verbs(status: Status, standing: &Standing) -> Vec<Event> {
    Event::VERBS.into_iter().filter(|verb| transition(status, *verb, standing).is_ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every status and every event, each by the table of docs/chains.md; what it doesn't name is illegal.
    #[test]
    fn every_status_and_event_is_in_the_table() {
        let table = [
            ("scheduled", "begin", "running"),
            ("scheduled", "cancel", "compensating"),
            ("running", "await", "waiting"),
            ("running", "turn back", "compensating"),
            ("running", "exhaust", "parked"),
            ("running", "complete", "completed"),
            ("running", "fail", "failed"),
            ("running", "pause", "paused"),
            ("running", "cancel", "compensating"),
            ("waiting", "wake", "running"),
            ("waiting", "turn back", "compensating"),
            ("waiting", "pause", "paused"),
            ("waiting", "cancel", "compensating"),
            ("paused", "resume", "running"),
            ("paused", "cancel", "compensating"),
            ("paused", "abandon", "abandoned"),
            ("parked", "replay", "running"),
            ("parked", "skip", "running"),
            ("parked", "cancel", "compensating"),
            ("parked", "compensate", "compensating"),
            ("parked", "abandon", "abandoned"),
            ("compensating", "exhaust", "stuck"),
            ("compensating", "complete", "completed"),
            ("compensating", "fail", "failed"),
            ("compensating", "undo", "compensated"),
            ("compensating", "call off", "cancelled"),
            ("compensating", "go on", "running"),
            ("stuck", "replay", "compensating"),
            ("stuck", "skip", "compensating"),
            ("stuck", "abandon", "abandoned"),
            ("failed", "compensate", "compensating"),
        ];
        let mut legal = 0;
        for status in Status::ALL {
            for event in Event::ALL {
                let wanted = table.iter().find(|row| (row.0, row.1) == (status.name(), event.name())).map(|row| row.2);
                let found = transition(status, event, &Standing::default()).ok().map(Status::name);
                assert_eq!(found, wanted, "{} + {}", status.name(), event.name());
                legal += usize::from(found.is_some());
            }
        }
        assert_eq!(legal, table.len());
    }

    #[test]
    fn past_the_pivot_nothing_turns_back() {
        let passed = Standing { passed_pivot: Some("pay".to_owned()) };
        for status in Status::ALL {
            for event in Event::ALL {
                let before = transition(status, event, &Standing::default());
                let after = transition(status, event, &passed);
                let turns_back = before == Ok(Status::Compensating) && status != Status::Stuck;
                let wanted = if turns_back { Err(Illegal::Pivot("pay".to_owned())) } else { before };
                assert_eq!(after, wanted, "{} + {}", status.name(), event.name());
            }
        }
    }

    #[test]
    fn an_ended_chain_only_takes_a_compensate_and_only_if_it_failed() {
        for status in Status::ALL.into_iter().filter(|status| status.is_ended()) {
            let verbs: Vec<&str> = legal_verbs(status, &Standing::default()).into_iter().map(Event::name).collect();
            assert_eq!(verbs, if status == Status::Failed { vec!["compensate"] } else { Vec::new() }, "{}", status.name());
        }
    }

    #[test]
    fn names_lead_back() {
        for status in Status::ALL {
            assert_eq!(Status::from_name(status.name()), Some(status));
        }
        assert_eq!(Status::from_name("sleeping"), None);
    }
}
