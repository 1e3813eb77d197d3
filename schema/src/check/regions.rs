//! Regions, and root entities that are placed by them.

use std::collections::BTreeSet;

use super::trees::Trees;
use crate::codes;
use crate::finding::Finding;
use crate::source::Source;
use crate::value::Type;

/// Each region has as many partitions as all entities without one.
const MOST_REGIONS: usize = 32;
const LONGEST_NAME: usize = 40;

pub(crate) fn check(source: &Source, trees: &Trees, findings: &mut Vec<Finding>) {
    names(source, findings);
    for root in &source.manifest.roots {
        let Some(place_by) = &root.place_by else { continue };
        let entity = &root.name.value;
        let wrong = |message: String| Finding::error(codes::PLACE_BY, &place_by.place, message);
        if place_by.value != "region" {
            findings.push(
                wrong(format!("`{entity}` can't be placed by `{}`", place_by.value)).help("write `place_by = \"region\"`, or leave it out"),
            );
            continue;
        }
        if source.manifest.regions.is_empty() {
            let help =
                "list them above the first table: `regions = [\"eu\", \"us\"]`, as peers have them in the file of the cluster's databases";
            findings.push(wrong(format!("`{entity}` is placed by region, and the schema has no regions")).help(help));
        }
        if let Some(key) = trees.root_key(entity)
            && !matches!(key.r#type, Type::Text | Type::Varchar)
        {
            let message =
                format!("`{entity}` is placed by region, and its root key `{}.{}` is of type {}", key.table, key.column, key.r#type.name());
            findings.push(wrong(message).help("such a key is a text that begins with the region and a colon, for example `eu:1007`"));
        }
    }
}

fn names(source: &Source, findings: &mut Vec<Finding>) {
    let mut seen = BTreeSet::new();
    for region in &source.manifest.regions {
        let name = &region.value;
        let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-');
        if name.is_empty() || name.len() > LONGEST_NAME || !is_plain {
            let help = format!(
                "a region is lower-case letters, digits, `_` and `-`, {LONGEST_NAME} characters at most: it stands in keys and in SQL"
            );
            findings.push(Finding::error(codes::PLACE_BY, &region.place, format!("`{name}` can't be a region")).help(help));
        }
        if !seen.insert(name) {
            findings.push(Finding::error(codes::DUPLICATE, &region.place, format!("region `{name}` is listed twice")).help("remove one"));
        }
    }
    if let Some(region) = source.manifest.regions.get(MOST_REGIONS) {
        let message = format!("there are {} regions", source.manifest.regions.len());
        let help = format!("{MOST_REGIONS} at most: each has partitions of its own");
        findings.push(Finding::error(codes::PLACE_BY, &region.place, message).help(help));
    }
}
