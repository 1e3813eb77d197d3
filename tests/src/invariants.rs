//! What must hold after everything, counted with plain SQL on every peer and, beside it, by `verify`.

use std::{collections::BTreeMap, fmt};

use uuid::Uuid;

use crate::{cluster::Cluster, logs::check_logs, reader::Reader, wait::eventually};

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub what: &'static str,
    /// What was seen.
    pub seen: String,
}

impl Violation {
    /// A broken promise with what shows it.
    pub fn new(what: &'static str, seen: impl ToString) -> Violation {
        Violation { what, seen: seen.to_string() }
    }

    /// What could not be looked at breaks no promise, but is no proof either.
    pub fn unread(error: impl fmt::Display) -> Violation {
        Violation { what: "unread", seen: format!("{error:#}") }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.what, self.seen)
    }
}

impl std::error::Error for Violation {}

/// Everything about a cluster that runs the bank; the load must have ended.
///
/// # Errors
/// The first promise that is broken.
pub async fn check_bank(cluster: &Cluster) -> Result<(), Violation> {
    let reader = cluster.reader();
    // Chains may still be on their way; what stays wrong is wrong.
    eventually(async || check_money(&reader).await).await?;
    check_effects(&reader).await?;
    check_everything(cluster).await
}

/// What holds for any schema: `verify`, and the logs.
///
/// # Errors
/// The first promise that is broken.
pub async fn check_everything(cluster: &Cluster) -> Result<(), Violation> {
    let client = cluster.client().map_err(Violation::unread)?;
    eventually(async || {
        let found = client.verify().await.map_err(Violation::unread)?;
        let wrong: Vec<String> = found
            .checks
            .iter()
            .filter(|check| !check.is_ok)
            .map(|check| format!("{}: {}; {}", check.name, check.finding, check.examples.join("; ")))
            .collect();
        if found.is_ok && wrong.is_empty() { Ok(()) } else { Err(Violation::new("verify", wrong.join(" | "))) }
    })
    .await?;
    check_logs(cluster)
}

/// No money appears or vanishes.
///
/// # Errors
/// The sums that differ.
pub async fn check_money(reader: &Reader) -> Result<(), Violation> {
    let sum = async |sql: &str| reader.sum(sql).await.map_err(Violation::unread);
    let balances = sum("select coalesce(sum(balance) * 100, 0)::bigint from account").await?;
    let outside = sum("select coalesce(sum(amount) * 100, 0)::bigint from entry where kind <> 'transfer'").await?;
    let transfers = sum("select coalesce(sum(amount) * 100, 0)::bigint from entry where kind = 'transfer'").await?;
    if balances != outside || transfers != 0 {
        return Err(Violation::new("money", format!("balances {balances}, paid in {outside}, transfers {transfers}")));
    }
    let drifted =
        "select count(*) from account a where balance <> (select coalesce(sum(amount), 0) from entry e where e.account_id = a.account_id)";
    match sum(drifted).await? {
        0 => Ok(()),
        count => Err(Violation::new("balance", format!("{count} balances are not the sum of their entries"))),
    }
}

/// Each effect has its outcome and each outcome its effect, on every peer by itself. An entry's id follows from the
/// request, so that nothing of what is judged takes part in the judgement.
///
/// # Errors
/// What has no counterpart.
pub async fn check_effects(reader: &Reader) -> Result<(), Violation> {
    for peer in reader.peers() {
        // One statement, so one snapshot: load may go on meanwhile.
        let sql = "select 'entry', account_id::text, entry_id, '', 0, 0, '' from entry union all \
                   select 'outcome', root_key, request_id, transaction, step, element, direction from rootward.outcome where kind = 'done' \
                   and transaction in ('open_account', 'deposit', 'withdraw', 'close_month', 'transfer_out', 'transfer_in', 'transfer_back')";
        let mut balance: BTreeMap<(String, Uuid), i32> = BTreeMap::new();
        for row in reader.rows(peer, sql, &[]).await.map_err(Violation::unread)? {
            let (kind, root, id): (String, String, Uuid) = (row.get(0), row.get(1), row.get(2));
            let (transaction, step, element, direction): (String, i32, i32, String) = (row.get(3), row.get(4), row.get(5), row.get(6));
            let effect = match transaction.starts_with("transfer_") {
                true => Uuid::new_v5(&id, format!("{step}/{element}/{direction}").as_bytes()),
                false => id,
            };
            *balance.entry((root, effect)).or_default() += if kind == "entry" { 1 } else { -1 };
        }
        let wrong: Vec<String> = balance
            .iter()
            .filter(|(_, count)| **count != 0)
            .map(|((root, effect), count)| format!("{effect} at account {root}: {count:+} entries for its outcome"))
            .collect();
        if let Some(first) = wrong.first() {
            return Err(Violation::new("effects", format!("peer {peer}: {} differ, such as {first}", wrong.len())));
        }
    }
    Ok(())
}
