//! A million parked transfers: listed, counted and replayed by filter; a hundred thousand open ones found after a start.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rootward_proto::v1::{self, ChainVerb};
use tests::{Client, Cluster, Shape, command, labelled};
use tokio::time::Instant;
use uuid::Uuid;

const PEERS: [&str; 2] = ["p1", "p2"];
/// Transfers that are made by hand at each peer, of which the rest are copies.
const TEMPLATES: usize = 4;
const REPLAYED: i64 = 20_000;
const OPEN: i64 = 100_000;
/// How long nothing may happen.
const LIMIT: Duration = Duration::from_secs(600);

/// Copies a parked transfer with what its first step left, so that the money adds up.
fn copies(template: Uuid, account: i64, count: i64, replayed: i64) -> String {
    format!(
        "create temp table ids as select gen_random_uuid() as id, n from generate_series(1, {count}) n;
         insert into rootward.chain select partition, entity, root_key, ids.id, definition, version, status, revision, plan, input,
             case when n <= {replayed} then '{{\"batch\": \"replay\"}}'::jsonb else '{{\"batch\": \"rest\"}}'::jsonb end, fingerprint, issued_at,
             deadline, called_back, step, error, result, waits, attempts, recoveries, next_attempt_at, expires_at
           from rootward.chain c, ids where c.id = '{template}';
         insert into rootward.outcome select partition, entity, root_key, ids.id, step, element, direction, kind, transaction, fingerprint,
             reply, answer, in_chain, issued_at from rootward.outcome o, ids where o.request_id = '{template}';
         insert into entry select {account}, ids.id, 'transfer', -0.01, now() from ids;
         update account set balance = balance - 0.01 * {count} where account_id = {account};
         drop table ids"
    )
}

pub async fn run(exe: &Path, count: i64) -> Result<()> {
    let mut bank = Cluster::bank(exe, Shape::own(2)).await?;
    let client = bank.client()?;
    let reader = bank.reader();
    let each = count / 8;
    let began = Instant::now();
    for (peer, other) in [("p1", "p2"), ("p2", "p1")] {
        for _ in 0..TEMPLATES {
            let from = bank.open_accounts(&client, peer, 1, count).await?[0];
            let to = bank.open_accounts(&client, other, 1, 0).await?[0].to_string();
            client.settle("freeze", &[("account_id", &to)], Uuid::now_v7()).await?;
            let id = Uuid::now_v7();
            let parked = client.run_chain("transfer", &[("from", &from.to_string()), ("to", &to), ("amount", "0.01")], id).await?;
            ensure!(parked.status == "parked", "{parked:?}");
            reader.run(peer, &copies(id, from, each, REPLAYED / 8)).await?;
        }
    }
    for peer in PEERS {
        reader.run(peer, "analyze rootward.chain; analyze rootward.outcome; update account set is_frozen = false").await?;
    }
    eprintln!("{} parked chains made in {:.1?}", each * 8, began.elapsed());
    memory(&client, "before").await?;

    let began = Instant::now();
    let parked = v1::ChainFilter { statuses: vec!["parked".to_owned()], ..v1::ChainFilter::default() };
    let listed = client.list(parked.clone(), 100).await?;
    eprintln!("list of 100 of {} parked: {:.2?}", listed.matched, began.elapsed());
    for (what, filter) in [
        ("by status", parked.clone()),
        ("by status and error", v1::ChainFilter { error: "%account is frozen%".to_owned(), ..parked.clone() }),
        ("by label", labelled("batch", "replay")),
    ] {
        let began = Instant::now();
        let counts = client.count(filter).await?;
        eprintln!("count {what}: {counts:?} in {:.2?}", began.elapsed());
    }
    let began = Instant::now();
    let filter = Some(v1::ChainFilter { statuses: parked.statuses.clone(), ..labelled("batch", "replay") });
    let replay = v1::ChangeChainsRequest { filter: filter.clone(), ..command(ChainVerb::Replay, Uuid::nil()) };
    let done = client.change(replay).await?;
    eprintln!(
        "replay of {} by label: {} changed, {} refused, {:?}, in {:.1?}",
        done.matched,
        done.changed,
        done.refused,
        done.statuses,
        began.elapsed()
    );
    wait_for_count(&client, labelled("batch", "replay"), "completed", u64::try_from(REPLAYED)?).await?;
    eprintln!("all of them completed {:.1?} after the command", began.elapsed());
    memory(&client, "after the replay").await?;
    recover(&mut bank, &client).await?;
    memory(&client, "after the recovery").await?;
    // What is still parked has left one account and not come to the other.
    let still = reader.sum("select count(*) from rootward.chain where status = 'parked'").await?;
    let moved = reader.sum("select coalesce(sum(amount) * 100, 0)::bigint from entry where kind = 'transfer'").await?;
    ensure!(moved == -still, "{still} transfers of a cent are parked, and {moved} cents are under way");
    let drifted =
        "select count(*) from account a where balance <> (select coalesce(sum(amount), 0) from entry e where e.account_id = a.account_id)";
    ensure!(reader.sum(drifted).await? == 0, "balances are not the sums of their entries");
    eprintln!("the money adds up, {still} cents under way in as many parked transfers");
    Ok(())
}

/// Makes chains of one peer open ones behind its back, and starts its worker.
async fn recover(bank: &mut Cluster, client: &Client) -> Result<()> {
    let reader = bank.reader();
    bank.embedded.kill_worker("p1").await?;
    let open = format!(
        "update rootward.chain set status = 'running', attempts = 0, next_attempt_at = now(), labels = '{{\"batch\": \"open\"}}'
         where (id, partition) in (select id, partition from rootward.chain where status = 'parked' limit {OPEN})"
    );
    reader.run("p1", &open).await?;
    let counted = "select count(*) from rootward.chain where labels @> '{\"batch\": \"open\"}'";
    let open: i64 = reader.rows("p1", counted, &[]).await?[0].get(0);
    let completed = "select count(*) from rootward.chain where labels @> '{\"batch\": \"open\"}' and status = 'completed'";
    let began = Instant::now();
    bank.embedded.start_worker("p1", &[]).await?;
    let mut first = None;
    let mut seen = 0;
    while seen < open {
        seen = reader.rows("p1", completed, &[]).await?[0].get(0);
        if seen > 0 && first.is_none() {
            first = Some(began.elapsed());
        }
        ensure!(began.elapsed() < LIMIT, "{seen} of {open} open chains completed within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let all = began.elapsed();
    let _ = client;
    eprintln!("{open} open chains after a start: the first completed within {:.1?}, all within {all:.1?}", first.unwrap_or(all));
    Ok(())
}

async fn wait_for_count(client: &Client, filter: v1::ChainFilter, status: &str, wanted: u64) -> Result<()> {
    let began = Instant::now();
    loop {
        let counts = client.count(filter.clone()).await?;
        if counts.get(status).copied().unwrap_or_default() >= wanted {
            return Ok(());
        }
        ensure!(began.elapsed() < LIMIT, "within {LIMIT:?}: {counts:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn memory(client: &Client, when: &str) -> Result<()> {
    for peer in client.peers().await?.into_iter().filter(|peer| !peer.is_hub) {
        let status = peer.status.context("it serves")?;
        eprintln!("memory of the worker of {} {when}: {} MiB", peer.id, status.resident_bytes >> 20);
    }
    Ok(())
}
