//! After a promotion: which of the transactions that were acknowledged last are not there.
//!
//! Where commits wait for no standby, a promoted one may lack the last of them. This worker remembers what it acknowledged last and looks for
//! the outcome of each; so what it says is a count, not a guess. A worker that has not served the peer before remembers nothing, and says that.

use std::{sync::Arc, time::Duration};

use rootward_proto::v1;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::{
    clock,
    lane::{Counters, Promise},
    primary::Primary,
};

/// How many of those that are missing are named.
const MOST_NAMED: usize = 10;
/// How long the look may take: the peer waits for it.
const LIMIT: Duration = Duration::from_secs(5);

/// Whether the PostgreSQL that serves the peer now was promoted in the place of the one before: by what this worker served last, else by
/// what the hub knew.
pub(crate) fn is_promoted(now: &Primary, served: Option<&Primary>, before: Option<&Primary>) -> bool {
    served.or(before).is_some_and(|before| before.system_identifier == now.system_identifier && before.timeline < now.timeline)
}

/// Looks for what was acknowledged, before anything is served. `has_served` says whether this worker acknowledged any of it.
pub(crate) async fn look(client: &Client, peer: &str, timeline: i32, counters: &[Arc<Counters>], has_served: bool) -> v1::Promotion {
    let mut promotion = v1::Promotion { timeline, at_ms: clock::now_ms(), ..v1::Promotion::default() };
    if !has_served {
        tracing::warn!(
            peer,
            timeline,
            "RW5032: a standby was promoted, and this worker has not served the peer before: whether something acknowledged is lost is not known"
        );
        return promotion;
    }
    let promises: Vec<Promise> = counters.iter().flat_map(|counters| counters.acknowledged.last()).collect();
    match tokio::time::timeout(LIMIT, missing(client, &promises)).await {
        Ok(Ok(missing)) => {
            promotion.checked = Some(promises.len() as u64);
            promotion.lost = missing.len() as u64;
            promotion.examples = missing.iter().take(MOST_NAMED).map(ToString::to_string).collect();
        }
        Ok(Err(error)) => tracing::warn!(peer, %error, "RW5032: whether something acknowledged is lost could not be looked up"),
        Err(_) => tracing::warn!(peer, "RW5032: whether something acknowledged is lost could not be looked up in time"),
    }
    let (lost, checked) = (promotion.lost, promotion.checked.unwrap_or_default());
    if lost > 0 {
        let requests = promotion.examples.join(", ");
        tracing::error!(
            peer,
            timeline,
            requests,
            "RW5031: a standby was promoted that lacks {lost} of the last {checked} transactions that were acknowledged"
        );
    } else if promotion.checked.is_some() {
        tracing::warn!(peer, timeline, "a standby was promoted; it has all of the last {checked} transactions that were acknowledged");
    }
    promotion
}

/// The requests without an outcome, of partitions that are still here.
async fn missing(client: &Client, promises: &[Promise]) -> Result<Vec<Uuid>, tokio_postgres::Error> {
    // OFFSET 0 keeps the planner from turning the join around: each is looked up by the primary key, which begins with the id, and the table,
    // which may be large, is not read.
    let sql = "/* find_acknowledged */ select a.id from unnest($1::uuid[], $2::integer[], $3::integer[], $4::integer[], $5::text[]) \
                 as a (id, partition, step, element, direction) \
               join rootward.ownership w on w.partition = a.partition and w.state = 'owned' \
               left join lateral (select true as is_there from rootward.outcome o where o.request_id = a.id and o.partition = a.partition \
                 and o.step = a.step and o.element = a.element and o.direction = a.direction limit 1 offset 0) f on true \
               where f.is_there is null";
    let ids: Vec<Uuid> = promises.iter().map(|promise| promise.request_id).collect();
    let of = |number: fn(&Promise) -> i32| promises.iter().map(number).collect::<Vec<i32>>();
    let (partitions, steps, elements) = (of(|promise| promise.partition), of(|promise| promise.step), of(|promise| promise.element));
    let directions: Vec<&str> = promises.iter().map(|promise| promise.direction).collect();
    let rows = client.query(sql, &[&ids, &partitions, &steps, &elements, &directions]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_is_a_newer_timeline_of_the_same_cluster() {
        let at = |system: &str, timeline| Primary { system_identifier: system.to_owned(), timeline };
        assert!(is_promoted(&at("7", 2), Some(&at("7", 1)), None));
        assert!(is_promoted(&at("7", 2), None, Some(&at("7", 1))), "another worker served it before");
        assert!(!is_promoted(&at("7", 2), Some(&at("7", 2)), Some(&at("7", 1))), "what this worker served last counts");
        assert!(!is_promoted(&at("7", 2), None, None), "nobody knows of an earlier one");
        assert!(!is_promoted(&at("8", 2), Some(&at("7", 1)), None), "another cluster");
    }
}
