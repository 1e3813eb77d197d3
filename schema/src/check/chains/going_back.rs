//! What happens when a chain goes back: nothing after the pivot can turn it, and whatever may be done when it turns can be
//! undone.
//!
//! A chain turns back when a step is refused under `on_failure = "compensate"`, when a signal's timeout passes under it,
//! when attempts are used up under `on_exhausted = "fail"` whatever `on_failure` says, when its deadline passes, or when a
//! person wants it. `park` waits for a person, and `keep` ends the chain without undoing anything.

use crate::chain_source::{ChainSource, StepSource};
use crate::check::arguments::find;
use crate::check::chains::order::Order;
use crate::check::transactions::Compiled;
use crate::codes;
use crate::definition::{OnExhausted, OnFailure, Wait};
use crate::finding::Finding;

pub(crate) fn check(chain: &ChainSource, order: &Order, transactions: &[Compiled], findings: &mut Vec<Finding>) {
    let pivots: Vec<usize> = (0..chain.steps.len()).filter(|at| chain.steps[*at].is_pivot).collect();
    if let Some(second) = pivots.get(1).and_then(|at| chain.steps.get(*at)) {
        let message = format!("chain `{}` has two pivots", chain.name.value);
        findings.push(
            Finding::error(codes::CHAIN_SHAPE, &second.name.place, message).help("after the first one there is no way back; keep one"),
        );
    }
    let check = Check { chain, order, transactions, pivot: pivots.first().copied() };
    check.beside_pivot(findings);
    for (at, step) in chain.steps.iter().enumerate() {
        if check.is_after_pivot(at) {
            check.refused_after_pivot(step, findings);
        } else {
            check.undone(at, step, findings);
        }
    }
}

struct Check<'a> {
    chain: &'a ChainSource,
    order: &'a Order,
    transactions: &'a [Compiled],
    pivot: Option<usize>,
}

impl Check<'_> {
    fn is_after_pivot(&self, at: usize) -> bool {
        self.pivot.is_some_and(|pivot| self.order.is_before(pivot, at))
    }

    fn called(&self, step: &StepSource) -> Option<&Compiled> {
        step.call().and_then(|call| find(self.transactions, &call.value)).filter(|called| called.is_whole)
    }

    /// Whether the step can be refused, an expired signal being refused as well.
    fn can_refuse(&self, step: &StepSource) -> bool {
        let times_out = matches!(step.wait(), Some(Wait::Signal { timeout_ms: Some(_), .. }));
        times_out || self.called(step).is_some_and(|called| called.transaction.can_refuse)
    }

    /// What about the step turns the chain back; none if nothing does.
    fn turns_back(&self, step: &StepSource) -> Option<String> {
        let name = &step.name.value;
        if step.on_failure == OnFailure::Compensate && self.can_refuse(step) {
            let what = if step.wait().is_some() { "times out" } else { "is refused" };
            return Some(format!("`{name}` {what}"));
        }
        (step.on_exhausted.value == OnExhausted::Fail).then(|| format!("the attempts of `{name}` are used up"))
    }

    fn beside_pivot(&self, findings: &mut Vec<Finding>) {
        let Some((at, pivot)) = self.pivot.and_then(|at| Some((at, self.chain.steps.get(at)?))) else { return };
        let steps = self.chain.steps.iter().enumerate();
        for (_, step) in steps.filter(|(other, step)| !step.is_pivot && self.order.is_beside(at, *other)) {
            let (name, pivot) = (&step.name.value, &pivot.name.value);
            let message = format!("step `{name}` runs beside the pivot `{pivot}`");
            let help = format!("let one wait for the other: add `{name}` to `after` of `{pivot}`, or the reverse");
            findings.push(Finding::error(codes::BESIDE_PIVOT, &step.name.place, message).help(help));
        }
    }

    fn refused_after_pivot(&self, step: &StepSource, findings: &mut Vec<Finding>) {
        let name = &step.name.value;
        if step.on_exhausted.value == OnExhausted::Fail {
            let message = format!("step `{name}` stands after the pivot and fails when its attempts are used up");
            let finding = Finding::error(codes::REFUSED_AFTER_PIVOT, &step.on_exhausted.place, message);
            findings.push(finding.help("there is no way back from here; let it wait for a person: `on_exhausted = \"park\"`"));
        }
        if !self.can_refuse(step) {
            return;
        }
        let message = match step.on_failure {
            OnFailure::Park => return,
            OnFailure::Compensate if step.wait().is_some() => format!("step `{name}` stands after the pivot and can time out"),
            OnFailure::Compensate => format!("step `{name}` stands after the pivot and can be refused"),
            OnFailure::Keep => format!("step `{name}` stands after the pivot, where nothing may be left out"),
        };
        findings.push(
            Finding::error(codes::REFUSED_AFTER_PIVOT, &step.name.place, message)
                .help("move it before the pivot, or let it wait for a person: `on_failure = \"park\"`"),
        );
    }

    /// A step that writes can be undone if something may turn the chain back once it is done.
    fn undone(&self, at: usize, step: &StepSource, findings: &mut Vec<Finding>) {
        let writes = self.called(step).is_some_and(|called| called.transaction.writes);
        if !writes || step.compensate.is_some() {
            return;
        }
        // What need not be done when this step begins may turn the chain back afterwards. So may another element of the step
        // itself; only all of them together make a pivot done.
        let may_follow = |other: usize| {
            let is_later = other != at && !step.is_pivot && !self.order.is_before(other, at) && !self.is_after_pivot(other);
            is_later || other == at && step.for_each.is_some()
        };
        let mut following = self.chain.steps.iter().enumerate().filter(|(other, _)| may_follow(*other)).map(|(_, step)| step).peekable();
        let is_last = following.peek().is_none();
        let name = &step.name.value;
        if let Some(cause) = following.find_map(|other| self.turns_back(other)) {
            let message = format!("step `{name}` cannot be undone when {cause}");
            let finding = Finding::error(codes::NOT_UNDONE, &step.name.place, message);
            findings.push(finding.help("give it `compensate = \"…\"`, make it the pivot, or let the later steps park"));
        } else if self.chain.deadline_ms.is_some() && !is_last {
            let message = format!("step `{name}` cannot be undone when the deadline passes");
            let finding = Finding::warning(codes::LATE_UNDONE, &step.name.place, message);
            findings.push(finding.help("its effect would stay; give it `compensate = \"…\"`, or make it the pivot"));
        }
    }
}
