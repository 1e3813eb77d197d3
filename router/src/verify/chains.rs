//! One chain after the other, against the outcome rows of all peers: nothing missing, nothing twice, nothing half.

use std::collections::BTreeMap;

use rootward_proto::v1;

use super::EXAMPLES;

/// By step, element and whether it undoes: the kinds of the outcomes there.
type Outcomes<'a> = BTreeMap<(u32, u32, bool), Vec<&'a str>>;

/// What was found so far; its size doesn't depend on the number of chains.
#[derive(Debug, Default)]
pub(crate) struct ChainJudge {
    statuses: BTreeMap<String, u64>,
    wrong: u64,
    examples: Vec<String>,
}

impl ChainJudge {
    /// Judges a chain by what all peers know of it.
    pub(super) fn judge(&mut self, evidence: &[v1::ChainEvidence]) {
        let Some(id) = evidence.first().map(|evidence| evidence.id.as_slice()) else { return };
        let mut outcomes = Outcomes::new();
        for fact in evidence.iter().flat_map(|evidence| &evidence.outcomes) {
            let place = (fact.step, fact.element, fact.direction() == v1::Direction::Undo);
            outcomes.entry(place).or_default().push(&fact.kind);
        }
        let facts = || evidence.iter().flat_map(|evidence| &evidence.facts);
        let mut wrong = Vec::new();
        for fact in facts() {
            match self.statuses.get_mut(&fact.status) {
                Some(count) => *count += 1,
                None => drop(self.statuses.insert(fact.status.clone(), 1)),
            }
            wrong.extend(judge_chain(id, fact, &outcomes));
        }
        match facts().next() {
            Some(known) => {
                let others = evidence.iter().flat_map(|evidence| &evidence.outcomes).filter(|fact| fact.fingerprint != known.fingerprint);
                wrong.extend(others.map(|fact| format!("{}: the outcome of step {} is of another request", chain_name(id), fact.step + 1)));
            }
            None if evidence.iter().any(|evidence| evidence.is_collected) || outcomes.is_empty() => {}
            None => wrong.push(format!("{} outcomes of {}, which is at home nowhere", outcomes.len(), chain_name(id))),
        }
        self.wrong += wrong.len() as u64;
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(wrong.into_iter().take(room));
    }

    /// What came of it.
    pub(super) fn check(self) -> v1::Check {
        let statuses: Vec<String> = self.statuses.iter().map(|(status, count)| format!("{count} {status}")).collect();
        let found = if statuses.is_empty() { "none".to_owned() } else { statuses.join(", ") };
        v1::Check {
            name: "chains".to_owned(),
            is_ok: self.wrong == 0,
            finding: format!("{found}; 0 doubled, 0 missing steps"),
            examples: self.examples,
        }
    }
}

fn judge_chain(id: &[u8], fact: &v1::ChainFact, outcomes: &Outcomes<'_>) -> Vec<String> {
    let name = chain_name(id);
    let pairs = |flat: &[u32]| flat.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>();
    let kind = |step: u32, element: u32, is_undo: bool| outcomes.get(&(step, element, is_undo)).and_then(|kinds| kinds.first().copied());
    let mut wrong: Vec<String> = outcomes
        .iter()
        .filter(|(_, kinds)| kinds.len() > 1)
        .map(|((step, element, _), kinds)| format!("{name}: step {} element {element} has {} outcomes", step + 1, kinds.len()))
        .collect();
    let undoable = pairs(&fact.undoable);
    for (step, element) in pairs(&fact.expected) {
        let (done, undone) = (kind(step, element, false), kind(step, element, true));
        let place = format!("{name} ({}): step {} element {element}", fact.status, step + 1);
        match fact.status.as_str() {
            "completed" if !matches!(done, Some("done" | "skipped")) => wrong.push(format!("{place} is {}", done.unwrap_or("missing"))),
            "completed" if undone.is_some() => wrong.push(format!("{place} was undone")),
            "compensated" | "failed" | "cancelled"
                if done == Some("done") && undoable.contains(&(step, element)) && !matches!(undone, Some("done" | "skipped")) =>
            {
                wrong.push(format!("{place} was not undone"));
            }
            _ if undone.is_some() && done != Some("done") => wrong.push(format!("{place} was undone but never done")),
            _ => {}
        }
    }
    wrong
}

fn chain_name(id: &[u8]) -> String {
    uuid::Uuid::from_slice(id).map_or_else(|_| "chain ?".to_owned(), |id| format!("chain {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(status: Option<&str>, outcomes: &[(u32, &str)]) -> v1::ChainEvidence {
        let fact = |status: &str| v1::ChainFact {
            status: status.into(),
            definition: "transfer".into(),
            expected: vec![0, 0, 1, 0],
            undoable: vec![0, 0],
            fingerprint: vec![1],
        };
        let outcome = |(step, kind): &(u32, &str)| v1::OutcomeFact {
            step: *step,
            element: 0,
            direction: v1::Direction::Do.into(),
            kind: (*kind).to_owned(),
            fingerprint: vec![1],
        };
        v1::ChainEvidence {
            id: vec![0; 16],
            facts: status.map(fact).into_iter().collect(),
            outcomes: outcomes.iter().map(outcome).collect(),
            is_collected: false,
        }
    }

    fn wrong(evidence: &[v1::ChainEvidence]) -> u64 {
        let mut judge = ChainJudge::default();
        judge.judge(evidence);
        judge.wrong
    }

    #[test]
    fn a_missing_a_doubled_and_a_half_step_are_found_wherever_they_lie() {
        let home = |status| evidence(Some(status), &[(0, "done")]);
        let other = || evidence(None, &[(1, "done")]);
        assert_eq!(wrong(&[home("completed"), other()]), 0);
        assert_eq!(wrong(&[home("completed")]), 1, "missing");
        assert_eq!(wrong(&[home("compensated")]), 1, "not undone");
        assert_eq!(wrong(&[home("completed"), other(), other()]), 1, "doubled");
        assert_eq!(wrong(&[home("running")]), 0, "under way");
    }

    #[test]
    fn outcomes_without_a_chain_or_of_another_request_are_found() {
        let mut orphan = evidence(None, &[(1, "done")]);
        assert_eq!(wrong(std::slice::from_ref(&orphan)), 1, "at home nowhere");
        orphan.is_collected = true;
        assert_eq!(wrong(std::slice::from_ref(&orphan)), 0, "being forgotten");
        orphan.outcomes[0].fingerprint = vec![2];
        assert_eq!(wrong(&[evidence(Some("completed"), &[(0, "done")]), orphan]), 1, "another request");
    }

    #[test]
    fn there_are_no_more_examples_than_anybody_reads() {
        let mut judge = ChainJudge::default();
        (0..100).for_each(|_| judge.judge(&[evidence(Some("completed"), &[])]));
        let check = judge.check();
        assert_eq!((check.is_ok, check.examples.len()), (false, EXAMPLES));
        assert!(check.finding.starts_with("100 completed"), "{}", check.finding);
    }
}
