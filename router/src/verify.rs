//! Judges what the peers counted: pure comparison, no trust in anybody's bookkeeping. Of chains there may be any number: what the
//! peers know of them is merged chain by chain (`merge`) and judged at once (`chains`).

mod chains;
mod merge;

use std::collections::HashMap;

use rootward_proto::{Fault, v1};

use crate::{Catalog, CatalogPeer};

pub(crate) use chains::ChainJudge;
pub(crate) use merge::{Feed, judge_feeds};

const EXAMPLES: usize = 10;

type Counted = (CatalogPeer, v1::VerifyPeerResponse);

/// Everything that must hold over all peers, each as one check.
pub(crate) fn judge(catalog: &Catalog, counted: &[Counted], missing: &[(CatalogPeer, Fault)], chains: ChainJudge) -> v1::VerifyResponse {
    let mut checks = vec![all_peers(counted, missing), placement(catalog, counted)];
    checks.extend(catalog.schema.invariants.iter().map(|invariant| judge_invariant(invariant, counted)));
    checks.push(chains.check());
    checks.push(reference(catalog, counted));
    if !catalog.schema.content_keys.is_empty() {
        checks.push(content_keys(catalog, counted));
    }
    let is_ok = checks.iter().all(|check| check.is_ok);
    v1::VerifyResponse { checks, is_ok }
}

/// Only the comparison of chains with the outcomes at their roots.
pub(crate) fn judge_chains(counted: &[Counted], missing: &[(CatalogPeer, Fault)], chains: ChainJudge) -> v1::VerifyResponse {
    let checks = vec![all_peers(counted, missing), chains.check()];
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
    // The map as it was on the hub at the same moment; this router's copy may be of another one, before or after a move.
    let map = counted.iter().map(|(_, part)| &part.map).find(|map| !map.is_empty());
    for partition in 0..catalog.schema.all_partitions() {
        let Some(known) = catalog.owner_of_partition(partition) else { continue };
        let owner = map.and_then(|map| map.get(&known.partition)).unwrap_or(&known.peer.id);
        let is_counted = counted.iter().any(|(peer, _)| peer.id == *owner);
        if is_counted && !owners.get(&known.partition).is_some_and(|peers| peers.contains(&owner.as_str())) {
            wrong.push(format!("partition {partition} belongs to peer {owner} by the map, but not by its own table"));
        }
    }
    let rows: u64 = counted.iter().map(|(_, part)| part.rows).sum();
    check("placement", wrong, format!("{rows} rows, each on the peer that owns its partition"))
}

fn content_keys(catalog: &Catalog, counted: &[Counted]) -> v1::Check {
    let mut wrong = Vec::new();
    let mut total = 0;
    for (peer, part) in counted {
        for (table, list) in &part.content_keys {
            total += list.count;
            wrong.extend(
                list.examples.iter().map(|row| format!("peer {}: `{table}` {row}: the key is not that of the row's content", peer.id)),
            );
        }
    }
    let tables: Vec<&str> = catalog.schema.content_keys.iter().map(|key| key.table.as_str()).collect();
    check(
        "content_keys",
        wrong,
        format!("{}: {total} rows with another key than their content's, on {} peers", tables.join(", "), counted.len()),
    )
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
}
