//! A peer whose PostgreSQL is watched over by Patroni: its leader is killed, alone and with its machine, and nothing acknowledged is lost.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rootward_cluster::Elsewhere;
use rootward_proto::v1;
use tests::{Client, Cluster, LIMIT, Shape, check_bank, eventually, nothing_is_left, patroni::Patroni, until};
use tokio::task::JoinSet;
use uuid::Uuid;

/// What should hold: from the moment when the promoted one has what was declared, a synchronous standby, to the first answer.
const GOAL: Duration = Duration::from_secs(2);
const CLIENTS: usize = 4;

pub async fn run(exe: &Path) -> Result<()> {
    if !Patroni::is_there() {
        return Ok(());
    }
    let mut bank = Cluster::bank(exe, Shape { fsync: true, ..Shape::own(2) }).await?;
    let client = bank.client()?;
    let accounts = bank.open_accounts(&client, "p1", CLIENTS, 1_000).await?;
    let (data, port, superuser) = {
        let server = bank.embedded.server("p1").context("a server")?;
        (server.data_path().to_owned(), server.port(), server.superuser())
    };
    let launcher = bank.embedded.launcher().clone();
    bank.embedded.stop_postgres("p1").await?;
    let mut patroni = Patroni::start(&launcher, &data, port, superuser).await?;
    let hosts = patroni.nodes().iter().map(|node| ("127.0.0.1".to_owned(), node.port)).collect();
    bank.embedded.reach_postgres("p1", hosts);
    let settings = "durability = \"replicated\"\n".to_owned();
    bank.embedded.place_worker("p1", Elsewhere { address: "127.0.0.1".to_owned(), settings, ..Elsewhere::default() });
    bank.embedded.kill_worker("p1").await?;
    bank.embedded.start_worker("p1", &[]).await?;
    bank.wait_until_serving("p1", 0).await?;
    let load = Load::start(&client, &accounts);
    for with_patroni in [false, true] {
        load.more().await?;
        let leader = patroni.leader().context("a leader")?;
        let name = patroni.nodes()[leader].name;
        let killed = Instant::now();
        patroni.kill(leader, with_patroni).await?;
        let promoted = when(&bank, leader, &patroni, "select 1 where not pg_is_in_recovery()").await?;
        // Before that a durable peer serves nothing, and must not.
        let is_durable = "select 1 from pg_stat_replication where sync_state in ('sync', 'quorum')";
        let durable = when(&bank, leader, &patroni, is_durable).await?;
        let answered = load.answer_behind(promoted).await?;
        let after = answered.saturating_duration_since(durable);
        eprintln!(
            "{} of {name} killed: promoted after {:.1} s, with a synchronous standby {:.2} s later, transactions {:.2} s behind that; goal {} s {}",
            if with_patroni { "PostgreSQL and Patroni" } else { "PostgreSQL" },
            (promoted - killed).as_secs_f64(),
            (durable - promoted).as_secs_f64(),
            after.as_secs_f64(),
            GOAL.as_secs(),
            if after <= GOAL { "met" } else { "missed" }
        );
        if with_patroni {
            patroni.start_node(leader).await?;
        }
        patroni.wait_until_whole().await?;
    }
    // A slot of a move is none of Patroni's.
    let partition = bank.partition_of("account", accounts[0]);
    let request =
        v1::MovePartitionsRequest { partitions: vec![partition], target: "p2".to_owned(), ..v1::MovePartitionsRequest::default() };
    let begun = client.raw().move_partitions(request).await?.into_inner().moves.pop().context("a move")?;
    until("the move ends", async || {
        let request = v1::ListMovesRequest { id: begun.id.clone(), ..v1::ListMovesRequest::default() };
        client.raw().list_moves(request).await.ok()?.into_inner().moves.pop().filter(|one| one.stage == "done")
    })
    .await?;
    let acknowledged = load.stop().await?;
    let entries = bank.reader().all("select entry_id::text, count(*) from entry group by 1", &[]).await?;
    let times: BTreeMap<String, i64> = entries.iter().map(|(_, row)| (row.get(0), row.get(1))).collect();
    let wrong = acknowledged.iter().filter(|id| times.get(&id.to_string()) != Some(&1)).count();
    ensure!(wrong == 0, "{wrong} of {} acknowledged deposits are not there once", acknowledged.len());
    let peer = client.peers().await?.into_iter().find(|peer| peer.id == "p1").context("p1")?;
    let found = peer.status.and_then(|status| status.promotion).context("the worker saw a promotion")?;
    ensure!(found.timeline >= 3 && found.lost == 0, "{found:?}");
    nothing_is_left(&bank).await?;
    eventually(async || check_bank(&bank).await).await?;
    eprintln!("{} acknowledged deposits are there, once each; the worker looked for {:?} of them", acknowledged.len(), found.checked);
    Ok(())
}

/// When a query gave its first row at another node than this one.
async fn when(bank: &Cluster, killed: usize, patroni: &Patroni, sql: &str) -> Result<Instant> {
    let others: Vec<u16> = patroni.nodes().iter().enumerate().filter(|(at, _)| *at != killed).map(|(_, node)| node.port).collect();
    let user = bank.embedded.server("p1").context("a server")?.superuser();
    until(sql, async || {
        for port in &others {
            let database = format!("host=127.0.0.1 port={port} user={user} dbname=p1 connect_timeout=1");
            let Ok((session, connection)) = tokio_postgres::connect(&database, tokio_postgres::NoTls).await else { continue };
            #[allow(clippy::disallowed_methods)] // it ends with its session
            tokio::spawn(connection);
            if session.query_opt(sql, &[]).await.is_ok_and(|row| row.is_some()) {
                return Some(Instant::now());
            }
        }
        None
    })
    .await
}

/// Deposits, each sent again with its id until it is acknowledged.
struct Load {
    is_over: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(Instant, Uuid)>>>,
    clients: JoinSet<Result<()>>,
}

impl Load {
    fn start(client: &Client, accounts: &[i64]) -> Load {
        let mut load = Load { is_over: Arc::default(), acknowledged: Arc::default(), clients: JoinSet::new() };
        for account in accounts {
            let (client, account) = (client.clone(), account.to_string());
            let (is_over, acknowledged) = (load.is_over.clone(), load.acknowledged.clone());
            load.clients.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let (id, begun) = (Uuid::now_v7(), Instant::now());
                    while let Err(fault) = client.call("deposit", &[("account_id", &account), ("amount", "1")], id).await {
                        ensure!(begun.elapsed() < 2 * LIMIT, "deposit {id}: {fault}");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), id));
                }
                Ok(())
            });
        }
        load
    }

    fn last(&self) -> Vec<(Instant, Uuid)> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn more(&self) -> Result<()> {
        let before = self.last().len();
        until("deposits are acknowledged", async || (self.last().len() > before + 50).then_some(())).await
    }

    /// When the first one was acknowledged behind a moment.
    async fn answer_behind(&self, moment: Instant) -> Result<Instant> {
        until("transactions run again", async || self.last().into_iter().map(|(at, _)| at).find(|at| *at > moment)).await
    }

    async fn stop(mut self) -> Result<Vec<Uuid>> {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended??;
        }
        Ok(self.last().into_iter().map(|(_, id)| id).collect())
    }
}
