//! Keeps this peer's copy of the reference data coming: looks whether the way that it takes is alive, and takes another one when it is not.
//!
//! Only peers that copy from a relay have another way; the others copy from the hub, without which nothing new is written. But a hub may have been
//! replaced by a standby of its own, which has no slots: then the copy is made anew by the same way. A subscription that somebody has
//! switched off is left alone.

use std::{sync::Arc, time::Duration};

use rootward_router::{Catalog, CatalogPeer};
use tokio::{sync::watch, time::Instant};
use tokio_postgres::Client;

use super::{
    copy::{self, ROUTE_LOCK, RenewError, SourceSessions, Way},
    state::{Look, Patience, Reason, Source, ways},
    store::{self, Here, Reachable},
};
use crate::{
    chain::ChainHome,
    config::Config,
    term::{self, TermError},
};

/// The pauses between two looks of who copies, and those of who doesn't.
const LOOK_LEAST: Duration = Duration::from_millis(100);
const LOOK_MOST: Duration = Duration::from_secs(1);
const LOOK_IDLE: Duration = Duration::from_secs(5);
/// A pause between two tries to drop slots that nobody needs any more.
const TIDY_PAUSE: Duration = Duration::from_secs(1);
/// How long a node may take to answer one question.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How long a copy may take to be made anew; then it is begun again.
const RENEW_LIMIT: Duration = Duration::from_secs(3600);
/// Pauses after a try that failed; each is twice as long as the one before.
const RETRY_LEAST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// A pause between two warnings that nothing can be done.
const TELL_PAUSE: Duration = Duration::from_secs(30);

/// Why nothing could be done this time.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("a database can't be reached")]
    Connect(#[from] TermError),
    #[error("a database refused a question of ours")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("a database did not answer within {0:?}")]
    Timeout(Duration),
    #[error("the copy was not made anew, {:?} refused", .0.side)]
    Renew(#[from] RenewError),
}

type KeepResult<T> = Result<T, KeepError>;

struct Keeper {
    config: Arc<Config>,
    catalog: watch::Receiver<Option<Arc<Catalog>>>,
    term: i64,
    limit: Duration,
    here: Option<Client>,
    hub: Option<Client>,
    /// The node that is copied from, by its connection string.
    source: Option<(String, Client)>,
    /// What could be copied from when the hub was asked last.
    known: Vec<Reachable>,
    /// What the hub showed at the last look and the one before.
    hub_versions: [Option<i64>; 2],
    patience: Patience,
    retry: Duration,
    /// When it was logged last that nothing can be done.
    told: Option<Instant>,
}

/// Keeps the copy coming until the term ends.
pub(crate) async fn keep(home: Arc<ChainHome>, config: Arc<Config>, catalog: watch::Receiver<Option<Arc<Catalog>>>) {
    let stop = home.serving.stop.clone();
    let limit = Duration::from_millis(config.route_patience_ms);
    let mut keeper = Keeper {
        config,
        catalog,
        term: home.serving.term,
        limit,
        here: None,
        hub: None,
        source: None,
        known: Vec::new(),
        hub_versions: [None; 2],
        patience: Patience::default(),
        retry: RETRY_LEAST,
        told: None,
    };
    let tidy = tidy(keeper.config.clone(), keeper.catalog.clone());
    tokio::pin!(tidy);
    while !stop.is_cancelled() {
        let work = async {
            let pause = keeper.look().await;
            tokio::time::sleep(pause).await;
        };
        tokio::select! {
            () = work => {}
            () = &mut tidy => return,
            () = stop.cancelled() => return,
        }
    }
}

fn me(catalog: &watch::Receiver<Option<Arc<Catalog>>>, id: &str) -> Option<CatalogPeer> {
    catalog.borrow().as_ref()?.peers.iter().find(|peer| peer.id == id).cloned()
}

impl Keeper {
    /// Returns how long to rest.
    async fn look(&mut self) -> Duration {
        let Some(me) = me(&self.catalog, &self.config.peer) else { return LOOK_MOST };
        if me.is_hub || me.state == "removed" {
            return LOOK_IDLE;
        }
        match self.look_once(&me).await {
            Ok(()) => {
                self.retry = RETRY_LEAST;
                (self.limit / 5).clamp(LOOK_LEAST, LOOK_MOST)
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the route of the reference data can't be looked after now");
                (self.here, self.source) = (None, None);
                let pause = self.retry;
                self.retry = (pause * 2).min(RETRY_MOST);
                pause
            }
        }
    }

    async fn look_once(&mut self, me: &CatalogPeer) -> KeepResult<()> {
        let here = within(store::here(self.here().await?)).await?;
        let hub = self.look_at_hub().await;
        let Some(reason) = self.judge(me, &here, hub).await else { return Ok(()) };
        // Whoever repairs by hand is at it, and knows better.
        let client = self.here().await?;
        let lock = "/* try_lock_route */ select pg_try_advisory_lock($1)";
        if !client.query_one(lock, &[&ROUTE_LOCK]).await?.try_get::<_, bool>(0)? {
            return Ok(());
        }
        let now = within(store::here(client)).await?;
        let result =
            if now.source == here.source && now.is_subscribed == here.is_subscribed { self.leave(me, &here, reason).await } else { Ok(()) };
        // After a failure the session ends, and the lock with it.
        if result.is_ok() {
            self.here().await?.query_one("/* unlock_route */ select pg_advisory_unlock($1)", &[&ROUTE_LOCK]).await?;
        }
        result
    }

    /// Why the way that is taken is to be given up; none if it is not.
    async fn judge(&mut self, me: &CatalogPeer, here: &Here, hub: Option<i64>) -> Option<Reason> {
        let taken = here.source.as_deref()?;
        if !here.is_subscribed {
            return Some(Reason::NoSubscription);
        }
        if !here.is_enabled || self.known.is_empty() {
            return None;
        }
        let node = source_of(me);
        let known: Vec<Source> = self.known.iter().map(|known| known.source.clone()).collect();
        let Some(way) = ways(&node, &known).into_iter().find(|way| way.id == taken) else {
            return Some(Reason::NoSource);
        };
        let slot = here.slots.iter().find(|(source, _, _)| source == taken).map(|(_, slot, _)| slot.clone())?;
        if way.is_hub {
            // While it is away there is no other way, and nothing new.
            return self.hub_lacks_slot(&slot).await.then_some(Reason::NoSlot);
        }
        if here.is_copying {
            return None;
        }
        let connection = self.known.iter().find(|known| known.source.id == taken).map(|known| known.connection.clone())?;
        let look = match self.look_at_source(&connection, &slot).await {
            Err(_) => {
                self.source = None;
                Look::Silent
            }
            Ok((_, false)) => Look::NoSlot,
            Ok((_, true)) => Look::Alive { own: here.version, hub },
        };
        self.patience.judge(look, Instant::now(), self.limit)
    }

    /// Takes the best other way that is alive, as new as this copy, and not behind the hub itself.
    async fn leave(&mut self, me: &CatalogPeer, here: &Here, reason: Reason) -> KeepResult<()> {
        let node = source_of(me);
        let known: Vec<Source> = self.known.iter().map(|known| known.source.clone()).collect();
        let taken = here.source.clone().unwrap_or_default();
        let mut candidates: Vec<&Source> = ways(&node, &known);
        // A dead one comes last: it may be back by then, or the only one. One that has only lost the slot comes first.
        candidates.sort_by_key(|candidate| match reason {
            Reason::NoSlot => candidate.id != taken,
            _ => candidate.id == taken && reason.is_dead(),
        });
        let may_tell = self.told.is_none_or(|told| told.elapsed() >= TELL_PAUSE);
        let mut is_told = false;
        let least = here.version.max(self.hub_versions[1].unwrap_or_default());
        for candidate in candidates {
            let Some(connection) = self.known.iter().find(|known| known.source.id == candidate.id).map(|known| known.connection.clone())
            else {
                continue;
            };
            match self.look_at_source(&connection, "").await {
                Ok((version, _)) if version >= least => {}
                // A standby took the hub's place that lacked something. Only a person can say that what it has is what counts.
                Ok((version, _)) if candidate.is_hub && version < here.version => {
                    if may_tell {
                        tracing::warn!(
                            version,
                            own_version = here.version,
                            "the hub shows an older version of the reference data than this copy, which stays as it is until the hub has got \
                             there, or until somebody repairs it by `rootward reference repair`"
                        );
                    }
                    is_told = true;
                    continue;
                }
                _ => continue,
            }
            tracing::info!(from = taken, to = candidate.id, reason = reason.text(), "the reference data come by another route from now on");
            self.renew(&candidate.id, candidate.is_hub, &connection).await?;
            self.patience = Patience::default();
            return Ok(());
        }
        if may_tell {
            self.told = Some(Instant::now());
        }
        if may_tell && !is_told {
            tracing::warn!(from = taken, reason = reason.text(), "there is no other route of the reference data now");
        }
        Ok(())
    }

    async fn renew(&mut self, id: &str, is_hub: bool, connection: &str) -> KeepResult<()> {
        let connect = async || term::connect(connection, &self.config, "rootward route", |_| {}).await.map(|(client, _)| client);
        let mut source = SourceSessions { plain: connect().await?, snapshot: connect().await?, lock: connect().await? };
        let (peer, term) = (self.config.peer.clone(), self.term);
        let Some(client) = self.here.as_mut() else { return Ok(()) };
        let slot = copy::slot_name(client, &peer, id, is_hub).await?;
        let way = Way { source: id, connection, term: Some(term), may_be_older: false };
        let renewed = tokio::time::timeout(RENEW_LIMIT, copy::renew(client, &mut source, &slot, way));
        let renewed = renewed.await.map_err(|_| KeepError::Timeout(RENEW_LIMIT))??;
        tracing::info!(
            source = id,
            version = renewed.version,
            from_version = renewed.from_version,
            "the copy of the reference data was made anew"
        );
        Ok(())
    }

    async fn here(&mut self) -> KeepResult<&mut Client> {
        if self.here.as_ref().is_none_or(Client::is_closed) {
            self.here = Some(term::connect(&self.config.database, &self.config, "rootward route", |_| {}).await?.0);
        }
        self.here.as_mut().ok_or(KeepError::Timeout(Duration::ZERO))
    }

    /// What the hub shows; none if it doesn't answer, and then what could be copied from before still can.
    async fn look_at_hub(&mut self) -> Option<i64> {
        let look = async {
            if self.hub.as_ref().is_none_or(Client::is_closed) {
                self.hub = Some(term::connect(&self.config.hub_database, &self.config, "rootward route", |_| {}).await?.0);
            }
            match &self.hub {
                Some(client) => within(store::hub(client)).await.map(Some),
                None => Ok(None),
            }
        };
        let version = match look.await {
            Ok(Some((version, sources))) => {
                self.known = sources;
                Some(version)
            }
            Ok(None) => None,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the hub can't be asked");
                self.hub = None;
                None
            }
        };
        self.hub_versions = [version, self.hub_versions[0]];
        version
    }

    /// Whether the hub answers, and keeps nothing for this slot, though it should.
    async fn hub_lacks_slot(&mut self, slot: &str) -> bool {
        let Some(hub) = &self.hub else { return false };
        let look = within(store::lacks_slot(hub, &self.config.peer, slot)).await;
        if look.is_err() {
            self.hub = None;
        }
        look.unwrap_or(false)
    }

    async fn look_at_source(&mut self, connection: &str, slot: &str) -> KeepResult<(i64, bool)> {
        if self.source.as_ref().is_none_or(|(known, client)| known != connection || client.is_closed()) {
            let (client, _) = term::connect(connection, &self.config, "rootward route", |_| {}).await?;
            self.source = Some((connection.to_owned(), client));
        }
        match &self.source {
            Some((_, client)) => within(store::look(client, slot)).await,
            None => Err(KeepError::Timeout(Duration::ZERO)),
        }
    }
}

fn source_of(peer: &CatalogPeer) -> Source {
    Source {
        id: peer.id.clone(),
        region: peer.region.clone(),
        is_hub: peer.is_hub,
        is_relay: peer.is_relay,
        position: peer.latitude.zip(peer.longitude),
    }
}

async fn within<T>(question: impl Future<Output = Result<T, tokio_postgres::Error>>) -> KeepResult<T> {
    Ok(tokio::time::timeout(ANSWER_LIMIT, question).await.map_err(|_| KeepError::Timeout(ANSWER_LIMIT))??)
}

/// Drops slots of this peer that are not on its route, as soon as their node answers; and, on a relay, those of peers that were removed.
async fn tidy(config: Arc<Config>, catalog: watch::Receiver<Option<Arc<Catalog>>>) {
    let mut here = None;
    loop {
        tokio::time::sleep(TIDY_PAUSE).await;
        if let Err(error) = tidy_once(&config, &catalog, &mut here).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a replication slot that nobody needs is still there");
            here = None;
        }
    }
}

async fn tidy_once(config: &Config, catalog: &watch::Receiver<Option<Arc<Catalog>>>, here: &mut Option<Client>) -> KeepResult<()> {
    let known = catalog.borrow().clone();
    let Some(known) = known else { return Ok(()) };
    if here.as_ref().is_none_or(Client::is_closed) {
        *here = Some(term::connect(&config.database, config, "rootward route", |_| {}).await?.0);
    }
    let Some(client) = here.as_ref() else { return Ok(()) };
    if known.peers.iter().any(|peer| peer.id == config.peer && peer.is_relay) {
        let ids = |is_removed: bool| {
            known.peers.iter().filter(|peer| (peer.state == "removed") == is_removed).map(|peer| peer.id.clone()).collect()
        };
        let (removed, others): (Vec<String>, Vec<String>) = (ids(true), ids(false));
        for slot in within(store::orphans(client, &config.peer, &removed, &others)).await? {
            copy::drop_slot(client, &slot).await?;
        }
    }
    let is_left = |look: &Here, source: &str| look.is_subscribed && look.source.as_deref().is_some_and(|taken| taken != source);
    let look = within(store::here(client)).await?;
    for (source, slot, connection) in look.slots.iter().filter(|(source, _, _)| is_left(&look, source)) {
        if known.peers.iter().any(|peer| peer.id == *source && peer.state == "removed") {
            store::forget_slot(client, source).await?;
            continue;
        }
        // Before the lock: a node that is dead must not keep a new route waiting.
        let Ok((there, _)) = term::connect(connection, config, "rootward route", |_| {}).await else { continue };
        let lock = "/* try_lock_route */ select pg_try_advisory_lock($1)";
        if !client.query_one(lock, &[&ROUTE_LOCK]).await?.try_get::<_, bool>(0)? {
            continue;
        }
        let now = within(store::here(client)).await?;
        if is_left(&now, source) && now.slots.iter().any(|(other, name, _)| (other, name) == (source, slot)) {
            copy::drop_slot(&there, slot).await?;
            store::forget_slot(client, source).await?;
            tracing::info!(source, slot, "a replication slot that was left behind is gone");
        }
        client.query_one("/* unlock_route */ select pg_advisory_unlock($1)", &[&ROUTE_LOCK]).await?;
    }
    Ok(())
}
