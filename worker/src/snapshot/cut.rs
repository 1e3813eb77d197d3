//! The session that keeps a snapshot of this peer open, and what is read in it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use rootward_proto::{Fault, v1};
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    chain::{ChainRow, plan_of, shown},
    config::Config,
    term::{self, TermError},
};

/// The most chains that are listed with a snapshot, and whose outcomes are looked for at once.
pub(super) const MOST_LISTED: i64 = 100;
/// The most outcomes that are told for them.
const MOST_EFFECTS: i64 = 10_000;

/// Why a step of taking a snapshot failed here.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutError {
    #[error("no session with the peer's database: {}", with_source(.0))]
    Session(#[from] TermError),
    #[error("the peer's database refused a statement: {}", with_source(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("its session has ended")]
    Ended,
    #[error("{0}")]
    Chains(#[from] crate::chain::StoreError),
}

fn with_source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

impl CutError {
    /// As whoever asked hears it.
    pub(super) fn fault(&self, peer: &str) -> Fault {
        Fault::retry("RW5022", format!("peer {peer}: {self}"), "take it again; `rootward peer list` shows how the peer is")
    }
}

/// How many sessions are left open for the next snapshots.
const MOST_IDLE: usize = 2;

/// A session for snapshots.
struct Session {
    client: Client,
    ended: CancellationToken,
    fix: Statement,
}

/// Sessions of earlier snapshots, for the next ones: to open one takes longer than a snapshot.
#[derive(Clone, Default)]
pub(super) struct Idle(Arc<Mutex<Vec<Session>>>);

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Vec<Session>> {
        // Nothing panics while it is held; a poisoned list would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Session> {
        let mut idle = self.lock();
        idle.retain(|session| !session.ended.is_cancelled());
        idle.pop()
    }

    fn put(&self, session: Session) {
        let mut idle = self.lock();
        if idle.len() < MOST_IDLE {
            idle.push(session);
        }
    }
}

/// A session that waits to fix its snapshot, so that nothing but one statement is left to do while the lanes are held.
pub(super) struct Prepared {
    session: Session,
    idle: Idle,
}

/// An open snapshot: dropping it ends it, at once or when its session has heard of it.
pub(crate) struct Cut {
    /// There until it is dropped.
    session: Option<Session>,
    idle: Idle,
    ended: CancellationToken,
    /// By which other sessions read the same snapshot.
    pub name: String,
    pub term: i64,
    pub reference_version: i64,
    /// Partitions of this peer have been released, and their next owner may not have them yet: at no peer would they be seen.
    pub is_switching: bool,
}

/// Opens the session, or takes one of an earlier snapshot. Its transaction has begun and has seen nothing yet.
pub(super) async fn prepare(config: &Config, idle: &Idle) -> Result<Prepared, CutError> {
    if let Some(session) = idle.take()
        && session.client.batch_execute(BEGIN).await.is_ok()
    {
        return Ok(Prepared { session, idle: idle.clone() });
    }
    let (client, ended) = term::connect(&config.database, config, "rootward snapshot", |_| {}).await?;
    client.batch_execute("set idle_in_transaction_session_timeout = 0; set statement_timeout = 0").await?;
    // Before BEGIN: to parse a statement takes a snapshot, and the transaction's first one is its only one.
    let fix = client
        .prepare(
            "/* fix_snapshot */ select pg_export_snapshot(), s.term, coalesce((select version from rootward.reference_version), 0), \
             exists (select from rootward_move.transit where state = 'out') from rootward.peer_state s",
        )
        .await?;
    client.batch_execute(BEGIN).await?;
    Ok(Prepared { session: Session { client, ended, fix }, idle: idle.clone() })
}

const BEGIN: &str = "begin isolation level repeatable read read only";

impl Prepared {
    /// Fixes the snapshot: what is committed now is in it, and nothing else.
    pub(super) async fn fix(self) -> Result<Cut, CutError> {
        let Prepared { session, idle } = self;
        let row = session.client.query_one(&session.fix, &[]).await?;
        let (name, term, reference_version, is_switching) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        Ok(Cut { ended: session.ended.clone(), session: Some(session), idle, name, term, reference_version, is_switching })
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let (Some(session), idle) = (self.session.take(), self.idle.clone()) else { return };
        // Outside of a runtime, at the end of the process, the session is closed, which ends the snapshot as well.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // It ends with its connection at the latest, so nothing waits for it at shutdown.
        #[allow(clippy::disallowed_methods)]
        runtime.spawn(async move {
            if session.client.batch_execute("rollback").await.is_ok() {
                idle.put(session);
            }
        });
    }
}

impl Cut {
    fn client(&self) -> Result<&Client, CutError> {
        self.session.as_ref().map(|session| &session.client).ok_or(CutError::Ended)
    }

    /// Whether its session is there.
    pub(super) fn is_open(&self) -> bool {
        !self.ended.is_cancelled()
    }

    /// Cancelled when its session has ended.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// The chains at home here that had not ended, oldest first, and how many there are. Their `steps` are a legend: the steps
    /// of the definition, by number, and nothing of what they did.
    pub(super) async fn in_flight(&self, peer: &str) -> Result<(Vec<v1::Chain>, u64), CutError> {
        let (rows, total) = crate::chain::cut::in_flight(self.client()?, MOST_LISTED).await?;
        Ok((rows.iter().map(|row| with_legend(peer, row)).collect(), total))
    }

    /// What these chains did at roots here.
    pub(super) async fn effects(&self, peer: &str, chains: &[Uuid]) -> Result<Vec<v1::ChainEffect>, CutError> {
        let sql = "/* snapshot_effects */ select request_id, step, element, direction, kind, transaction, entity, root_key, at::text, reply \
                   from rootward_move.outcome where request_id = any ($1) and in_chain and step < 2147483647 \
                   order by request_id, at, step, element limit $2";
        let mut effects = Vec::new();
        for row in self.client()?.query(sql, &[&chains, &MOST_EFFECTS]).await? {
            let (id, kind): (Uuid, &str) = (row.try_get(0)?, row.try_get(4)?);
            let is_skipped = kind == "done" && v1::CallResponse::decode(row.try_get::<_, &[u8]>(9)?).is_ok_and(|reply| reply.is_skipped);
            let step = v1::ChainStep {
                step: u32::try_from(row.try_get::<_, i32>(1)?).unwrap_or_default(),
                element: u32::try_from(row.try_get::<_, i32>(2)?).unwrap_or_default(),
                direction: row.try_get(3)?,
                outcome: if is_skipped { "skipped" } else { kind }.to_owned(),
                transaction: row.try_get(5)?,
                entity: row.try_get(6)?,
                root_key: row.try_get(7)?,
                at: row.try_get(8)?,
                peer: peer.to_owned(),
                ..v1::ChainStep::default()
            };
            effects.push(v1::ChainEffect { chain: id.as_bytes().to_vec(), step: Some(step) });
        }
        Ok(effects)
    }
}

fn with_legend(peer: &str, row: &ChainRow) -> v1::Chain {
    let mut chain = shown(peer, row);
    let steps = plan_of(row).map(|plan| plan.definition.steps).unwrap_or_default();
    chain.steps = steps
        .into_iter()
        .zip(0..)
        .map(|(step, number)| v1::ChainStep { name: step.name, step: number, ..v1::ChainStep::default() })
        .collect();
    chain
}
