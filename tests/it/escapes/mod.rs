//! Attempts to reach outside a root, by ad-hoc SQL and by a declared function that runs any SQL. What stops each of them
//! is part of the table; afterwards plain SQL shows that nothing outside was read or changed.

mod attempts;

use attempts::ATTEMPTS;
use rootward_proto::{Fault, v1};
use tests::{Client, Cluster, Shape, check_logs, text_of};
use uuid::Uuid;

use crate::shared::own_cluster;

/// One attempt.
pub struct Attempt {
    name: &'static str,
    sql: &'static str,
    layer: Layer,
    /// Ad-hoc if none; else by EXECUTE, as a command or as a query.
    is_command: Option<bool>,
}

/// What stops an attempt.
#[derive(Debug, Clone, Copy)]
pub enum Layer {
    /// The server's grammar of PREPARE.
    Grammar,
    /// A right that the lane's role doesn't have; a row that the policy doesn't take is one, too.
    Privilege,
    /// It runs, and neither sees nor changes anything of another root.
    RowSecurity,
    /// A constraint.
    Constraint(&'static str),
    /// A function of ours that asks for the secret.
    Gate(&'static str),
    /// PL/pgSQL and the server don't let a function end or change the transaction.
    Transaction(&'static str),
    /// Another refusal of the server.
    Refused(&'static str),
    /// A limit of time or size; the code is Rootward's.
    Limit(&'static str),
}

const MANIFEST: &str = r#"
name = "vault"
version = 1
partitions = 64
[root.account]
table = "account"
[root.safe]
table = "safe"
[reference]
tables = ["currency"]
"#;

const TABLES: &str = r#"
create table currency (code text primary key, name text not null);
create table account (account_id bigint primary key, owner text not null, balance numeric not null);
create table entry (account_id bigint not null references account, entry_id bigint not null, note text not null, primary key (account_id, entry_id));
create table wallet (account_id bigint not null references account, wallet_id bigint not null, code text not null references currency, primary key (account_id, wallet_id));
create table safe (safe_id bigint primary key, content text not null);
create view account_view with (security_invoker = true) as select * from account;
create function all_owners() returns setof text language sql as 'select owner from account';
create function leak(owner text) returns boolean language plpgsql cost 0.0000001 as $$
begin
  if owner like 'SECRET%' then raise exception 'leaked: %', owner using errcode = '22000'; end if;
  return true;
end $$;
create function attempt_query(statement text) returns setof text language plpgsql as $$
declare r record;
begin
  for r in execute statement loop return next r::text; end loop;
end $$;
create function attempt_command(statement text) returns setof text language plpgsql as $$
begin
  execute statement;
  return query execute 'select account_id || owner from public.account union all select safe_id || content from public.safe';
end $$;
create function loud(errcode text) returns integer language plpgsql as $$
begin
  raise exception 'as loud as the system' using errcode = errcode;
end $$;
"#;

const TRANSACTIONS: &str = "
-- name: open_account
-- root: account = :account_id
insert into account values (:account_id, :owner, 77);
insert into entry values (:account_id, 1, :owner);
-- name: open_safe
-- root: safe = :safe_id
insert into safe values (:safe_id, :content);
-- name: note
-- root: account = :account_id
insert into entry values (:account_id, :entry_id, 'noted');
-- name: top_up
-- root: account = :account_id
update account set balance = balance + :amount where account_id = :account_id;
-- name: session
-- root: account = :account_id
select current_setting('synchronous_commit') || current_setting('timezone') || current_setting('datestyle')
  || current_setting('search_path') || current_setting('statement_timeout') || current_setting('row_security') as session
from account where account_id = :account_id;
-- name: attempt_query
-- root: account = :account_id
select attempt_query(:statement::text) from (values (:account_id::bigint)) as v;
-- name: attempt_command
-- root: account = :account_id
select attempt_command(:statement::text) from (values (:account_id::bigint)) as v;
-- name: loud
-- root: account = :account_id
select loud(:errcode::text) from (values (:account_id::bigint)) as v;
";

/// Everything outside the root `{me}`, as one digest: rows, ours and the users', rights, roles, settings, objects.
const OUTSIDE: &str = "select md5(string_agg(line, '' order by line)) from (
  select 'account' || a::text from account a where account_id <> {me} union all
  select 'entry' || e::text from entry e where account_id <> {me} union all
  select 'wallet' || w::text from wallet w where account_id <> {me} union all
  select 'safe' || s::text from safe s union all
  select 'currency' || c::text from currency c union all
  select 'state' || peer || term || secret_hash::text from rootward.peer_state union all
  select 'ownership' || o::text from rootward.ownership o union all
  select 'chain' || c::text from rootward.chain c union all
  select 'outcome' || o::text from rootward.outcome o where root_key <> '{me}' union all
  select 'role' || r.rolname || r.rolsuper || r.rolbypassrls || coalesce(rolconfig::text, '') from pg_roles r union all
  select 'member' || m::text from pg_auth_members m union all
  select 'setting' || s::text from pg_db_role_setting s union all
  select 'class' || c.relname || c.relrowsecurity || c.relforcerowsecurity || coalesce(c.relacl::text, '') from pg_class c
    where c.relnamespace in ('public'::regnamespace, 'rootward'::regnamespace) union all
  select 'policy' || p::text from pg_policy p union all
  select 'function' || p.oid || p.prosrc || coalesce(p.proacl::text, '') from pg_proc p union all
  select 'namespace' || n::text from pg_namespace n where nspname !~ '^pg_(toast_)?temp' union all
  select 'large object' || oid from pg_largeobject_metadata union all
  select 'slot' || slot_name from pg_replication_slots) as lines (line)";

struct Vault {
    cluster: Cluster,
    client: Client,
    me: i64,
    you: i64,
    safe: i64,
    /// The function that runs the transaction of this name for many roots.
    top_up: String,
}

async fn vault() -> Vault {
    let files = [("rootward.toml", MANIFEST), ("tables.sql", TABLES), ("transactions/vault.sql", TRANSACTIONS)];
    let cluster = own_cluster(&files, Shape { peers: 1, worker_settings: "statement_timeout_ms = 1500\n", ..Shape::shared() }).await;
    let client = cluster.client().expect("a client");
    // One lane for all three: a session that a trick leaves changed is the others', too.
    let accounts = cluster.roots_on("account", "p1", Some(0), 2);
    let safe = cluster.roots_on("safe", "p1", Some(0), 1)[0];
    for (account, owner) in [(accounts[0], "mine"), (accounts[1], "SECRET of another")] {
        let given = [("account_id", &*account.to_string()), ("owner", owner)];
        client.settle("open_account", &given, Uuid::now_v7()).await.expect("opened");
    }
    let given = [("safe_id", &*safe.to_string()), ("content", "SECRET of a safe")];
    client.settle("open_safe", &given, Uuid::now_v7()).await.expect("opened");
    cluster.reader().run("p1", "analyze").await.expect("statistics, for whoever reads them");
    let sql = "select proname::text from pg_proc where pronamespace = 'rootward_set'::regnamespace and proname like 'top\\_up\\_%'";
    let top_up = cluster.reader().rows("p1", sql, &[]).await.expect("read")[0].get(0);
    Vault { cluster, client, me: accounts[0], you: accounts[1], safe, top_up }
}

impl Vault {
    fn filled(&self, sql: &str) -> String {
        sql.replace("{me}", &self.me.to_string())
            .replace("{you}", &self.you.to_string())
            .replace("{safe}", &self.safe.to_string())
            .replace("{top_up}", &self.top_up)
    }

    async fn outside(&self) -> String {
        let rows = self.cluster.reader().rows("p1", &self.filled(OUTSIDE), &[]).await.expect("read");
        rows[0].get(0)
    }

    /// What anybody else may do.
    async fn note(&self, account: i64) -> Result<v1::CallResponse, Fault> {
        static NEXT: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(1000);
        let entry = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        self.client.call("note", &[("account_id", &account.to_string()), ("entry_id", &entry)], Uuid::now_v7()).await
    }

    /// The settings that another root's transaction meets.
    async fn session(&self) -> Result<String, Fault> {
        let answer = self.client.call("session", &[("account_id", &self.you.to_string())], Uuid::now_v7()).await?;
        Ok(answer.rows.iter().flat_map(|row| &row.values).map(text_of).collect())
    }

    async fn attempt(&self, attempt: &Attempt) -> Result<v1::CallResponse, Fault> {
        let (me, sql) = (self.me.to_string(), self.filled(attempt.sql));
        let given = [("account_id", me.as_str()), ("statement", sql.as_str())];
        match attempt.is_command {
            None => self.client.query("account", &me, &sql, Uuid::now_v7()).await,
            Some(false) => self.client.call("attempt_query", &given, Uuid::now_v7()).await,
            Some(true) => self.client.call("attempt_command", &given, Uuid::now_v7()).await,
        }
    }
}

#[tokio::test]
async fn no_sql_reaches_outside_its_root() {
    assert!(ATTEMPTS.len() >= 60);
    let vault = vault().await;
    let before = vault.outside().await;
    let term = vault.cluster.wait_until_serving("p1", 0).await.expect("it serves").term;
    let mut wrong = Vec::new();
    for attempt in ATTEMPTS {
        let ended = vault.attempt(attempt).await;
        if let Some(why) = judge(attempt.layer, &ended) {
            wrong.push(format!("{} ({:?}, {:?}): {why}", attempt.name, attempt.is_command, attempt.layer));
        }
        let shown = format!("{ended:?}");
        if shown.contains("SECRET of") {
            wrong.push(format!("{}: ESCAPED, it read {shown}", attempt.name));
        }
        let probe = vault.note(vault.me).await;
        if let Err(fault) = probe {
            wrong.push(format!("{}: it harmed who came next: {fault}", attempt.name));
        }
        if vault.outside().await != before {
            wrong.push(format!("{}: ESCAPED, something outside the root has changed", attempt.name));
            break;
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ATTEMPTS.len(), wrong.join("\n"));
    assert_eq!(vault.cluster.wait_until_serving("p1", 0).await.expect("it serves").term, term, "no attempt ended the worker's term");
    check_logs(&vault.cluster).expect("nothing in the logs");
}

/// What a session remembers beyond a statement. RESET ALL at the start of the next batch ends it, but one batch carries many.
const STATEFUL: &[&str] = &[
    "set search_path = pg_catalog",
    "set local search_path = nowhere",
    "set transaction_read_only = on",
    "set row_security = off",
    "set statement_timeout = 1",
    "set session statement_timeout = 0",
    "set datestyle = 'German'",
    "set synchronous_commit = off",
    "set local timezone = 'Asia/Tokyo'",
    "set default_transaction_read_only = on",
    "set constraints all deferred",
    "reset all",
    "discard plans",
    "deallocate all",
    // The ones that every batch of the lane needs, and one of somebody's transaction.
    "deallocate rootward_1",
    "deallocate rootward_3",
    "deallocate rootward_5",
    "prepare rootward_99 as select 1",
];

#[tokio::test]
async fn a_transaction_that_changes_the_session_harms_nobody_in_its_batch_or_after_it() {
    let vault = vault().await;
    let usual = vault.session().await.expect("read");
    let term = vault.cluster.wait_until_serving("p1", 0).await.expect("it serves").term;
    // Innocents at roots of their own can be left out of a batch, others can't.
    let others = vault.cluster.roots_on("account", "p1", Some(0), 16);
    for account in &others {
        let given = [("account_id", &*account.to_string()), ("owner", "other")];
        vault.client.settle("open_account", &given, Uuid::now_v7()).await.expect("opened");
    }
    let innocents: Vec<i64> = others.iter().flat_map(|account| [*account, vault.you]).collect();
    let mut wrong = Vec::new();
    for sql in STATEFUL {
        let attempt = Attempt { name: "stateful", sql, layer: Layer::RowSecurity, is_command: Some(true) };
        // Holds the lane for a moment, so that what comes behind it shares a batch.
        let holds = "select count(*) from generate_series(1, 1000000)";
        let me = vault.me.to_string();
        let holder = vault.client.query("account", &me, holds, Uuid::now_v7());
        let innocents = futures_util::future::join_all(innocents.iter().map(|account| vault.note(*account)));
        let more = futures_util::future::join_all((0..30).map(|_| vault.session()));
        let (held, before, ended, after) = tokio::join!(holder, innocents, vault.attempt(&attempt), more);
        if let Err(fault) = held {
            wrong.push(format!("{sql}: the lane was not held: {fault}"));
        }
        let strange = after.iter().flatten().filter(|seen| **seen != usual).count();
        if strange > 0 {
            wrong.push(format!("{sql}: {strange} of 30 met its settings"));
        }
        let harmed: Vec<Fault> = before.into_iter().filter_map(Result::err).chain(after.into_iter().filter_map(Result::err)).collect();
        if let Some(first) = harmed.first() {
            wrong.push(format!(
                "{sql} ({}): {} harmed: {first}",
                ended.map_or_else(|fault| fault.to_string(), |_| "done".to_owned()),
                harmed.len()
            ));
        }
        let later = vault.note(vault.you).await;
        if let Err(fault) = later {
            wrong.push(format!("{sql}: harmed who came later: {fault}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(vault.cluster.wait_until_serving("p1", 0).await.expect("it serves").term, term, "no lane was lost");
}

/// A statement that PostgreSQL doesn't take is found in each unit that has it, and in nobody else's.
#[tokio::test]
async fn what_can_not_be_prepared_refuses_all_who_ask_for_it_and_nobody_else() {
    let vault = vault().await;
    let others = vault.cluster.roots_on("account", "p1", Some(0), 9);
    for account in &others {
        let given = [("account_id", &*account.to_string()), ("owner", "other")];
        vault.client.settle("open_account", &given, Uuid::now_v7()).await.expect("opened");
    }
    vault.cluster.reader().run("p1", "drop function attempt_query(text)").await.expect("somebody drops what the schema has");
    let query = async |account: i64| {
        let given = [("account_id", &*account.to_string()), ("statement", "select 1")];
        vault.client.call("attempt_query", &given, Uuid::now_v7()).await
    };
    let me = vault.me.to_string();
    // Holds the lane for a moment, so that what comes behind it shares a batch.
    let holder = vault.client.query("account", &me, "select count(*) from generate_series(1, 1000000)", Uuid::now_v7());
    let (held, refused, done) = tokio::join!(
        holder,
        futures_util::future::join_all(others[..4].iter().map(|account| query(*account))),
        futures_util::future::join_all(others[4..].iter().map(|account| vault.note(*account)))
    );
    held.expect("the lane was held");
    for answer in refused {
        let fault = answer.expect_err("the function is gone");
        assert_eq!((fault.code(), fault.as_wire().sqlstate.as_str()), ("RW3101", "42883"), "{fault}");
    }
    for answer in done {
        answer.expect("an innocent is done");
    }
}

#[tokio::test]
async fn an_error_that_sounds_like_the_systems_own_is_a_refusal_like_any_other() {
    let vault = vault().await;
    let term = vault.cluster.wait_until_serving("p1", 0).await.expect("it serves").term;
    for state in ["RW001", "RW002", "RW003", "22000"] {
        let given = [("account_id", &*vault.me.to_string()), ("errcode", state)];
        let fault = vault.client.call("loud", &given, Uuid::now_v7()).await.expect_err("refused");
        assert_eq!((fault.retry_class(), fault.as_wire().sqlstate.as_str()), (v1::RetryClass::Refused, state), "{fault}");
    }
    assert_eq!(vault.cluster.wait_until_serving("p1", 0).await.expect("it serves").term, term, "the worker's term goes on");
}

/// Why the attempt did not end as it should.
fn judge(layer: Layer, ended: &Result<v1::CallResponse, Fault>) -> Option<String> {
    let (code, sqlstate) = match layer {
        Layer::Grammar => ("RW3101", "42601"),
        Layer::Privilege => ("RW2004", "42501"),
        Layer::RowSecurity => {
            return ended.as_ref().err().filter(|fault| fault.as_wire().sqlstate != "42501").map(|fault| fault.to_string());
        }
        Layer::Constraint(state) | Layer::Transaction(state) | Layer::Refused(state) => ("RW3101", state),
        Layer::Gate(state) => ("RW2004", state),
        Layer::Limit(code) => (code, ""),
    };
    match ended {
        Ok(response) => {
            let rows: Vec<String> =
                response.rows.iter().take(3).map(|row| row.values.iter().map(text_of).collect::<Vec<_>>().join("|")).collect();
            Some(format!("it was done, {} rows: {}", response.row_count, rows.join(", ").chars().take(200).collect::<String>()))
        }
        Err(fault) => {
            let said = (fault.code(), fault.as_wire().sqlstate.as_str());
            let is_expected = said.0 == code && (sqlstate.is_empty() || said.1 == sqlstate);
            (!is_expected).then(|| format!("refused as {said:?}: {}", fault.message()))
        }
    }
}
