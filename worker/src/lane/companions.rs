//! Chains that are done in one commit.
//!
//! A chain whose steps all run in one lane, set-wise and each at a root of its own, and need nothing of each other's answers, needs no
//! commit for each of them: its start brings the other steps along as *companions*. They run in a batch of one trip only, in which either the
//! start and all of its companions take effect or nothing of the whole batch does (`rootward.open_chains` counts their outcomes). Whatever is
//! in the way, a refusal among it, they are left out as if nobody had brought them, and the chain's driver sends its steps one after the other.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{
    folded::may_be_folded,
    set_wise,
    unit::{After, Unit},
};

/// Puts companions behind the units that brought them, so many units in all at most. Those of a chain come along together or not at all.
pub(super) fn board(batch: &mut Vec<Unit>, most: usize, may_run: impl Fn(&Unit) -> bool) {
    if batch.iter().all(|unit| unit.companions.is_empty()) {
        return;
    }
    let brought: Vec<Vec<Unit>> = batch.iter_mut().map(|unit| std::mem::take(&mut unit.companions)).collect();
    if !batch.iter().all(may_be_folded) {
        return;
    }
    let mut roots: HashSet<_> = batch.iter().filter_map(set_wise::root_of).collect();
    let mut aboard = Vec::new();
    let mut room = most.saturating_sub(batch.len());
    for companions in &brought {
        let may_all = companions.len() <= room && companions.iter().all(|unit| may_run(unit) && may_be_folded(unit));
        // A root that is taken for companions that stay behind keeps others away needlessly, and nothing worse.
        let all = may_all && companions.iter().filter_map(set_wise::root_of).all(|root| roots.insert(root));
        room -= if all { companions.len() } else { 0 };
        aboard.push(all);
    }
    drop(roots);
    batch.extend(brought.into_iter().zip(aboard).filter(|(_, is_aboard)| *is_aboard).flat_map(|(companions, _)| companions));
}

/// Takes the places of companions out of those that are still to be answered; whether there were any.
pub(super) fn leave_out(units: &[Unit], open: &mut Vec<usize>) -> bool {
    let before = open.len();
    open.retain(|at| !units[*at].is_companion);
    open.len() < before
}

/// How many outcomes the chains of these units must have in their commit, by the chains' ids: each its start's and its companions'.
pub(super) fn wanted(units: &[&Unit]) -> HashMap<Uuid, usize> {
    let mut wanted = HashMap::new();
    for unit in units {
        if let Some(outcome) = unit.outcome.as_ref().filter(|_| unit.is_companion || matches!(unit.after, Some(After::Row(_)))) {
            *wanted.entry(outcome.key.request_id).or_default() += 1;
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::lane::{Declared, Effect, OutcomeKey, OwnRow, UnitOutcome, declared::SetWise, outcome::Fingerprint};

    /// A unit that runs set-wise at a root, for a chain.
    fn unit(chain: u128, root: &str, is_companion: bool) -> Unit {
        let set_wise = SetWise { sql: "".into(), reply: Bytes::new(), clean_statements: 0 };
        let declared = Declared { set_wise: Some(set_wise), ..Declared::ad_hoc("select 1") };
        let key = OutcomeKey {
            entity: "account".to_owned(),
            root_key: root.to_owned(),
            request_id: Uuid::from_u128(chain),
            step: u32::from(is_companion),
            element: 0,
            is_undo: false,
        };
        let outcome = UnitOutcome {
            key,
            fingerprint: Fingerprint::of_chain("step", &[]),
            is_tombstone: false,
            is_look_up: false,
            refusal_is_no_outcome: false,
            mark: None,
            in_chain: true,
            opens_chain: !is_companion,
            issued_at_ms: 0,
            is_journaled: false,
        };
        let effect = Effect { declared: Arc::new(declared), values: Vec::new() };
        Unit { effect: Some(effect), outcome: Some(outcome), is_companion, ..Unit::of_test(root, 0) }
    }

    /// The start of a chain at the first of these roots, with companions at the others.
    fn start(chain: u128, roots: &[&str]) -> Unit {
        Unit { companions: roots[1..].iter().map(|root| unit(chain, root, true)).collect(), ..unit(chain, roots[0], false) }
    }

    fn boarded(mut batch: Vec<Unit>, most: usize) -> String {
        board(&mut batch, most, |unit| &*unit.label != "held");
        assert!(batch.iter().all(|unit| unit.companions.is_empty()));
        batch.iter().map(|unit| &*unit.label).collect::<Vec<&str>>().join(" ")
    }

    #[test]
    fn companions_of_a_chain_come_along_together_or_not_at_all() {
        assert_eq!(boarded(vec![start(1, &["a", "b", "c"]), start(2, &["d", "e"])], 9), "a d b c e");
        assert_eq!(boarded(vec![start(1, &["a", "b", "c"]), start(2, &["d", "b"])], 9), "a d b c", "a root comes once in a batch");
        assert_eq!(boarded(vec![start(1, &["a", "b", "d"]), start(2, &["d", "e"])], 9), "a d e", "though it is another one's first");
        assert_eq!(boarded(vec![start(1, &["a", "b", "c"]), start(2, &["d", "e"])], 4), "a d b c", "there is no room for more");
        assert_eq!(boarded(vec![start(1, &["a", "b", "held"])], 9), "a");
        assert_eq!(boarded(vec![start(1, &["a", "a"])], 9), "a");
    }

    #[test]
    fn a_batch_of_two_trips_takes_nobody_along() {
        let row_by_row =
            Unit { effect: Some(Effect { declared: Arc::new(Declared::ad_hoc("select 1")), values: Vec::new() }), ..unit(2, "d", false) };
        assert_eq!(boarded(vec![start(1, &["a", "b"]), row_by_row], 9), "a d");
    }

    #[test]
    fn companions_are_left_out_and_counted() {
        let mut batch = vec![start(1, &["a", "b", "c"]), unit(2, "d", false)];
        batch[0].after = Some(After::Row(OwnRow {
            sql: "",
            sql_if_recorded: Some(""),
            key: Uuid::from_u128(1),
            r#type: crate::pg::RowType::ChainStart,
            values: Vec::new(),
            values_with_companions: Vec::new(),
        }));
        board(&mut batch, 9, |_| true);
        assert_eq!(wanted(&batch.iter().collect::<Vec<_>>()), HashMap::from([(Uuid::from_u128(1), 3)]));
        let mut open = vec![0, 1, 2, 3];
        assert!(leave_out(&batch, &mut open) && open == [0, 1]);
        assert!(!leave_out(&batch, &mut open));
    }
}
