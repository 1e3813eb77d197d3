//! Judges what the peers counted: pure comparison, no trust in anybody's bookkeeping.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rootward_proto::{Fault, v1};

use crate::{Catalog, CatalogPeer};

const EXAMPLES: usize = 10;

type Counted = (CatalogPeer, v1::VerifyPeerResponse);

/// Everything that must hold over all peers, each as one check.
pub(crate) fn judge(catalog: &Catalog, counted: &[Counted], missing: &[(CatalogPeer, Fault)]) -> v1::VerifyResponse {
    let mut checks = vec![all_peers(counted, missing), placement(catalog, counted)];
    checks.extend(catalog.schema.invariants.iter().map(|invariant| judge_invariant(invariant, counted)));
    checks.push(chains(counted));
    checks.push(reference(catalog, counted));
    let is_ok = checks.iter().all(|check| check.is_ok);
    v1::VerifyResponse { checks, is_ok }
}

/// Only the comparison of chains with the outcomes at their roots.
pub(crate) fn judge_chains(counted: &[Counted], missing: &[(CatalogPeer, Fault)]) -> v1::VerifyResponse {
    let checks = vec![all_peers(counted, missing), chains(counted)];
    let is_ok = checks.iter().all(|check| check.is_ok);
    v1::VerifyResponse { checks, is_ok }
}

fn check(name: &str, wrong: Vec<String>, finding: String) -> v1::Check {
    let is_ok = wrong.is_empty();
    v1::Check { name: name.to_owned(), is_ok, finding, examples: wrong.into_iter().take(EXAMPLES).collect() }
}

fn all_peers(counted: &[Counted], missing: &[(CatalogPeer, Fault)]) -> v1::Check {
    let wrong = missing.iter().map(|(peer, fault)| format!("peer {}: {}", peer.id, fault.message())).collect();
    check("peers", wrong, format!("{} of {} counted", counted.len(), counted.len() + missing.len()))
}

fn placement(catalog: &Catalog, counted: &[Counted]) -> v1::Check {
    let mut wrong: Vec<String> =
        counted.iter().flat_map(|(peer, part)| part.misplaced.iter().map(move |row| format!("peer {}: {row}", peer.id))).collect();
    let mut owners: HashMap<i32, Vec<&str>> = HashMap::new();
    for (peer, part) in counted {
        part.owned.iter().for_each(|partition| owners.entry(*partition).or_default().push(&peer.id));
    }
    for (partition, peers) in &owners {
        if peers.len() > 1 {
            wrong.push(format!("partition {partition} is owned by {}", peers.join(" and ")));
        }
    }
    for partition in 0..catalog.schema.partitions {
        let Some(owner) = catalog.owner_of_partition(partition) else { continue };
        let is_counted = counted.iter().any(|(peer, _)| peer.id == owner.peer.id);
        if is_counted && !owners.get(&owner.partition).is_some_and(|peers| peers.contains(&owner.peer.id.as_str())) {
            wrong.push(format!("partition {partition} belongs to peer {} by the map, but not by its own table", owner.peer.id));
        }
    }
    let rows: u64 = counted.iter().map(|(_, part)| part.rows).sum();
    check("placement", wrong, format!("{rows} rows, each on the peer that owns its partition"))
}

fn judge_invariant(invariant: &rootward_schema::Invariant, counted: &[Counted]) -> v1::Check {
    let name = &invariant.name;
    let total = |side: &str| -> Decimal {
        counted.iter().filter_map(|(_, part)| part.sums.get(&format!("{name} {side}"))).fold(Decimal::default(), |sum, text| sum.add(text))
    };
    let mut wrong = Vec::new();
    let mut finding = Vec::new();
    if invariant.sum.is_some() {
        let (sum, wanted) = (total("sum"), total("equals"));
        let expected = if invariant.equals.is_some() { wanted.text() } else { "0".to_owned() };
        if sum != wanted {
            wrong.push(format!("the sum over {} peers is {}, expected {expected}", counted.len(), sum.text()));
        }
        finding.push(format!("{} = expected {expected}, over {} peers", sum.text(), counted.len()));
    }
    if invariant.none.is_some() {
        let lists = || counted.iter().filter_map(|(peer, part)| Some((peer, part.violations.get(name)?)));
        wrong.extend(lists().flat_map(|(peer, list)| list.examples.iter().map(move |row| format!("peer {}: {row}", peer.id))));
        finding.push(format!("{} violations", lists().map(|(_, list)| list.count).sum::<u64>()));
    }
    check(name, wrong, finding.join("; "))
}

/// A decimal of any size as a sign and digits scaled to 20 places; enough for sums of money, exact unlike a float.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Decimal(i128);

const PLACES: usize = 12;

impl Decimal {
    fn add(self, text: &str) -> Decimal {
        let (whole, fraction) = text.trim_start_matches('-').split_once('.').unwrap_or((text.trim_start_matches('-'), ""));
        let digits: String = whole.chars().chain(fraction.chars().chain(std::iter::repeat('0')).take(PLACES)).collect();
        let value: i128 = digits.parse().unwrap_or(0);
        Decimal(self.0 + if text.starts_with('-') { -value } else { value })
    }

    fn text(self) -> String {
        let scale = 10_i128.pow(u32::try_from(PLACES).unwrap_or(0));
        let (whole, fraction) = (self.0.abs() / scale, self.0.abs() % scale);
        let fraction = format!("{fraction:012}");
        let fraction = fraction.trim_end_matches('0');
        let sign = if self.0 < 0 { "-" } else { "" };
        if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction:0<2}") }
    }
}

type Outcomes<'a> = HashMap<&'a [u8], BTreeMap<(u32, u32, bool), Vec<&'a str>>>;

/// Ended chains against the outcome rows of all peers: nothing missing, nothing twice, nothing half.
fn chains(counted: &[Counted]) -> v1::Check {
    let mut outcomes: Outcomes<'_> = HashMap::new();
    for fact in counted.iter().flat_map(|(_, part)| &part.outcomes_of_chains) {
        let place = (fact.step, fact.element, fact.direction() == v1::Direction::Undo);
        outcomes.entry(&fact.id).or_default().entry(place).or_default().push(&fact.kind);
    }
    let mut wrong = Vec::new();
    let mut statuses: BTreeMap<&str, u64> = BTreeMap::new();
    let empty = BTreeMap::new();
    let facts: Vec<&v1::ChainFact> = counted.iter().flat_map(|(_, part)| &part.chains).collect();
    for fact in &facts {
        *statuses.entry(&fact.status).or_default() += 1;
        wrong.extend(judge_chain(fact, outcomes.get(fact.id.as_slice()).unwrap_or(&empty)));
    }
    let known: HashMap<&[u8], &[u8]> = facts.iter().map(|fact| (fact.id.as_slice(), fact.fingerprint.as_slice())).collect();
    let collected: BTreeSet<&[u8]> = counted.iter().flat_map(|(_, part)| &part.collected_chains).map(Vec::as_slice).collect();
    for fact in counted.iter().flat_map(|(_, part)| &part.outcomes_of_chains) {
        if known.get(fact.id.as_slice()).is_some_and(|fingerprint| *fingerprint != fact.fingerprint) {
            wrong.push(format!("{}: the outcome of step {} is of another request", chain_name(&fact.id), fact.step + 1));
        }
    }
    for (id, places) in &outcomes {
        if !known.contains_key(*id) && !collected.contains(*id) {
            wrong.push(format!("{} outcomes of {}, which is at home nowhere", places.len(), chain_name(id)));
        }
    }
    let finding = if statuses.is_empty() {
        "none".to_owned()
    } else {
        statuses.iter().map(|(status, count)| format!("{count} {status}")).collect::<Vec<_>>().join(", ")
    };
    check("chains", wrong, format!("{finding}; 0 doubled, 0 missing steps"))
}

fn judge_chain(fact: &v1::ChainFact, outcomes: &BTreeMap<(u32, u32, bool), Vec<&str>>) -> Vec<String> {
    let name = chain_name(&fact.id);
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

fn reference(catalog: &Catalog, counted: &[Counted]) -> v1::Check {
    let mut wrong = Vec::new();
    let Some((hub, source)) = counted.iter().find(|(peer, _)| peer.is_hub) else {
        return check("reference", vec!["the hub was not counted".to_owned()], String::new());
    };
    for (peer, part) in counted.iter().filter(|(peer, _)| !peer.is_hub) {
        if part.reference_version != source.reference_version {
            wrong.push(format!("peer {} is at version {}, {} at {}", peer.id, part.reference_version, hub.id, source.reference_version));
        }
        for table in &catalog.schema.reference {
            if part.reference_digests.get(&table.name) != source.reference_digests.get(&table.name) {
                wrong.push(format!("peer {}: `{}` differs from the hub's", peer.id, table.name));
            }
        }
    }
    let names: Vec<&str> = catalog.schema.reference.iter().map(|table| table.name.as_str()).collect();
    let tables = if names.is_empty() { "no tables".to_owned() } else { names.join(", ") };
    let copies = counted.iter().filter(|(peer, _)| !peer.is_hub).count();
    check("reference", wrong, format!("{tables}: {copies} of {copies} peers at version {}", source.reference_version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_money_are_exact() {
        let sum = ["0.10", "0.20", "-0.05", "10000000000000000"].iter().fold(Decimal::default(), |sum, text| sum.add(text));
        assert_eq!(sum.text(), "10000000000000000.25");
        assert_eq!(Decimal::default().add("-1.5").text(), "-1.50");
    }

    fn fact(status: &str) -> v1::ChainFact {
        v1::ChainFact {
            id: vec![0; 16],
            status: status.into(),
            definition: "transfer".into(),
            expected: vec![0, 0, 1, 0],
            undoable: vec![0, 0],
            fingerprint: Vec::new(),
        }
    }

    #[test]
    fn a_missing_a_doubled_and_a_half_step_are_found() {
        let both = BTreeMap::from([((0, 0, false), vec!["done"]), ((1, 0, false), vec!["done"])]);
        assert!(judge_chain(&fact("completed"), &both).is_empty());
        let missing = BTreeMap::from([((0, 0, false), vec!["done"])]);
        assert_eq!(judge_chain(&fact("completed"), &missing).len(), 1);
        assert_eq!(judge_chain(&fact("compensated"), &missing).len(), 1);
        let doubled = BTreeMap::from([((0, 0, false), vec!["done"]), ((1, 0, false), vec!["done", "done"])]);
        assert_eq!(judge_chain(&fact("completed"), &doubled).len(), 1);
        assert!(judge_chain(&fact("running"), &missing).is_empty());
    }
}
