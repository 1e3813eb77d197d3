//! Which PostgreSQL serves a peer: one that is the newest of its line, and as durable as was declared.
//!
//! A standby that was promoted continues the line of its primary in a timeline of its own, which PostgreSQL counts up. The hub remembers
//! the newest timeline that a worker served; a worker that finds itself at an older one is at a primary that was replaced, whatever that
//! still takes and says.

use tokio_postgres::Client;

use crate::config::Durability;

/// What tells one PostgreSQL cluster from another, and its turns at being the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Primary {
    /// Made by initdb, and the same on all standbys.
    pub system_identifier: String,
    pub timeline: i32,
}

/// Why a PostgreSQL must not serve the peer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Unfit {
    #[error(
        "this PostgreSQL is at timeline {mine}, and the peer was served at timeline {newest}: it was replaced; rebuild it as a standby"
    )]
    Replaced { mine: i32, newest: i32 },
    #[error("this PostgreSQL is another cluster ({mine}) than the one that holds the peer ({known})")]
    AnotherCluster { mine: String, known: String },
    #[error(
        "`durability` is \"replicated\", and {0}: set synchronous_standby_names and start the standby, or declare durability = \"local\""
    )]
    NotReplicated(&'static str),
    #[error("PostgreSQL warned at COMMIT: {0}; what it holds may not be on its standbys")]
    Doubtful(String),
}

/// Judges by what the hub knows; `known` is none before the first worker.
pub(crate) fn judge(mine: &Primary, known: Option<&Primary>) -> Result<(), Unfit> {
    match known {
        Some(known) if known.system_identifier != mine.system_identifier => {
            Err(Unfit::AnotherCluster { mine: mine.system_identifier.clone(), known: known.system_identifier.clone() })
        }
        Some(known) if known.timeline > mine.timeline => Err(Unfit::Replaced { mine: mine.timeline, newest: known.timeline }),
        _ => Ok(()),
    }
}

/// Reads what this PostgreSQL is.
pub(crate) async fn read(client: &Client) -> Result<Primary, tokio_postgres::Error> {
    // The name of a WAL file begins with its timeline; the control file learns of a promotion later.
    let sql = "/* read_primary */ select (select system_identifier::text from pg_control_system()), \
               ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer";
    let row = client.query_one(sql, &[]).await?;
    Ok(Primary { system_identifier: row.try_get(0)?, timeline: row.try_get(1)? })
}

/// Writes down at the hub that this PostgreSQL serves the peer, unless a newer one did before.
///
/// # Errors
/// The outer one if the hub can't be asked; the inner one if this PostgreSQL must not serve.
pub(crate) async fn claim(hub: &Client, peer: &str, mine: &Primary) -> Result<Result<(), Unfit>, tokio_postgres::Error> {
    // Compared and set in one statement: two workers at two PostgreSQLs may claim at once.
    let sql = "/* claim_peer */ update rootward_catalog.peer set system_identifier = $2, timeline = $3 where id = $1 \
               and coalesce(system_identifier, $2) = $2 and coalesce(timeline, 0) < $3";
    hub.execute(sql, &[&peer, &mine.system_identifier, &mine.timeline]).await?;
    Ok(judge(mine, known(hub, peer).await?.as_ref()))
}

/// What the hub knows of the PostgreSQL that served the peer last.
///
/// # Errors
/// If it can't be asked.
pub(crate) async fn known(hub: &Client, peer: &str) -> Result<Option<Primary>, tokio_postgres::Error> {
    let sql = "/* read_claim */ select system_identifier, timeline from rootward_catalog.peer where id = $1";
    let Some(row) = hub.query_opt(sql, &[&peer]).await? else { return Ok(None) };
    Ok(match (row.try_get::<_, Option<String>>(0)?, row.try_get::<_, Option<i32>>(1)?) {
        (Some(system_identifier), Some(timeline)) => Some(Primary { system_identifier, timeline }),
        _ => None,
    })
}

/// Whether commits wait for a standby, if that was declared.
///
/// # Errors
/// The outer one if PostgreSQL can't be asked.
pub(crate) async fn check_durability(client: &Client, declared: Durability) -> Result<Result<(), Unfit>, tokio_postgres::Error> {
    if declared == Durability::Local {
        return Ok(Ok(()));
    }
    let sql = "/* check_durability */ select current_setting('synchronous_standby_names') <> '', \
               exists (select from pg_stat_replication where sync_state in ('sync', 'quorum'))";
    let row = client.query_one(sql, &[]).await?;
    let (is_asked_for, is_there): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    Ok(match (is_asked_for, is_there) {
        (false, _) => Err(Unfit::NotReplicated("synchronous_standby_names is empty")),
        (true, false) => Err(Unfit::NotReplicated("no synchronous standby is connected")),
        (true, true) => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(system_identifier: &str, timeline: i32) -> Primary {
        Primary { system_identifier: system_identifier.to_owned(), timeline }
    }

    #[test]
    fn only_the_newest_of_the_same_line_serves() {
        assert_eq!(judge(&at("7", 1), None), Ok(()));
        assert_eq!(judge(&at("7", 2), Some(&at("7", 1))), Ok(()));
        assert_eq!(judge(&at("7", 2), Some(&at("7", 2))), Ok(()));
        assert_eq!(judge(&at("7", 1), Some(&at("7", 2))), Err(Unfit::Replaced { mine: 1, newest: 2 }));
        assert!(matches!(judge(&at("8", 9), Some(&at("7", 2))), Err(Unfit::AnotherCluster { .. })));
    }
}
