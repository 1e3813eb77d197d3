//! `rootward partition list`: which peer owns which partitions, and which of them stay in a region.

use std::{collections::BTreeMap, process::ExitCode};

use serde_json::json;

use super::{
    Context, fail,
    peer::{no_peer, ranges, shortened},
};
use crate::output;

/// Lists the partitions of every peer, or of one.
pub(crate) async fn list(context: &Context, peer: Option<String>) -> ExitCode {
    let response = match context.client.partitions().await {
        Ok(response) => response,
        Err(fault) => return fail(&fault, context.format),
    };
    if let Some(id) = peer.as_ref().filter(|id| !response.peers.contains(id)) {
        let known: Vec<&str> = response.peers.iter().map(String::as_str).collect();
        return fail(&no_peer(id, &known), context.format);
    }
    let owned: Vec<(String, Vec<usize>)> = response
        .peers
        .iter()
        .enumerate()
        .filter(|(_, id)| peer.as_ref().is_none_or(|wanted| wanted == *id))
        .map(|(place, id)| {
            let is_owner = |owner: &u32| usize::try_from(*owner).is_ok_and(|owner| owner == place);
            (id.clone(), response.owners.iter().enumerate().filter(|(_, owner)| is_owner(owner)).map(|(partition, _)| partition).collect())
        })
        .collect();
    if context.format.is_json() {
        let placed = |partitions: &[usize]| {
            let mut placed = by_region(&response.regions, partitions);
            placed.remove("");
            placed.into_iter().map(|(region, partitions)| (region.to_owned(), json!(partitions))).collect::<serde_json::Map<_, _>>()
        };
        let item = |(id, partitions): &(String, Vec<usize>)| json!({"peer": id, "partitions": partitions, "regions": placed(partitions)});
        let items = owned.iter().map(item).collect();
        output::print_list(context.format, "peers", items, json!({"map_version": response.map_version}));
    } else {
        let listed = |list: &[usize]| if peer.is_some() { ranges(list) } else { shortened(&ranges(list)) };
        let mut rows: Vec<Vec<String>> = Vec::new();
        for (id, list) in &owned {
            let placed = by_region(&response.regions, list);
            rows.extend(placed.iter().map(|(region, list)| vec![id.clone(), region_name(region), list.len().to_string(), listed(list)]));
        }
        let mut headings = vec!["PEER", "REGION", "COUNT", "PARTITIONS"];
        if response.regions.is_empty() {
            headings.remove(1);
            rows.iter_mut().for_each(|row| drop(row.remove(1)));
        }
        output::print(&format!("{}\nmap version {}", output::table(&headings, &rows), response.map_version));
    }
    ExitCode::SUCCESS
}

/// A peer's partitions by the region that they never leave, those that may be anywhere under an empty name.
fn by_region<'r>(regions: &'r [String], partitions: &[usize]) -> BTreeMap<&'r str, Vec<usize>> {
    let mut placed = BTreeMap::<&str, Vec<usize>>::new();
    for partition in partitions {
        placed.entry(regions.get(*partition).map_or("", String::as_str)).or_default().push(*partition);
    }
    placed
}

fn region_name(region: &str) -> String {
    if region.is_empty() { "any".to_owned() } else { region.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_partitions_are_told_apart_by_region() {
        let regions = ["", "", "eu", "eu", "us", "us"].map(str::to_owned);
        assert_eq!(by_region(&regions, &[0, 2, 3, 4]), BTreeMap::from([("", vec![0]), ("eu", vec![2, 3]), ("us", vec![4])]));
        assert_eq!(by_region(&[], &[0, 2]), BTreeMap::from([("", vec![0, 2])]), "a schema without regions");
        assert_eq!((region_name(""), region_name("eu")), ("any".to_owned(), "eu".to_owned()));
    }
}
