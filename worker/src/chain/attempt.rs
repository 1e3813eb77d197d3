//! One task on its way to a decision at its root: sent, retried, and given up only where that is safe.

use std::{sync::Arc, time::Duration};

use rand::RngExt as _;
use rootward_proto::{
    Fault,
    v1::{self, RetryClass, reply},
};
use rootward_schema::Retry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    drivers::{ChainHome, Identity},
    plan::{Plan, PlanError, Resolved, Results},
    state::Task,
};
use crate::clock;

/// A peer that is away is asked this often at least.
const LONGEST_WAIT_FOR_PEER: Duration = Duration::from_millis(500);
const FIRST_WAIT_FOR_PEER: Duration = Duration::from_millis(50);
/// How long one attempt waits for its answer.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);
/// A longer pause is made without a driver: others may want its place.
pub(super) const LONGEST_PAUSE_IN_PLACE: Duration = Duration::from_secs(1);
/// How long a driver waits for a peer that is away while others want its place.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is asked of the root.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// The step's transaction.
    Effect,
    /// That the step can't take effect any more, unless it has.
    CallOff,
    /// The step's compensation.
    Undo,
    /// Whether a signal has come.
    Look,
    /// That a timer is due.
    Due,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Settled {
    Answered(Box<v1::CallResponse>, Resolved),
    /// The refusal stands at the root.
    Refused(Fault, Resolved),
    /// A person has to look at it; nothing stands at the root, or nobody knows what does.
    Halted {
        fault: Fault,
        attempts: u32,
    },
    /// The next attempt is so far away that nobody waits for it here.
    Resting {
        fault: Fault,
        attempts: u32,
        until_ms: i64,
    },
    /// Given up because the chain turned back: whether it took effect is found out by calling it off.
    GivenUp,
}

/// A task to be decided.
pub(super) struct Attempt {
    pub home: Arc<ChainHome>,
    pub identity: Arc<Identity>,
    pub plan: Arc<Plan>,
    pub results: Arc<Results>,
    pub task: Task,
    pub kind: Kind,
    /// Attempts that were made before.
    pub attempts: u32,
    pub expires_at_ms: i64,
    pub give_up: CancellationToken,
}

impl Attempt {
    /// Sends it until it is decided, within the step's retry policy.
    pub(super) async fn settle(self) -> (Task, Kind, Settled) {
        let settled = self.try_until_settled().await;
        (self.task, self.kind, settled)
    }

    async fn try_until_settled(&self) -> Settled {
        let policy = self.policy();
        let began = Instant::now();
        let mut attempts = self.attempts;
        let mut wait_for_peer = FIRST_WAIT_FOR_PEER;
        loop {
            let (resolved, gone) = match self.resolve() {
                Ok(resolved) => resolved,
                Err(fault) => return Settled::Halted { fault, attempts },
            };
            let is_look = matches!(self.kind, Kind::CallOff | Kind::Look) || gone.is_some();
            let message = self.message(&resolved, gone.is_some());
            let version = self.home.routing.version();
            let fault = match self.home.routing.try_once(&message, Instant::now() + ATTEMPT_LIMIT).await {
                Ok(reply::Result::Executed(response)) => match gone {
                    Some(fault) if !response.from_stored_outcome => return Settled::Halted { fault, attempts },
                    _ => return Settled::Answered(Box::new(response), resolved),
                },
                Ok(_) => Fault::internal("a step was answered with something that is no step's answer"),
                Err(fault) => fault,
            };
            tracing::debug!(chain = %self.identity.id, step = self.task.step + 1, element = self.task.element, %fault, "a step is not decided yet");
            match fault.retry_class() {
                // Only what stands at the root may turn the chain back: else the step could still take effect after its
                // predecessors were undone. The rest waits for a person, such as arguments that a new schema doesn't take.
                RetryClass::Refused if !stands_at_root(&fault, is_look) => {
                    return Settled::Halted { fault, attempts: attempts + 1 };
                }
                RetryClass::Refused if !is_look && resolved.parks_on_refusal && fault.code() != "RW4005" => {
                    return Settled::Halted { fault, attempts: attempts + 1 };
                }
                RetryClass::Refused => return Settled::Refused(fault, resolved),
                _ if fault.code() == "RW4008" => return Settled::Resting { fault, attempts, until_ms: clock::now_ms() },
                // Never reached it: no attempt. It goes on at once when the peer is back.
                class if class == RetryClass::Reroute || is_away(&fault) => {
                    if class == RetryClass::Reroute && self.home.routing.version() == version {
                        self.home.routing.refresh();
                    }
                    if self.should_make_room(began) {
                        let until_ms = clock::now_ms() + millis(PATIENCE);
                        return Settled::Resting { fault, attempts, until_ms };
                    }
                    let pause = jittered(wait_for_peer, 0.2);
                    let slept = match class {
                        RetryClass::Reroute => self.unless_given_up(self.home.routing.until_newer(version, Instant::now() + pause)).await,
                        _ => self.sleep(pause).await,
                    };
                    if slept.is_err() {
                        return Settled::GivenUp;
                    }
                    wait_for_peer = (wait_for_peer * 2).min(LONGEST_WAIT_FOR_PEER);
                    continue;
                }
                _ => attempts += 1,
            }
            if attempts >= policy.attempts || policy.non_retryable.contains(&fault.as_wire().sqlstate) {
                return Settled::Halted { fault, attempts };
            }
            let pause = jittered(pause_after(&policy, attempts), policy.jitter);
            if pause > LONGEST_PAUSE_IN_PLACE {
                return Settled::Resting { fault, attempts, until_ms: clock::now_ms() + millis(pause) };
            }
            if self.sleep(pause).await.is_err() {
                return Settled::GivenUp;
            }
        }
    }

    fn policy(&self) -> Retry {
        match self.kind {
            Kind::Effect | Kind::Undo => self.plan.step(self.task).map(|step| step.retry.clone()).unwrap_or_default(),
            Kind::CallOff | Kind::Look | Kind::Due => Retry::default(),
        }
    }

    /// Others want the place, or roots would soon refuse what this driver sends.
    fn should_make_room(&self, began: Instant) -> bool {
        let is_stale = clock::now_ms() > self.expires_at_ms - self.home.step_life_ms() / 2;
        is_stale || (began.elapsed() > PATIENCE && self.home.drivers.is_crowded())
    }

    /// What is sent. If what the task calls is gone, its root is only asked what it did before; with the reason why no more
    /// can be done.
    fn resolve(&self) -> Result<(Resolved, Option<Fault>), Fault> {
        let schema = self.home.routing.catalog()?.schema.clone();
        let is_undo = matches!(self.kind, Kind::Undo);
        let gone = |error: PlanError| Fault::refused("RW4006", error.to_string(), "bring the definition back, then replay");
        let place = || self.plan.place(&schema, self.task, is_undo, &self.results);
        match self.kind {
            Kind::CallOff | Kind::Look | Kind::Due => place().map(|place| (place, None)).map_err(gone),
            Kind::Effect | Kind::Undo => match self.plan.resolve(&schema, self.task, is_undo, &self.results) {
                Ok(resolved) => Ok((resolved, None)),
                Err(error) => place().map(|place| (place, Some(gone(error.clone())))).map_err(|_| gone(error)),
            },
        }
    }

    async fn sleep(&self, pause: Duration) -> Result<(), ()> {
        self.unless_given_up(tokio::time::sleep(pause)).await
    }

    async fn unless_given_up(&self, wait: impl Future<Output = ()>) -> Result<(), ()> {
        tokio::select! {
            () = wait => Ok(()),
            () = self.give_up.cancelled() => Err(()),
        }
    }

    fn message(&self, resolved: &Resolved, only_looks: bool) -> v1::Execute {
        let direction = if matches!(self.kind, Kind::Undo) { v1::Direction::Undo } else { v1::Direction::Do };
        let runs = matches!(self.kind, Kind::Effect | Kind::Undo) && !only_looks;
        v1::Execute {
            is_tombstone: matches!(self.kind, Kind::CallOff),
            is_look_up: matches!(self.kind, Kind::Look) || only_looks,
            mark: matches!(self.kind, Kind::Due).then(v1::CallResponse::default),
            min_reference_version: self.plan.min_reference_version.filter(|_| runs),
            ..effect_message(&self.identity, self.task, direction, resolved, self.expires_at_ms)
        }
    }
}

/// What runs a task in this direction, however it comes to its root.
pub(crate) fn effect_message(
    identity: &Identity,
    task: Task,
    direction: v1::Direction,
    resolved: &Resolved,
    expires_at_ms: i64,
) -> v1::Execute {
    v1::Execute {
        arguments: resolved.arguments.iter().map(|(name, text)| v1::TextArgument { name: name.clone(), text: text.clone() }).collect(),
        refusal_is_no_outcome: resolved.parks_on_refusal,
        expires_at_ms,
        ..step_message(identity, task, direction, resolved)
    }
}

/// The part of a message that all questions about a task share.
pub(super) fn step_message(identity: &Identity, task: Task, direction: v1::Direction, resolved: &Resolved) -> v1::Execute {
    v1::Execute {
        transaction: resolved.transaction.clone(),
        entity: resolved.entity.clone(),
        root_key: resolved.root_key.clone(),
        request_id: identity.id.as_bytes().to_vec(),
        step: task.step,
        element: task.element,
        direction: direction.into(),
        issued_at_ms: identity.issued_at_ms,
        chain_fingerprint: identity.fingerprint.clone(),
        ..v1::Execute::default()
    }
}

/// The pause after the given number of attempts.
fn pause_after(policy: &Retry, attempts: u32) -> Duration {
    let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
    let longest = Duration::from_millis(policy.max_ms);
    let factor = policy.factor.max(1.0).powi(exponent);
    Duration::try_from_secs_f64(Duration::from_millis(policy.initial_ms).as_secs_f64() * factor).unwrap_or(longest).min(longest)
}

fn jittered(pause: Duration, jitter: f64) -> Duration {
    let jitter = jitter.clamp(0.0, 1.0);
    if jitter > 0.0 { pause.mul_f64(rand::rng().random_range(1.0 - jitter..=1.0 + jitter)) } else { pause }
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The refusals that say: the peer could not take it now. They are no attempts.
fn is_away(fault: &Fault) -> bool {
    fault.retry_class() == RetryClass::Retry && matches!(fault.code(), "RW5002" | "RW5004" | "RW3001" | "RW3103" | "RW3109" | "RW2006")
}

/// Whether a refusal is an outcome at the step's root: one that was stored before, or one that a lane has just recorded.
/// What is refused before it reaches a lane leaves nothing there, and a look or a tombstone is refused by a stored outcome only.
fn stands_at_root(fault: &Fault, is_look: bool) -> bool {
    let is_recorded_by_lane = matches!(fault.code(), "RW3101" | "RW2004" | "RW3108");
    fault.as_wire().from_stored_outcome || (is_recorded_by_lane && !is_look)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_that_stands_at_the_root_turns_a_chain_back() {
        let fresh = |code| Fault::refused(code, "", "");
        for code in ["RW3101", "RW2004", "RW3108"] {
            assert!(stands_at_root(&fresh(code), false), "{code}");
            assert!(!stands_at_root(&fresh(code), true), "{code}");
        }
        // No transaction, other arguments, another root, an id of somebody else's: nothing was recorded.
        for code in ["RW2001", "RW2002", "RW2003", "RW2007", "RW3106", "RW3107", "RW4009"] {
            assert!(!stands_at_root(&fresh(code), false) && !stands_at_root(&fresh(code), true), "{code}");
        }
        assert!(stands_at_root(&fresh("RW3101").from_stored_outcome(), true));
        assert!(stands_at_root(&fresh("RW4005").from_stored_outcome(), false));
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let policy = Retry { initial_ms: 50, factor: 2.0, max_ms: 60_000, ..Retry::default() };
        let pauses: Vec<u128> = [1, 2, 3, 11, 12, 1000].map(|attempts| pause_after(&policy, attempts).as_millis()).to_vec();
        assert_eq!(pauses, [50, 100, 200, 51_200, 60_000, 60_000]);
        let steady = Retry { factor: 1.0, initial_ms: 7, ..policy };
        assert_eq!(pause_after(&steady, 900).as_millis(), 7);
    }
}
