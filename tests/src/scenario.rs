//! Scenarios that tell a sound cluster from a sabotaged one. The tests run them on both: a suite that stays green without
//! the guard would not have noticed its loss.

use rootward_proto::v1::{self, reply};
use uuid::Uuid;

use crate::{
    client::{number_of, send_to_worker},
    cluster::Cluster,
    invariants::Violation,
};

/// Sends one request twice whose effect shows each time that it runs.
///
/// # Errors
/// `doubled` if the second one had an effect, `answer` if it was answered otherwise than the first.
pub async fn one_id_has_one_effect(cluster: &Cluster, account: i64) -> Result<(), Violation> {
    let client = cluster.client().map_err(Violation::unread)?;
    let sql = "update account set owner = owner || '+' returning length(owner) as times";
    let id = Uuid::now_v7();
    let key = account.to_string();
    let first = client.query("account", &key, sql, id).await.map_err(Violation::unread)?;
    let second = client.query("account", &key, sql, id).await.map_err(|fault| Violation::new("answer", fault))?;
    let look = "select length(owner) as times from account";
    let now = client.query("account", &key, look, Uuid::now_v7()).await.map_err(Violation::unread)?;
    if number_of(&now, "times") != number_of(&first, "times") {
        return Err(Violation::new("doubled", format!("the effect is there {:?} times", number_of(&now, "times"))));
    }
    if first.rows != second.rows || !second.from_stored_outcome {
        return Err(Violation::new("answer", "the second answer is not the first one's"));
    }
    Ok(())
}

/// Reads all accounts from inside one of two on the same peer, and tries to change the other.
///
/// # Errors
/// `read` or `written`, whichever got through.
pub async fn a_root_is_not_seen_from_another(cluster: &Cluster, inside: i64, outside: i64) -> Result<(), Violation> {
    let client = cluster.client().map_err(Violation::unread)?;
    let inside = inside.to_string();
    let seen = client.query("account", &inside, "select account_id from account", Uuid::now_v7()).await.map_err(Violation::unread)?;
    if seen.rows.len() > 1 {
        return Err(Violation::new("read", format!("{} accounts were seen from inside one", seen.rows.len())));
    }
    let sql = format!("update account set owner = 'thief' where account_id = {outside} returning account_id");
    let changed = client.query("account", &inside, &sql, Uuid::now_v7()).await.map_err(Violation::unread)?;
    match changed.row_count {
        0 => Ok(()),
        count => Err(Violation::new("written", format!("{count} rows of another root were changed"))),
    }
}

/// Raises a peer's term behind its worker's back, as the next worker would, and asks the old one to write.
///
/// # Errors
/// `written` if the worker of the older term wrote.
pub async fn a_worker_of_an_older_term_writes_nothing(cluster: &Cluster, account: i64) -> Result<(), Violation> {
    let peer = cluster.owner_of("account", account);
    let raise = "update rootward.peer_state set term = term + 1";
    cluster.reader().run(peer, raise).await.map_err(Violation::unread)?;
    let fault = write_past_the_guard(cluster, account).await?;
    match fault.as_str() {
        "RW5005" => Ok(()),
        code => Err(Violation::new("unread", format!("the older term's worker answered {code}"))),
    }
}

/// Takes an account's partition away from its peer behind the worker's back, and asks the worker to write.
///
/// # Errors
/// `written` if the worker wrote to what its peer doesn't own.
pub async fn a_worker_without_the_partition_writes_nothing(cluster: &Cluster, account: i64) -> Result<(), Violation> {
    let (peer, partition) = (cluster.owner_of("account", account), cluster.partition_of("account", account));
    let release = format!("update rootward.ownership set state = 'released' where partition = {partition}");
    cluster.reader().run(peer, &release).await.map_err(Violation::unread)?;
    let answered = write_past_the_guard(cluster, account).await;
    let own = format!("update rootward.ownership set state = 'owned' where partition = {partition}");
    cluster.reader().run(peer, &own).await.map_err(Violation::unread)?;
    match answered?.as_str() {
        "RW2005" => Ok(()),
        code => Err(Violation::new("unread", format!("the worker without the partition answered {code}"))),
    }
}

/// Deposits straight at the worker; returns the code of its refusal.
async fn write_past_the_guard(cluster: &Cluster, account: i64) -> Result<String, Violation> {
    let peer = cluster.owner_of("account", account);
    let address = cluster.embedded.worker_address(peer).unwrap_or_default();
    let before = cluster.reader().balance(account).await.map_err(Violation::unread)?;
    let answer = send_to_worker(address, deposit(account, Uuid::now_v7())).await.map_err(Violation::unread)?;
    let after = cluster.reader().balance(account).await.map_err(Violation::unread)?;
    match answer {
        Ok(reply::Result::Executed(_)) => Err(Violation::new("written", "the worker said that it was done")),
        _ if before != after => Err(Violation::new("written", format!("the balance went from {before:?} to {after:?}"))),
        Ok(other) => Err(Violation::unread(format!("an odd answer: {other:?}"))),
        Err(fault) => Ok(fault.code().to_owned()),
    }
}

/// A deposit of one euro as a router sends it.
pub fn deposit(account: i64, id: Uuid) -> v1::Execute {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    v1::Execute {
        transaction: "deposit".to_owned(),
        entity: "account".to_owned(),
        root_key: account.to_string(),
        arguments: vec![argument("account_id", account.to_string()), argument("amount", "1".to_owned())],
        request_id: id.as_bytes().to_vec(),
        direction: v1::Direction::Do.into(),
        time_left_ms: 5_000,
        issued_at_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        schema_version: 1,
        ..v1::Execute::default()
    }
}

/// Sends a step of a chain twice, as a driver and its zombie would, and counts what it left.
///
/// # Errors
/// `answer` if the second one was not answered as the first, `outcomes` if there is not one outcome.
pub async fn a_step_sent_twice_has_one_effect(cluster: &Cluster, account: i64) -> Result<(), Violation> {
    let address = cluster.embedded.worker_address(cluster.owner_of("account", account)).unwrap_or_default();
    let step = v1::Execute {
        step: 1,
        chain_fingerprint: vec![7; 32],
        expires_at_ms: i64::MAX,
        transaction: "transfer_in".to_owned(),
        ..deposit(account, Uuid::now_v7())
    };
    for _ in 0..2 {
        let answer = send_to_worker(address, step.clone()).await.map_err(Violation::unread)?;
        if let Err(fault) = answer {
            return Err(Violation::new("answer", fault));
        }
    }
    let id = Uuid::from_slice(&step.request_id).map_err(Violation::unread)?;
    let outcomes = cluster.reader().outcomes(id).await.map_err(Violation::unread)?;
    match outcomes.len() {
        1 => Ok(()),
        count => Err(Violation::new("outcomes", format!("{count} outcomes of one step"))),
    }
}

/// Calls a step off, undoes nothing, and lets the original come late.
///
/// # Errors
/// `late` if it took effect.
pub async fn a_step_that_was_called_off_has_no_effect(cluster: &Cluster, account: i64) -> Result<(), Violation> {
    let address = cluster.embedded.worker_address(cluster.owner_of("account", account)).unwrap_or_default();
    let step = |is_tombstone: bool, id: Uuid| v1::Execute {
        step: 1,
        chain_fingerprint: vec![7; 32],
        expires_at_ms: i64::MAX,
        transaction: "transfer_in".to_owned(),
        is_tombstone,
        ..deposit(account, id)
    };
    let id = Uuid::now_v7();
    let before = cluster.reader().balance(account).await.map_err(Violation::unread)?;
    send_to_worker(address, step(true, id)).await.map_err(Violation::unread)?.map_err(Violation::unread)?;
    let late = send_to_worker(address, step(false, id)).await.map_err(Violation::unread)?;
    let after = cluster.reader().balance(account).await.map_err(Violation::unread)?;
    match late {
        Err(fault) if fault.code() == "RW4005" && before == after => Ok(()),
        answered => Err(Violation::new("late", format!("the balance went from {before:?} to {after:?}: {answered:?}"))),
    }
}

/// Sends a request that is so old that its outcome was collected.
///
/// # Errors
/// `late` if it took effect once more.
pub async fn a_late_duplicate_has_no_effect(cluster: &Cluster, account: i64, late: &v1::Execute) -> Result<(), Violation> {
    let address = cluster.embedded.worker_address(cluster.owner_of("account", account)).unwrap_or_default();
    let before = cluster.reader().balance(account).await.map_err(Violation::unread)?;
    let answer = send_to_worker(address, late.clone()).await.map_err(Violation::unread)?;
    let after = cluster.reader().balance(account).await.map_err(Violation::unread)?;
    match answer {
        Err(fault) if ["RW3107", "RW4008"].contains(&fault.code()) && before == after => Ok(()),
        answered => Err(Violation::new("late", format!("the balance went from {before:?} to {after:?}: {answered:?}"))),
    }
}

fn argument(name: &str, text: String) -> v1::TextArgument {
    v1::TextArgument { name: name.to_owned(), text: Some(text) }
}
