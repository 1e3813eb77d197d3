//! One term: this worker takes the peer over, serves it, and lets go when anything about its standing is in doubt.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use rand::Rng as _;
use rootward_router::Catalog;
use rootward_schema::Schema;
use sha2::{Digest as _, Sha256};
use tokio_postgres::{AsyncMessage, Client, Config as Settings, NoTls, Row};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::Config,
    fail_point,
    host::{each_host, in_turn, name_of, place_of},
    journal::Progress,
    lane::{Bounds, Counters, Declared, Floors, How, LaneContext, LaneHold, Pace, PartitionHold, Session, start_lane},
    pg,
    primary::{self, Primary, Unfit},
    serving::{Owned, Serving},
};

/// The advisory lock that the worker of a peer holds; the others wait for it as standbys.
const WORKER_LOCK: i64 = 20_826 << 32;
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long older backends may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Why a term did not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TermError {
    #[error("the database can't be reached")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("a lane can't connect")]
    Lane(#[from] pg::ConnectError),
    #[error("the peer's schema can't be read; this worker may be too old")]
    Schema(#[from] serde_json::Error),
    #[error("the database belongs to peer `{found}`, this worker serves `{wanted}`")]
    AnotherPeer { found: String, wanted: String },
    #[error("no schema has been applied to this peer yet")]
    NoSchema,
    #[error("older backends of this peer's lanes did not end")]
    OlderBackends,
    #[error("the connection was lost while the peer was taken over")]
    Lost,
    #[error("the database's settings can't be used: {0}")]
    Pool(String),
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// A connection by tokio-postgres to the first host that takes it, with a token that is cancelled when it ends.
pub(crate) async fn connect(
    database: &str,
    config: &Config,
    name: &str,
    on_message: impl FnMut(AsyncMessage) + Send + 'static,
) -> Result<(Client, CancellationToken), TermError> {
    let (client, messages) = first_of(&config.settings_of(database)?, |one| open(one, config, name)).await?;
    Ok((client, listen(messages, on_message)))
}

/// What a connection hears; it works as long as this is read.
type Messages = BoxStream<'static, Result<AsyncMessage, tokio_postgres::Error>>;

async fn open(mut settings: Settings, config: &Config, name: &str) -> Result<(Client, Messages), TermError> {
    settings.application_name(name).connect_timeout(CONNECT_LIMIT);
    macro_rules! open {
        ($tls:expr) => {{
            let (client, mut connection) =
                tokio::time::timeout(CONNECT_LIMIT, settings.connect($tls)).await.map_err(|_| TermError::Timeout(CONNECT_LIMIT))??;
            (client, stream::poll_fn(move |context| connection.poll_message(context)).boxed())
        }};
    }
    Ok(match pg::tls_for(&settings, config.tls_ca_file.as_deref())? {
        Some(tls) => open!(tokio_postgres_rustls::MakeRustlsConnect::new(tls)),
        None => open!(NoTls),
    })
}

fn listen(mut messages: Messages, mut on_message: impl FnMut(AsyncMessage) + Send + 'static) -> CancellationToken {
    let ended = CancellationToken::new();
    let guard = ended.clone();
    // The connection's own task: it ends when the client is dropped, so nothing waits for it at shutdown.
    #[allow(clippy::disallowed_methods)]
    tokio::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            on_message(message);
        }
        guard.cancel();
    });
    ended
}

/// Asks one host of a connection string after the other. What is wrong with one that could serve says more than that another is away.
///
/// # Errors
/// Why the first one that is unfit must not be used; else the last failure.
async fn first_of<T, F: Future<Output = Result<T, TermError>>>(database: &Settings, ask: impl Fn(Settings) -> F) -> Result<T, TermError> {
    let says_more = |error: &TermError| matches!(error, TermError::Unfit(_));
    in_turn(each_host(database), ask, says_more).await.map_err(|failure| failure.unwrap_or(TermError::Lost))
}

/// Waits until no other worker serves this peer, raises the term, ends older backends and opens the lanes.
///
/// The returned client holds the lock: the term lasts as long as it does.
///
/// Cancel safety: dropping the future gives up the wait; a term that was raised already stays raised, which harms nobody.
///
/// # Errors
/// [`TermError`]; nothing is served then and the caller tries again.
pub(crate) async fn take_over(
    config: &Config,
    counters: &[Arc<Counters>],
    on_standby: impl Fn(),
) -> Result<(Arc<Serving>, Client, Option<Catalog>), TermError> {
    let warning = Arc::<Mutex<Option<String>>>::default();
    let (mut client, ended) = find_primary(config, &warning).await?;
    on_standby();
    client.query_one("/* wait_for_peer */ select pg_advisory_lock($1)", &[&WORKER_LOCK]).await?;
    let (primary, before) = check_primary(&client, config).await?;
    let mut secret = [0_u8; 32];
    rand::rng().fill_bytes(&mut secret);
    // What came before is about something else: PostgreSQL warns of each connection to a database whose collations are of another version.
    warning.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (term, copy) = raise_term(&mut client, config, &Sha256::digest(secret)).await?;
    // That commit waits behind whatever an earlier worker's left unreplicated. If somebody broke its wait off, so may others be.
    if let Some(warning) = warning.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(Unfit::Doubtful(warning).into());
    }
    end_older_backends(&client).await?;
    let owned = RwLock::new(read_ownership(&client).await?);
    let sql = "/* read_schema */ select definition from rootward.schema_version order by version desc limit 1";
    let row = client.query_opt(sql, &[]).await?.ok_or(TermError::NoSchema)?;
    let schema: Arc<Schema> = Arc::new(serde_json::from_value(row.try_get(0)?)?);
    let postgres_version = client
        .query_one("/* read_server_version */ select split_part(setting, ' ', 1) from pg_settings where name = 'server_version'", &[])
        .await?
        .try_get(0)?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let (issued_before, expired_before) = read_floors(&client).await?;
    let floors = Arc::new(Floors::new(issued_before, expired_before));
    let holds = (Arc::<LaneHold>::default(), Arc::<PartitionHold>::default());
    let journal = Arc::<Progress>::default();
    let row_types = pg::RowTypes::read(&client).await?;
    let lanes = open_lanes(config, &schema, &secret, (term, row_types), counters, &floors, &holds, &journal, &tasks, &stop).await?;
    let (hold, parted) = holds;
    if ended.is_cancelled() {
        stop.cancel();
        return Err(TermError::Lost);
    }
    // Without the lock another worker may serve: stop at once, whatever the lanes think.
    let token = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = ended.cancelled() => token.cancel(),
            () = token.cancelled() => {}
        }
    });
    let secret = Some(format!("\\x{}", hex::encode(secret)));
    let declared = Declared::all(&schema);
    Ok((
        Arc::new(Serving {
            term,
            primary,
            before,
            postgres_version,
            lanes,
            hold,
            parted,
            owned,
            secret,
            schema,
            declared,
            floors,
            journal,
            stop,
            tasks,
        }),
        client,
        copy,
    ))
}

/// Connects to the first host that takes writes and was not replaced, and binds the term to it. One that was replaced must not be waited
/// for: a worker that sleeps may hold it for ever.
async fn find_primary(config: &Config, warning: &Arc<Mutex<Option<String>>>) -> Result<(Client, CancellationToken), TermError> {
    config.bound.set(None);
    let known = known_primary(config).await;
    let known = known.as_ref();
    let look = |settings: Settings| async move {
        let (host, place) = (name_of(&settings), place_of(&settings));
        let (client, messages) = open(settings, config, "rootward worker").await?;
        let heard = warning.clone();
        let on_message = move |message: AsyncMessage| {
            if let AsyncMessage::Notice(notice) = message
                && notice.severity() == "WARNING"
            {
                *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(notice.message().to_owned());
            }
        };
        let ended = listen(messages, on_message);
        let mine = primary::read(&client).await?;
        if let Err(error) = primary::judge(&mine, known) {
            tracing::warn!(host, error = &error as &dyn std::error::Error, "this host is passed over");
            return Err(error.into());
        }
        Ok((client, ended, place))
    };
    let (client, ended, place) = first_of(&config.settings_of(&config.database)?, look).await?;
    config.bound.set(place);
    Ok((client, ended))
}

/// What the hub knows of the peer's newest PostgreSQL; none if it can't be asked, or nobody has served the peer yet.
async fn known_primary(config: &Config) -> Option<Primary> {
    let (hub, _) = connect(&config.hub_database, config, "rootward claim", |_| {}).await.ok()?;
    primary::known(&hub, &config.peer).await.ok()?
}

/// Whether this PostgreSQL may serve the peer, and what was known of it before. Without the hub nobody knows of a newer one: then the
/// peer is served as it was.
async fn check_primary(client: &Client, config: &Config) -> Result<(Primary, Option<Primary>), TermError> {
    let mine = primary::read(client).await?;
    primary::check_durability(client, config.durability).await??;
    let before = match connect(&config.hub_database, config, "rootward claim", |_| {}).await {
        Ok((hub, _)) => {
            let before = primary::known(&hub, &config.peer).await?;
            primary::claim(&hub, &config.peer, &mine).await??;
            before
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the hub is away: whether this PostgreSQL was replaced is not known");
            None
        }
    };
    Ok((mine, before))
}

/// The new term with its secret, committed synchronously: it writes WAL, so it flushes whatever an earlier worker's commits
/// may have left unflushed, before this worker answers anything.
async fn raise_term(client: &mut Client, config: &Config, secret_hash: &[u8]) -> Result<(i64, Option<Catalog>), TermError> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("set local synchronous_commit = on").await?;
    let row = transaction
        .query_one(
            "/* raise_term */ update rootward.peer_state set term = term + 1, secret_hash = $1, taken_at = now() returning term, peer, catalog_copy",
            &[&secret_hash],
        )
        .await?;
    let found: String = row.try_get(1)?;
    if found != config.peer {
        return Err(TermError::AnotherPeer { found, wanted: config.peer.clone() });
    }
    let term = row.try_get(0)?;
    let copy: Option<serde_json::Value> = row.try_get(2)?;
    transaction.batch_execute(&secret_check(secret_hash)).await?;
    transaction.commit().await?;
    Ok((term, copy.and_then(|json| serde_json::from_value(json).ok())))
}

/// The guard of our functions with the hash in it: comparing with a constant costs a tenth of reading the table, and the guard runs for
/// every unit. Whether the term is over is for `begin_batch` to say, which reads the table.
fn secret_check(secret_hash: &[u8]) -> String {
    format!(
        "create or replace function rootward.check_secret(secret bytea) returns boolean language sql stable \
         return case when sha256(secret) = '\\x{}'::bytea then true else rootward.refuse_secret() end",
        hex::encode(secret_hash)
    )
}

/// Ends the lanes of workers before us. A batch of theirs that passed the check of its term before we raised it must have
/// ended, one way or the other, before our first batch begins.
async fn end_older_backends(client: &Client) -> Result<(), TermError> {
    let deadline = tokio::time::Instant::now() + END_LIMIT;
    loop {
        let sql = "/* end_older_backends */ select count(pg_terminate_backend(pid)) from pg_stat_activity \
                   where usename = 'rootward_lane' and datname = current_database()";
        let count: i64 = client.query_one(sql, &[]).await?.try_get(0)?;
        if count == 0 {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(TermError::OlderBackends);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the peer's own table of owners holds, with its version: one statement, so that the rows are those of the version.
pub(crate) const READ_OWNERSHIP: &str = "/* read_ownership */ select s.ownership_version, o.partition, o.epoch \
                                         from rootward.peer_state s left join rootward.ownership o on o.state = 'owned'";

/// The partitions that the peer owns by its own table, with their epochs.
pub(crate) async fn read_ownership(client: &Client) -> Result<Owned, tokio_postgres::Error> {
    owned(&client.query(READ_OWNERSHIP, &[]).await?)
}

/// What these rows of [`READ_OWNERSHIP`] say.
pub(crate) fn owned(rows: &[Row]) -> Result<Owned, tokio_postgres::Error> {
    let mut owned = Owned::default();
    for row in rows {
        owned.version = row.try_get(0)?;
        if let Some(partition) = row.try_get(1)? {
            owned.epochs.insert(partition, row.try_get(2)?);
        }
    }
    Ok(owned)
}

/// What earlier workers of this peer, or of peers that a partition came from, have collected.
pub(crate) async fn read_floors(client: &Client) -> Result<(i64, i64), tokio_postgres::Error> {
    let sql = "/* read_floors */ select coalesce((extract(epoch from nullif(max(issued_before), '-infinity')) * 1000)::bigint, 0), \
               coalesce((extract(epoch from nullif(max(expired_before), '-infinity')) * 1000)::bigint, 0) from rootward.collected";
    let row = client.query_one(sql, &[]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

#[allow(clippy::too_many_arguments)] // the parts of a term
async fn open_lanes(
    config: &Config,
    schema: &Schema,
    secret: &[u8],
    (term, row_types): (i64, pg::RowTypes),
    counters: &[Arc<Counters>],
    floors: &Arc<Floors>,
    holds: &(Arc<LaneHold>, Arc<PartitionHold>),
    journal: &Arc<Progress>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Vec<crate::lane::LaneHandle>, TermError> {
    let mut settings = config.settings_of(&config.lane_database)?;
    settings.application_name("rootward lane").options(config.session_options(&lane_options(config.statement_timeout_ms)));
    let tls = pg::tls_for(&settings, config.tls_ca_file.as_deref())?;
    let mut connections = Vec::new();
    for _ in 0..config.lanes {
        let first = pg::connect(&settings, tls.as_ref()).await?;
        let other = pg::connect(&settings, tls.as_ref()).await?;
        connections.push((first, other));
    }
    let least = Duration::from_secs(1).checked_div(config.max_units_per_second).unwrap_or_default();
    let bounds = Bounds { units: config.queue, time: Duration::from_millis(config.max_queue_ms), least };
    let pace = Pace::new(config.max_units_per_second).map(Arc::new);
    // A control of `bench journal`, which measures what outcomes cost.
    let stores_outcomes = !fail_point::is_armed("without_outcomes", "lane");
    if !stores_outcomes {
        tracing::warn!(peer = config.peer, "this worker stores no outcomes of calls: a call that is repeated takes effect again");
    }
    let lanes = connections.into_iter().zip(counters).enumerate().map(|(at, ((first, other), counters))| {
        let number = u32::try_from(at).unwrap_or(u32::MAX);
        let how = How { max_batch: config.max_batch, set_wise: config.set_wise, stores_outcomes };
        let session = |connection| Session {
            context: LaneContext::new(
                number,
                secret,
                term,
                row_types,
                &schema.deferrable,
                floors.clone(),
                how,
                counters.clone(),
                journal.clone(),
            ),
            connection,
        };
        start_lane((session(first), vec![session(other)]), bounds, pace.clone(), holds.clone(), tasks, stop.clone())
    });
    Ok(lanes.collect())
}

/// Session defaults of a lane. RESET ALL comes back to them.
pub(crate) fn lane_options(statement_timeout_ms: u64) -> String {
    [
        format!("-c statement_timeout={statement_timeout_ms}"),
        // A worker that is stopped in the middle of a batch must not hold its locks for ever.
        "-c idle_in_transaction_session_timeout=10000".to_owned(),
        format!("-c lock_timeout={statement_timeout_ms}"),
        "-c plan_cache_mode=force_generic_plan".to_owned(),
        // A plan that was made while a table was empty stays: without this it would read the whole table long after.
        "-c enable_seqscan=off".to_owned(),
        // Where nothing but the whole table will do, the price that the line above puts on it must not start the compiler.
        "-c jit=off".to_owned(),
    ]
    .join(" ")
}

/// Keeps a copy of the catalog in the peer's database, for a start while the hub is down.
pub(crate) async fn keep_copy(client: &Client, catalog: &Catalog) -> Result<(), tokio_postgres::Error> {
    let copy = serde_json::to_value(catalog).unwrap_or_default();
    client.execute("/* keep_catalog_copy */ update rootward.peer_state set catalog_copy = $1", &[&copy]).await?;
    Ok(())
}
