//! `bench chains --recovery N`: chains that are under way when a worker starts, as after a crash.

use std::time::{Duration, Instant};

use rootward_client::{Arguments, Client};
use rootward_cluster::Gauge;

use super::{figures::Figures, ground::Ground, live::Live};

/// Transfers that are made as users make them; the rest are copies of them.
const TEMPLATES: u64 = 16;
/// How long nothing may take.
const LIMIT: Duration = Duration::from_secs(1_800);
const POLL: Duration = Duration::from_millis(100);
const COUNT: &str = "select count(*) from rootward.chain where labels @> '{\"bench\": \"recovery\"}' and status = 'completed'";

/// Leaves `count` transfers behind that have taken and not yet given, starts their worker, and sees them to their end.
///
/// All are at home on the first peer and give to accounts of the second.
pub(super) async fn recovery(ground: &mut Ground, count: u64, figures: &mut Figures, live: &mut Live) -> anyhow::Result<()> {
    let id = ground.cluster.topology().peer.keys().next().cloned().unwrap_or_default();
    live.begin(format!("recovery: {TEMPLATES} transfers are parked"));
    let (from, to) = (ground.roots.of(0), ground.roots.of(1));
    let mut copies = String::new();
    let templates = TEMPLATES.min(count);
    for (number, (from, to)) in (0..templates).zip(from.iter().zip(to)) {
        let chain = park(&ground.client, *from, *to).await?;
        copies += &copy(&chain, *from, count / templates + u64::from(number < count % templates) - 1);
    }
    ground.cluster.kill_worker(&id).await?;
    live.begin(format!("recovery: {count} chains are left behind"));
    ground.gauge.run(&copies).await?;
    ground.gauge.run("update account set is_frozen = false where is_frozen; analyze rootward.chain; analyze rootward.outcome").await?;
    live.begin(format!("recovery of {count} chains"));
    let began = Instant::now();
    ground.cluster.start_worker(&id, &[]).await?;
    let seen = watch(&ground.gauge, count, began, live).await?;
    figures.add("recovery_first_s", "s", seen.first().map(|(at, _)| *at).unwrap_or_default());
    figures.add("recovery_moving_s", "s", moving(&seen));
    figures.add("recovery_all_s", "s", seen.last().map(|(at, _)| *at).unwrap_or_default());
    figures.add("recovery_chains", "chains", count as f64);
    Ok(())
}

/// A transfer of a cent whose second step is refused, so that it waits.
async fn park(client: &Client, from: u64, to: u64) -> anyhow::Result<String> {
    client.call("freeze", Arguments::new().with("account_id", to)).send().await?;
    let start = client.start_chain("transfer", Arguments::new().with("from", from).with("to", to).with("amount", "0.01"));
    let id = start.id().to_owned();
    let chain = start.send().await?.chain.unwrap_or_default();
    anyhow::ensure!(chain.status == "parked", "a transfer to a frozen account is {}, not parked", chain.status);
    Ok(id)
}

/// Copies of a parked chain with what its first step left, so that the money adds up; all of them, it too, made running ones.
/// On nodes where the chain is not at home it does nothing.
fn copy(chain: &str, from: u64, count: u64) -> String {
    format!(
        "create temp table ids as select gen_random_uuid() as id from generate_series(1, {count})
           where exists (select from rootward.chain where id = '{chain}');
         insert into rootward.chain select partition, entity, root_key, ids.id, definition, version, status, revision, plan, input,
             labels, fingerprint, issued_at, deadline, called_back, step, error, result, waits, attempts, recoveries, next_attempt_at, expires_at
           from rootward.chain c, ids where c.id = '{chain}';
         insert into rootward.outcome select partition, entity, root_key, ids.id, step, element, direction, kind, transaction, fingerprint,
             reply, answer, in_chain, issued_at from rootward.outcome o, ids where o.request_id = '{chain}';
         insert into entry select {from}, ids.id, 'transfer', -0.01, now() from ids;
         update account set balance = balance - 0.01 * (select count(*) from ids) where account_id = {from};
         update rootward.chain set status = 'running', attempts = 0, next_attempt_at = now(), labels = '{{\"bench\": \"recovery\"}}'
           where id in (select id from ids) or id = '{chain}';
         drop table ids;\n"
    )
}

/// When how many had completed, each time that it had changed.
async fn watch(gauge: &Gauge, count: u64, began: Instant, live: &mut Live) -> anyhow::Result<Vec<(f64, u64)>> {
    let mut seen: Vec<(f64, u64)> = Vec::new();
    let mut shown = Instant::now();
    loop {
        let done = u64::try_from(gauge.total(COUNT).await?)?;
        if done > seen.last().map_or(0, |(_, done)| *done) {
            seen.push((began.elapsed().as_secs_f64(), done));
        }
        if done >= count {
            return Ok(seen);
        }
        if shown.elapsed() >= Duration::from_secs(1) {
            shown = Instant::now();
            live.show(done);
        }
        anyhow::ensure!(began.elapsed() < LIMIT, "{done} of {count} chains completed within {LIMIT:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// From when on chains complete steadily: the first moment after which a second brings at least half of what a second
/// brings on the whole. The last moment if there is none, as where all of it takes less than a second.
fn moving(seen: &[(f64, u64)]) -> f64 {
    let (Some(first), Some(last)) = (seen.first(), seen.last()) else { return 0.0 };
    let whole = (last.1 - first.1) as f64 / (last.0 - first.0).max(0.001);
    let is_steady = |(at, done): &(f64, u64)| {
        let after = seen.iter().find(|(later, _)| *later >= at + 1.0);
        after.is_some_and(|(later, more)| (more - done) as f64 / (later - at) >= whole / 2.0)
    };
    seen.iter().find(|one| is_steady(one)).unwrap_or(last).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_move_from_when_on_they_keep_completing() {
        let mut seen = vec![(0.5, 1), (1.5, 2), (2.5, 3)];
        seen.extend((3..=12).map(|second| (f64::from(second), u64::try_from(second).unwrap_or(0) * 1_000)));
        assert_eq!(moving(&seen), 2.5, "from then on a second brings a thousand");
        assert_eq!((moving(&[]), moving(&[(0.3, 9)])), (0.0, 0.3));
    }

    #[test]
    fn copies_add_up() {
        let sql = copy("c", 7, 99);
        assert!(sql.contains("generate_series(1, 99)") && sql.contains("where account_id = 7"), "{sql}");
    }
}
