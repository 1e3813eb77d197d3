//! The stages of a move, and which follows which. Knows neither SQL nor time.

/// Where a move stands. What a stage's name says is being done; it is in the catalog before it is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The target is told, and what an earlier move left there is taken away.
    Preparing,
    /// The source gets a publication and a slot.
    Publishing,
    /// The target copies and follows.
    Copying,
    /// The source gives the partitions up for a moment, in which both sides fix what they show, and serves again. Then they are compared.
    Comparing,
    /// The source holds and releases the partitions. The hub's map changes at its end: until then the source is the owner, whatever
    /// happens.
    Switching,
    /// The source serves again, for the switch could not be made; it is tried once more. The hub can't decide any more, and has not.
    Returning,
    /// The hub has decided: the target is the owner. From here it only goes forward.
    Switched,
    /// Subscription, slot and publication go.
    Dropping,
    /// What the source had and what the target began with are compared once more.
    Confirming,
    /// They differ. Nothing is taken away until a person has looked.
    Differing,
    /// The source's rows go.
    Cleaning,
    Done,
    /// Everything is undone; the source stays the owner.
    Cancelling,
    Cancelled,
}

/// How the work of a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It is done.
    Done,
    /// The switch is given up for now.
    TakeBack,
    /// A person doesn't want it any more, or it can't succeed.
    Cancel,
    /// Both sides differ after the switch.
    Differ,
    /// A person has seen that, and wants what the target has.
    Accept,
}

impl Stage {
    #[cfg(test)]
    pub(crate) const ALL: [Stage; 14] = [
        Stage::Preparing,
        Stage::Publishing,
        Stage::Copying,
        Stage::Comparing,
        Stage::Switching,
        Stage::Returning,
        Stage::Switched,
        Stage::Dropping,
        Stage::Confirming,
        Stage::Differing,
        Stage::Cleaning,
        Stage::Done,
        Stage::Cancelling,
        Stage::Cancelled,
    ];

    /// Its name in the catalog, and for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::Preparing => "preparing",
            Stage::Publishing => "publishing",
            Stage::Copying => "copying",
            Stage::Comparing => "comparing",
            Stage::Switching => "switching",
            Stage::Returning => "returning",
            Stage::Switched => "switched",
            Stage::Dropping => "dropping",
            Stage::Confirming => "confirming",
            Stage::Differing => "differing",
            Stage::Cleaning => "cleaning",
            Stage::Done => "done",
            Stage::Cancelling => "cancelling",
            Stage::Cancelled => "cancelled",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Stage> {
        Some(match name {
            "preparing" => Stage::Preparing,
            "publishing" => Stage::Publishing,
            "copying" => Stage::Copying,
            "comparing" => Stage::Comparing,
            "switching" => Stage::Switching,
            "returning" => Stage::Returning,
            "switched" => Stage::Switched,
            "dropping" => Stage::Dropping,
            "confirming" => Stage::Confirming,
            "differing" => Stage::Differing,
            "cleaning" => Stage::Cleaning,
            "done" => Stage::Done,
            "cancelling" => Stage::Cancelling,
            "cancelled" => Stage::Cancelled,
            _ => return None,
        })
    }

    pub(crate) fn is_ended(self) -> bool {
        matches!(self, Stage::Done | Stage::Cancelled)
    }

    /// Whether nothing is to be done at the moment.
    pub(crate) fn rests(self) -> bool {
        self.is_ended() || self == Stage::Differing
    }

    /// The stage that follows; none if the event means nothing here.
    pub(crate) fn next(self, event: Event) -> Option<Stage> {
        match (self, event) {
            (Stage::Preparing, Event::Done) => Some(Stage::Publishing),
            (Stage::Publishing | Stage::Returning, Event::Done) => Some(Stage::Copying),
            (Stage::Comparing | Stage::Switching, Event::TakeBack) => Some(Stage::Returning),
            (Stage::Copying, Event::Done) => Some(Stage::Comparing),
            (Stage::Comparing, Event::Done) => Some(Stage::Switching),
            (Stage::Switching, Event::Done) => Some(Stage::Switched),
            (Stage::Switched, Event::Done) => Some(Stage::Dropping),
            (Stage::Dropping, Event::Done) => Some(Stage::Confirming),
            (Stage::Confirming, Event::Differ) => Some(Stage::Differing),
            (Stage::Confirming, Event::Done) | (Stage::Differing, Event::Accept) => Some(Stage::Cleaning),
            (Stage::Cleaning, Event::Done) => Some(Stage::Done),
            (Stage::Cancelling, Event::Done) => Some(Stage::Cancelled),
            (
                Stage::Preparing | Stage::Publishing | Stage::Copying | Stage::Comparing | Stage::Switching | Stage::Returning,
                Event::Cancel,
            ) => Some(Stage::Cancelling),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 5] = [Event::Done, Event::TakeBack, Event::Cancel, Event::Differ, Event::Accept];

    #[test]
    fn a_move_can_be_cancelled_until_the_hub_has_decided_and_never_after() {
        let decided = [Stage::Switched, Stage::Dropping, Stage::Confirming, Stage::Differing, Stage::Cleaning, Stage::Done];
        for stage in Stage::ALL {
            let may_be = !decided.contains(&stage) && !matches!(stage, Stage::Cancelling | Stage::Cancelled);
            assert_eq!(stage.next(Event::Cancel).is_some(), may_be, "{stage:?}");
            for next in EVENTS.into_iter().filter_map(|event| stage.next(event)) {
                assert!(!decided.contains(&stage) || decided.contains(&next), "{stage:?} goes back to {next:?}");
            }
        }
    }

    #[test]
    fn every_stage_comes_to_an_end_and_an_end_stays() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_name(stage.name()), Some(stage));
            assert_eq!(stage.is_ended(), EVENTS.into_iter().all(|event| stage.next(event).is_none()), "{stage:?}");
            let on = |stage: &Stage| stage.next(if *stage == Stage::Differing { Event::Accept } else { Event::Done });
            let end = std::iter::successors(Some(stage), on).take(20).last();
            assert!(end.is_some_and(Stage::is_ended), "{stage:?}");
        }
    }
}
