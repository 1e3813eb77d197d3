//! Who moves and who reads: Rootward, or one of its alternatives on the same servers.

use std::time::{Duration, Instant};

use rootward_client::{
    Arguments, Client, Fault, SnapshotOptions,
    v1::{RetryClass, Value, value::Kind},
};
use rootward_cluster::{Messages, Moved, ShardClient, Shards};

/// How long a transfer is sent again before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
/// How long a reader waits for chains that are under way.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(10);
/// What readers ask.
const TOTAL: &str = "select sum(v) from t";

/// What a benchmark compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rival {
    /// A coordinator with foreign tables, READ COMMITTED, as xtmbench uses it: a message for each statement.
    Fdw,
    /// The same with a message for each transaction.
    FdwOneMessage,
    /// PREPARE TRANSACTION on both shards.
    TwoPhase,
}

impl Rival {
    /// By the word on the command line.
    pub(crate) fn parse(word: &str) -> Option<Rival> {
        match word {
            "fdw" => Some(Rival::Fdw),
            "fdw-one-message" => Some(Rival::FdwOneMessage),
            "2pc" => Some(Rival::TwoPhase),
            _ => None,
        }
    }

    /// As names of figures have it.
    pub(super) fn figure(self) -> String {
        self.name().replace('-', "_")
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Rival::Fdw => "fdw",
            Rival::FdwOneMessage => "fdw-one-message",
            Rival::TwoPhase => "2pc",
        }
    }
}

/// One side of the comparison, from which clients are made.
#[derive(Debug, Clone)]
pub(super) enum Side {
    Rootward(Client),
    Rival(Rival, Shards),
}

/// One writer or reader.
pub(super) enum SideClient {
    Rootward(Client),
    Rival(ShardClient),
}

/// How an iteration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    /// Undone; it is done again.
    Aborted,
}

/// What a reader was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) struct Read {
    pub total: i64,
    /// Chains that the snapshot lists as in flight: the total is without what they have taken and not given.
    pub in_flight: u64,
    /// How long the lanes were held for it, and how long new chains; 0 for rivals.
    pub pause_us: u64,
    pub drain_us: u64,
}

impl Side {
    pub(super) fn prefix(&self) -> String {
        match self {
            Side::Rootward(_) => "xtm_".to_owned(),
            Side::Rival(rival, _) => format!("xtm_{}_", rival.figure()),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Side::Rootward(_) => "rootward",
            Side::Rival(Rival::Fdw, _) => "postgres_fdw",
            Side::Rival(Rival::FdwOneMessage, _) => "postgres_fdw, one message a transaction",
            Side::Rival(Rival::TwoPhase, _) => "two-phase commit",
        }
    }

    pub(super) async fn client(&self) -> anyhow::Result<SideClient> {
        Ok(match self {
            Side::Rootward(client) => SideClient::Rootward(client.clone()),
            Side::Rival(Rival::Fdw, shards) => SideClient::Rival(shards.fdw(Messages::Each).await?),
            Side::Rival(Rival::FdwOneMessage, shards) => SideClient::Rival(shards.fdw(Messages::One).await?),
            Side::Rival(Rival::TwoPhase, shards) => SideClient::Rival(shards.two_phase().await?),
        })
    }
}

impl SideClient {
    /// Takes one from an account and gives it to another. `repeats` counts how often it had to be sent again with its own id.
    pub(super) async fn transfer(&mut self, from: u64, to: u64, repeats: &mut u64) -> anyhow::Result<Ended> {
        let client = match self {
            SideClient::Rival(client) => return Ok(ended(client.transfer(from, to).await?)),
            SideClient::Rootward(client) => client,
        };
        let start = client.start_chain("transfer", Arguments::new().with("from", from).with("to", to));
        let began = Instant::now();
        loop {
            let why = match start.clone().send().await {
                Ok(answer) => {
                    let chain = answer.chain.unwrap_or_default();
                    match chain.status.as_str() {
                        "completed" => return Ok(Ended::Done),
                        "compensated" | "failed" | "cancelled" => return Ok(Ended::Aborted),
                        other => format!("chain {} is {other}", chain.id),
                    }
                }
                Err(fault) if fault.retry_class() == RetryClass::Refused => return Err(fault.into()),
                Err(fault) => fault.to_string(),
            };
            anyhow::ensure!(began.elapsed() < PATIENCE, "a transfer was not done within {PATIENCE:?}: {why}");
            *repeats += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads two accounts.
    pub(super) async fn look(&mut self, first: u64, second: u64) -> anyhow::Result<Ended> {
        match self {
            SideClient::Rival(client) => Ok(ended(client.look(first, second).await?)),
            SideClient::Rootward(client) => {
                let look = |account: u64| client.call("look", Arguments::new().with("u", account)).send();
                match tokio::try_join!(look(first), look(second)) {
                    Ok(_) => Ok(Ended::Done),
                    Err(fault) if fault.retry_class() == RetryClass::Refused => Err(fault.into()),
                    // Nothing was changed, so another look is as good.
                    Err(_) => Ok(Ended::Aborted),
                }
            }
        }
    }

    /// The total over everything, as a reader is told it; none if it is refused.
    pub(super) async fn total(&mut self) -> anyhow::Result<Option<Read>> {
        let client = match self {
            SideClient::Rival(client) => {
                return Ok(client.total().await?.map(|total| Read { total, in_flight: 0, pause_us: 0, drain_us: 0 }));
            }
            SideClient::Rootward(client) => client,
        };
        match by_snapshot(client, TOTAL).await {
            Ok(read) => Ok(Some(read)),
            // A peer that is away, or chains that don't end in time: no answer is better than a wrong one.
            Err(fault) if matches!(fault.retry_class(), RetryClass::Retry | RetryClass::OutcomeUnknown | RetryClass::NotFound) => Ok(None),
            Err(fault) => Err(fault.into()),
        }
    }
}

fn ended(moved: Moved) -> Ended {
    match moved {
        Moved::Done => Ended::Done,
        Moved::Aborted => Ended::Aborted,
    }
}

/// One number over all peers, at a snapshot of its own.
pub(in crate::bench) async fn by_snapshot(client: &Client, sql: &str) -> Result<Read, Fault> {
    let snapshot = client.take_snapshot(SnapshotOptions { wait: Some(SNAPSHOT_WAIT), ..SnapshotOptions::default() }).await?;
    let (pause_us, drain_us, in_flight) = (snapshot.facts().pause_us, snapshot.facts().drain_us, snapshot.facts().in_flight_total);
    let rows = snapshot.rows(sql).await;
    // It would expire by itself, and by then others would find no place.
    let released = snapshot.release().await;
    let rows = rows?;
    released?;
    let values: Vec<&Value> = rows.all().flat_map(|row| &row.values).collect();
    match values.as_slice() {
        [value] => Ok(Read { total: number(value)?, in_flight, pause_us, drain_us }),
        others => Err(Fault::internal(format!("`{sql}` was answered with {} values", others.len()))),
    }
}

fn number(value: &Value) -> Result<i64, Fault> {
    let text = match &value.kind {
        Some(Kind::Int64(number)) => return Ok(*number),
        Some(Kind::Decimal(text)) => text.trim_end_matches('0').trim_end_matches('.'),
        _ => "",
    };
    text.parse().map_err(|_| Fault::internal(format!("a total is no number: {value:?}")))
}
