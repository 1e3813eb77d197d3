//! One read: at the standby that is fresh enough and costs least, else at the primary.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Pool;
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass},
};
use tokio::time::{Instant, timeout_at};

use super::{
    position::{LogPosition, Needed, needed, parse},
    sampler::{NoSample, SAMPLE_INTERVAL, Sampler},
    servers::{Server, Servers, Unusable},
};
use crate::{
    config::{Config, Durability},
    fail_point,
    lane::{Claim, ReadContext, ReadEnd, Unit, wrong_owner},
    serving::Serving,
    term,
};

/// The name of everything here for fail points.
const LABEL: &str = "reads";
/// The longest staleness that means anything.
const LONGEST: Duration = Duration::from_secs(86_400);
/// How long a read waits for a standby that is coming on, at most, and between two looks.
const WAIT: Duration = Duration::from_millis(50);
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// How often a read asks whether the synchronous standbys have what it saw.
const CONFIRM_TRIES: u32 = 20;
/// How much longer than a statement may run its answer is waited for.
const SLACK: Duration = Duration::from_secs(1);

/// What is asked for.
pub(crate) struct Wanted<'w> {
    pub partition: i32,
    pub most: Duration,
    pub not_before: Option<&'w v1::ReadPosition>,
    pub deadline: Instant,
}

/// Reads of one term.
pub(crate) struct Reads {
    config: Arc<Config>,
    pool: Pool,
    servers: Servers,
    context: ReadContext,
    sampler: Arc<Sampler>,
    counters: Arc<Counters>,
}

/// Answers of a worker, over its terms.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub at_standbys: AtomicU64,
    pub at_primary: AtomicU64,
}

/// Why a standby gave no answer.
enum Not {
    /// It is not fresh enough; it may be in a moment, if it is coming on.
    Behind {
        is_moving: bool,
    },
    Unusable,
    /// The answer is a refusal.
    Refused(Fault),
}

impl Reads {
    /// Reads of this term; keeps track of the primary's log while there are any.
    ///
    /// # Errors
    /// If a connection string of the settings is none.
    pub(crate) fn follow(
        config: Arc<Config>,
        pool: Pool,
        serving: &Serving,
        counters: Arc<Counters>,
    ) -> Result<Arc<Reads>, tokio_postgres::Error> {
        let secret = serving.secret.as_deref().and_then(|text| hex::decode(text.trim_start_matches("\\x")).ok()).unwrap_or_default();
        let servers = Servers::new(&config)?;
        let sampler = Arc::new(Sampler::new(pool.clone(), serving.term));
        if !servers.hosts.is_empty() {
            serving.tasks.spawn(sampler.clone().run(serving.stop.clone()));
        }
        Ok(Arc::new(Reads { servers, config, pool, context: ReadContext::new(&secret, serving.term), sampler, counters }))
    }

    /// Runs a read where it is fresh enough. `behind_lane` ends when what its root's lane is at now is over.
    ///
    /// Cancel safety: dropping it closes the session that it uses.
    ///
    /// # Errors
    /// The refusal; RW2005 or RW5005 if this worker is not the one to ask; RW5002 if no server answers.
    pub(crate) async fn read(
        &self,
        serving: &Serving,
        wanted: Wanted<'_>,
        unit: impl Fn(Claim) -> Unit,
        behind_lane: impl Future<Output = FaultResult<()>>,
    ) -> FaultResult<v1::CallResponse> {
        let (_, mut claim) = serving.lane_of(wanted.partition)?;
        let most = wanted.most.min(LONGEST);
        let is_worth_it = !self.servers.hosts.is_empty() && !most.is_zero();
        if is_worth_it {
            self.sampler.want();
            match self.sampler.recent((most / 2).min(SAMPLE_INTERVAL * 2)).await {
                Err(NoSample::TermOver) => return Err(term_over()),
                // The primary itself will say what is wrong with it.
                Err(NoSample::Away(why)) => tracing::debug!(why, "the primary did not say how far it is"),
                Ok(sample) => {
                    if sample.ownership_version > claim.version {
                        claim = self.claim_anew(serving, wanted.partition).await?;
                    }
                    let needed_log = judge_needed(&wanted, claim, serving.term)?;
                    let unit = unit(claim);
                    if let Some(answer) = self.at_a_standby(&unit, serving.term, most, needed_log, wanted.deadline).await? {
                        self.counters.at_standbys.fetch_add(1, Ordering::Relaxed);
                        return Ok(answer);
                    }
                }
            }
        }
        // A standby may replay a commit a moment before the primary itself shows it: who may have seen one there waits for the batch under way.
        if judge_needed(&wanted, claim, serving.term)? > 0 && !fail_point::is_armed("without_lane", LABEL) {
            behind_lane.await?;
        }
        let answer = self.at_the_primary(&unit(claim), serving.term, wanted.deadline).await?;
        self.counters.at_primary.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    /// The claim to a partition by the peer's own table as it is now.
    async fn claim_anew(&self, serving: &Serving, partition: i32) -> FaultResult<Claim> {
        let away = |why: String| Fault::retry("RW5002", format!("the peer's database can't be asked: {why}"), "send it again");
        let client = self.pool.get().await.map_err(|error| away(error.to_string()))?;
        serving.set_owned(term::read_ownership(&client).await.map_err(|error| away(error.to_string()))?);
        Ok(serving.lane_of(partition)?.1)
    }

    /// None if no standby is fresh enough.
    async fn at_a_standby(
        &self,
        unit: &Unit,
        term: i64,
        most: Duration,
        needed: LogPosition,
        deadline: Instant,
    ) -> FaultResult<Option<v1::CallResponse>> {
        let give_up = (Instant::now() + WAIT.min(most)).min(deadline);
        loop {
            let mut may_come = false;
            for server in self.servers.in_order() {
                match self.at_standby(server, unit, term, most, needed, deadline).await {
                    Ok(answer) => return Ok(Some(answer)),
                    Err(Not::Behind { is_moving }) => may_come |= is_moving,
                    Err(Not::Unusable) => {}
                    Err(Not::Refused(fault)) => return Err(fault),
                }
            }
            if !may_come || Instant::now() >= give_up {
                return Ok(None);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    async fn at_standby(
        &self,
        server: &Server,
        unit: &Unit,
        term: i64,
        most: Duration,
        needed: LogPosition,
        deadline: Instant,
    ) -> Result<v1::CallResponse, Not> {
        let unusable = |why: Unusable| {
            if let Unusable::Away(why) = why {
                server.pass_over(&why);
            }
            Not::Unusable
        };
        let tls = self.config.tls_ca_file.as_deref();
        let mut session = server.session(tls, false).await.map_err(unusable)?;
        let mut looked = server.look(&mut session).await;
        if looked.is_err() && session.is_used {
            drop(session);
            session = server.session(tls, true).await.map_err(unusable)?;
            looked = server.look(&mut session).await;
        }
        let (replayed, is_moving) = looked.map_err(unusable)?;
        let shown = self.sampler.shown_by(replayed);
        // The snapshot comes after this moment, so it is no older.
        let mut lag = shown.map(|sample| sample.at.elapsed());
        // Negative controls of the tests: without these, answers are older than they say, and older than the one before.
        if fail_point::is_armed("without_lag", LABEL) {
            lag = Some(Duration::ZERO);
        }
        let needed = if fail_point::is_armed("without_position", LABEL) { 0 } else { needed };
        let Some(lag) = lag.filter(|lag| *lag <= most && replayed >= needed) else {
            server.leave(session);
            return Err(Not::Behind { is_moving });
        };
        let limit = deadline.min(Instant::now() + Duration::from_millis(self.config.statement_timeout_ms) + SLACK);
        let end = match timeout_at(limit, self.context.run(&mut session.connection, unit)).await {
            Ok(Ok(end)) => end,
            Ok(Err(lost)) => return Err(unusable(Unusable::Away(lost.to_string()))),
            Err(_) => return Err(unusable(Unusable::Away("a read was not answered in time".to_owned()))),
        };
        server.leave(session);
        match end {
            ReadEnd::Answered(response, position) => {
                let position = parse(&position).ok_or(Not::Unusable)?;
                if self.config.durability == Durability::Replicated && !self.is_confirmed(position).await {
                    return Err(Not::Behind { is_moving: false });
                }
                let lag_us = u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
                Ok(with_freshness(response, unit.claim, term, position, Some((server.name.clone(), lag_us))))
            }
            ReadEnd::Refused(fault) => Err(Not::Refused(fault)),
            ReadEnd::NotHere(error) => {
                tracing::debug!(server = server.name, why = error.message, "a standby does not show this term yet");
                Err(Not::Behind { is_moving })
            }
            ReadEnd::Failed(fault) => {
                tracing::debug!(server = server.name, %fault, "a read failed at a standby");
                Err(Not::Unusable)
            }
        }
    }

    async fn at_the_primary(&self, unit: &Unit, term: i64, deadline: Instant) -> FaultResult<v1::CallResponse> {
        let primary = &self.servers.primary;
        let away =
            |why: String| Fault::retry("RW5002", format!("`{}` was not run: {why}", unit.label), "nothing was changed; send it again");
        let mut is_fresh = false;
        loop {
            let mut session = match primary.session(self.config.tls_ca_file.as_deref(), is_fresh).await {
                Ok(session) => session,
                Err(Unusable::Away(why)) => return Err(away(why)),
                Err(Unusable::Full) => {
                    let message = "the primary runs as many reads with a staleness as it may";
                    return Err(Fault::overloaded("RW3001", message, "nothing was executed; send it again a little later"));
                }
            };
            let end = match timeout_at(deadline, self.context.run(&mut session.connection, unit)).await {
                Ok(Ok(end)) => end,
                // The server has ended the session since it was used.
                Ok(Err(_)) if session.is_used => {
                    is_fresh = true;
                    continue;
                }
                Ok(Err(lost)) => return Err(away(lost.to_string())),
                Err(_) => return Err(away("its deadline is over".to_owned())),
            };
            primary.leave(session);
            return match end {
                ReadEnd::Answered(response, position) => {
                    let position = parse(&position).unwrap_or_default();
                    Ok(with_freshness(response, unit.claim, term, position, None))
                }
                ReadEnd::Refused(fault) | ReadEnd::Failed(fault) => Err(fault),
                ReadEnd::NotHere(error) if error.sqlstate == "RW001" => Err(term_over()),
                ReadEnd::NotHere(_) => Err(wrong_owner(unit.claim.partition)),
            };
        }
    }

    /// Whether what a read saw would outlive the primary, where that was declared: a standby may replay what others that commits wait
    /// for don't have yet.
    async fn is_confirmed(&self, position: LogPosition) -> bool {
        for _ in 0..CONFIRM_TRIES {
            match self.sampler.sample().await {
                Ok(sample) if sample.confirmed.is_some_and(|confirmed| confirmed >= position) => return true,
                Ok(_) => tokio::time::sleep(LOOK_PAUSE).await,
                Err(_) => return false,
            }
        }
        false
    }
}

/// The place that a server must have reached, so that nobody sees this root older than before.
fn judge_needed(wanted: &Wanted<'_>, claim: Claim, term: i64) -> FaultResult<LogPosition> {
    match needed(wanted.not_before, claim.epoch, term) {
        Needed::Nothing => Ok(0),
        Needed::Log(position) => Ok(position),
        Needed::AnotherOwner => Err(wrong_owner(wanted.partition)),
        Needed::AnotherTerm => Err(term_over()),
    }
}

fn with_freshness(
    response: v1::CallResponse,
    claim: Claim,
    term: i64,
    log_position: LogPosition,
    standby: Option<(String, u64)>,
) -> v1::CallResponse {
    let from_standby = standby.is_some();
    let (server, lag_us) = standby.unwrap_or_default();
    let position = Some(v1::ReadPosition { epoch: claim.epoch, term, log_position });
    v1::CallResponse { freshness: Some(v1::Freshness { from_standby, server, lag_us, position }), ..response }
}

fn term_over() -> Fault {
    Fault::new(
        "RW5005",
        RetryClass::Reroute,
        "another worker has taken this peer over",
        "nothing was executed; the router finds the new worker by itself",
    )
}
