//! Two-phase commit, as fast as it can honestly be made: the baseline of `bench chains`.
//!
//! Each transfer is two trips, both to both peers at once. The first carries BEGIN, the transaction's prepared statements and
//! PREPARE TRANSACTION in one message, the second COMMIT PREPARED. What a real coordinator would have to do besides is left
//! out, in the baseline's favour: it keeps no record of its decision, and nothing resolves what a crash leaves prepared.

use std::time::{SystemTime, UNIX_EPOCH};

use rootward_schema::{ExpectedRows, Transaction};
use tokio_postgres::{Error, SimpleQueryMessage, error::SqlState};
use uuid::Uuid;

use super::session::Session;
use crate::settings::literal;

/// What every session sets: plans as on lanes, and an end to waits in a circle over two peers, which no server can see.
const SESSION_SETTINGS: &str = "set plan_cache_mode = force_generic_plan; set lock_timeout = '1s'; set synchronous_commit = on";

/// The two halves of a transfer, compiled from the schema's own transactions.
#[derive(Debug, Clone)]
pub struct TwoPhaseTransfer {
    out: Half,
    into: Half,
}

/// A transaction's statements as statements that SQL's PREPARE has named.
#[derive(Debug, Clone)]
struct Half {
    prepare: String,
    statements: Vec<Named>,
}

#[derive(Debug, Clone)]
struct Named {
    name: String,
    parameters: Vec<String>,
    expect: Option<(ExpectedRows, String)>,
}

/// A root and the peer that it lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The place of the peer's database in what the client was connected with.
    pub peer: usize,
    /// The root key.
    pub root: u64,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transferred {
    /// Committed on both peers.
    Done,
    /// An expectation was not met or a constraint violated: rolled back on both peers.
    Refused(String),
    /// A lock was waited for too long, or in a circle: rolled back on both peers.
    Aborted,
}

/// Why a transfer has no orderly end.
#[derive(Debug, thiserror::Error)]
pub enum TwoPhaseError {
    /// PostgreSQL refused something that it should not, or the connection broke.
    #[error("two-phase commit: {}", .0.as_db_error().map_or_else(|| .0.to_string(), ToString::to_string))]
    Postgres(#[from] Error),
    /// Both roots lie on one peer, or a peer is unknown.
    #[error("a transfer needs two different peers that the client is connected to")]
    Peers,
}

/// One client with a session of its own to each peer.
#[derive(Debug)]
pub struct TwoPhaseClient {
    sessions: Vec<Session>,
    transfer: TwoPhaseTransfer,
    name: String,
    serial: u64,
}

impl TwoPhaseTransfer {
    /// From the transactions that a transfer's two steps call.
    pub fn new(out: &Transaction, into: &Transaction) -> TwoPhaseTransfer {
        TwoPhaseTransfer { out: Half::new("out", out), into: Half::new("into", into) }
    }

    /// What the baseline's sessions set, for whoever prints the settings.
    pub fn session_settings() -> &'static str {
        SESSION_SETTINGS
    }
}

impl Half {
    fn new(prefix: &str, transaction: &Transaction) -> Half {
        let mut half = Half { prepare: String::new(), statements: Vec::new() };
        for (number, statement) in transaction.statements.iter().enumerate() {
            let name = format!("rw_{prefix}_{number}");
            let types: Vec<&str> = statement.parameters.iter().map(|parameter| parameter.r#type.name()).collect();
            let types = if types.is_empty() { String::new() } else { format!(" ({})", types.join(", ")) };
            half.prepare += &format!("prepare {name}{types} as {};\n", statement.sql.trim().trim_end_matches(';'));
            half.statements.push(Named {
                name,
                parameters: statement.parameters.iter().map(|parameter| parameter.name.clone()).collect(),
                expect: statement.expect.as_ref().map(|expect| (expect.rows, expect.reason.clone())),
            });
        }
        half
    }

    /// The first trip: everything up to the vote.
    fn message(&self, gid: &str, arguments: &[(&str, &str)]) -> String {
        let mut sql = "begin".to_owned();
        for statement in &self.statements {
            let value = |name: &String| arguments.iter().find(|(known, _)| known == name).map_or("null", |(_, value)| *value);
            let values: Vec<&str> = statement.parameters.iter().map(value).collect();
            sql += &format!("; execute {}({})", statement.name, values.join(", "));
        }
        sql + &format!("; prepare transaction '{gid}'")
    }

    /// The reason of the first expectation that the answer does not meet.
    fn refusal(&self, answer: &[SimpleQueryMessage]) -> Option<&str> {
        let counts = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        // BEGIN's tag comes first.
        self.statements.iter().zip(counts.skip(1)).find_map(|(statement, rows)| {
            let (wanted, reason) = statement.expect.as_ref()?;
            (!wanted.is_met_by(rows)).then_some(reason.as_str())
        })
    }
}

impl TwoPhaseClient {
    /// Connects to every peer and prepares the statements there. The role must be one that row security lets through.
    ///
    /// # Errors
    /// If a peer can't be reached or a statement can't be prepared.
    pub async fn connect(databases: &[String], transfer: &TwoPhaseTransfer) -> Result<TwoPhaseClient, TwoPhaseError> {
        let mut sessions = Vec::new();
        for database in databases {
            let session = Session::open(database, "rootward bench 2pc").await?;
            session.client.batch_execute(SESSION_SETTINGS).await?;
            session.client.batch_execute(&transfer.out.prepare).await?;
            session.client.batch_execute(&transfer.into.prepare).await?;
            sessions.push(session);
        }
        Ok(TwoPhaseClient { sessions, transfer: transfer.clone(), name: Uuid::new_v4().simple().to_string(), serial: 0 })
    }

    /// Moves an amount from one root to another on another peer.
    ///
    /// Not cancel safe: dropping the future may leave prepared transactions.
    ///
    /// # Errors
    /// [`TwoPhaseError`]; whatever was prepared is rolled back as far as that is possible.
    pub async fn transfer(&mut self, from: Place, to: Place, amount: u64) -> Result<Transferred, TwoPhaseError> {
        let (Some(source), Some(target)) = (self.sessions.get(from.peer), self.sessions.get(to.peer)) else {
            return Err(TwoPhaseError::Peers);
        };
        if from.peer == to.peer {
            return Err(TwoPhaseError::Peers);
        }
        self.serial += 1;
        let gid = format!("{}-{}", self.name, self.serial);
        let amount = amount.to_string();
        let now = issued_now();
        let message = |half: &Half, root: u64| {
            let (root, request) = (root.to_string(), format!("'{}'", Uuid::now_v7()));
            half.message(&gid, &[("account_id", &root), ("amount", &amount), ("request_id", &request), ("now", &now)])
        };
        let (out, into) = (message(&self.transfer.out, from.root), message(&self.transfer.into, to.root));
        let (out, into) = tokio::join!(source.client.simple_query(&out), target.client.simple_query(&into));
        let refusal = |half: &Half, answer: &Result<Vec<SimpleQueryMessage>, Error>| {
            answer.as_ref().ok().and_then(|answer| half.refusal(answer).map(str::to_owned))
        };
        let refused = refusal(&self.transfer.out, &out).or_else(|| refusal(&self.transfer.into, &into));
        if let (Ok(_), Ok(_), None) = (&out, &into, &refused) {
            let commit = format!("commit prepared {}", literal(&gid));
            tokio::try_join!(source.client.batch_execute(&commit), target.client.batch_execute(&commit))?;
            return Ok(Transferred::Done);
        }
        let undone = tokio::join!(undo(source, &gid, out), undo(target, &gid, into));
        let faults: Vec<Error> = [undone.0?, undone.1?].into_iter().flatten().collect();
        let violated = faults.iter().filter(|fault| is_refusal(fault)).find_map(|fault| fault.as_db_error().map(ToString::to_string));
        match faults.into_iter().find(|fault| !is_about_locks(fault) && !is_refusal(fault)) {
            Some(fault) => Err(fault.into()),
            None => Ok(refused.or(violated).map_or(Transferred::Aborted, Transferred::Refused)),
        }
    }
}

/// Rolls one half back, whatever came of its first trip; gives the error of that trip on.
async fn undo(session: &Session, gid: &str, trip: Result<Vec<SimpleQueryMessage>, Error>) -> Result<Option<Error>, Error> {
    match trip {
        Ok(_) => session.client.batch_execute(&format!("rollback prepared {}", literal(gid))).await.map(|()| None),
        // The first error ended the message inside the transaction.
        Err(error) if error.as_db_error().is_some() => session.client.batch_execute("rollback").await.map(|()| Some(error)),
        Err(error) => Err(error),
    }
}

fn is_about_locks(error: &Error) -> bool {
    [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED].iter().any(|code| error.code() == Some(code))
}

/// A constraint of the schema, or a RAISE.
fn is_refusal(error: &Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("23") || *code == SqlState::RAISE_EXCEPTION)
}

/// When the client issued the request, as a literal.
fn issued_now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("to_timestamp({}.{:06})", now.as_secs(), now.subsec_micros())
}

#[cfg(test)]
mod tests {
    use rootward_schema::{Column, Expect, Statement, Target, Type};

    use super::*;

    fn half() -> Half {
        let column = |name: &str, r#type| Column { name: name.to_owned(), r#type };
        let statement = Statement {
            sql: "update a set b = b - $1 where id = $2".to_owned(),
            parameters: vec![column("amount", Type::Numeric), column("account_id", Type::Bigint)],
            returns_rows: false,
            expect: Some(Expect { rows: ExpectedRows::Exactly(1), reason: "insufficient funds".to_owned() }),
            is_told_by_next: false,
            line: 1,
        };
        let target = Target::Root { entity: "account".to_owned(), parameter: "account_id".to_owned() };
        let transaction = Transaction {
            may_change_settings: false,
            set_wise: None,
            name: "transfer_out".to_owned(),
            target,
            parameters: Vec::new(),
            statements: vec![statement],
            columns: Vec::new(),
            writes: true,
            can_refuse: true,
            file: String::new(),
            line: 1,
        };
        Half::new("out", &transaction)
    }

    #[test]
    fn a_half_is_prepared_with_types_and_sent_as_one_message() {
        let half = half();
        assert_eq!(half.prepare, "prepare rw_out_0 (numeric, bigint) as update a set b = b - $1 where id = $2;\n");
        let sent = half.message("g-1", &[("account_id", "7"), ("amount", "1")]);
        assert_eq!(sent, "begin; execute rw_out_0(1, 7); prepare transaction 'g-1'");
    }

    #[test]
    fn a_row_count_that_is_not_expected_is_a_refusal() {
        let answer = |rows| [0, rows, 0].map(SimpleQueryMessage::CommandComplete);
        assert_eq!(half().refusal(&answer(1)), None);
        assert_eq!(half().refusal(&answer(0)), Some("insufficient funds"));
    }
}
