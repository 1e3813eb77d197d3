-- What Rootward keeps in every peer's database. Applied by `rootward` at set-up; each statement can be run again.
--
-- Roles (they belong to the PostgreSQL cluster, so several peers in one cluster share them):
--   rootward_owner   owns the user's tables; nobody logs in as it, and FORCE row security binds even it
--   rootward_system  owns this namespace; the worker logs in as it for everything that is not a lane
--   rootward_set     owns the functions that run a transaction for many roots at once; row security doesn't bind it, and
--                    nobody logs in as it
--   rootward_reader  runs queries on snapshots: it may read the user's tables, all rows that belong here, and do nothing else
--   rootward_lane    runs users' SQL; a member of nothing, it may create nothing, and no table here is open to it
do $$
begin
  if not exists (select from pg_roles where rolname = 'rootward_owner') then
    create role rootward_owner nologin;
  end if;
  if not exists (select from pg_roles where rolname = 'rootward_system') then
    create role rootward_system login bypassrls replication;
  end if;
  if not exists (select from pg_roles where rolname = 'rootward_set') then
    create role rootward_set nologin noinherit bypassrls;
  end if;
  if not exists (select from pg_roles where rolname = 'rootward_reader') then
    create role rootward_reader login noinherit connection limit 256;
  end if;
  if not exists (select from pg_roles where rolname = 'rootward_lane') then
    create role rootward_lane login noinherit connection limit 256;
  end if;
  -- What is refused to a lane's SQL is an answer to whoever asked, not news for the server's log; the worker itself logs
  -- what is no refusal. The limit on temporary files keeps one root's sort from filling the disk.
  alter role rootward_lane set log_min_messages = 'fatal';
  alter role rootward_lane set temp_file_limit = '1GB';
  alter role rootward_reader set log_min_messages = 'fatal';
  alter role rootward_reader set temp_file_limit = '1GB';
exception when duplicate_object or unique_violation then
  null; -- another peer of the same cluster made them at the same moment
end $$;
do $$
begin
  -- The context of row security lies in a parameter that only a superuser, or this role, can set.
  execute 'grant set on parameter backtrace_functions to rootward_system';
  grant pg_signal_backend, pg_read_all_stats to rootward_system;
  -- `verify` counts what a reader sees.
  grant rootward_reader to rootward_system;
exception when others then
  -- Two peers of one cluster that grant at once update the same catalogue row; the other's grant is ours too.
  if not has_parameter_privilege('rootward_system', 'backtrace_functions', 'SET') then raise; end if;
end $$;

create schema if not exists rootward authorization rootward_system;
do $$ begin
  execute format('revoke temporary, create on database %I from public', current_database());
  execute format('grant connect on database %I to rootward_lane, rootward_system, rootward_reader', current_database());
end $$;
revoke create on schema public from public;
grant usage on schema public to rootward_lane, rootward_system, rootward_owner, rootward_reader;
grant usage on schema rootward to rootward_lane, rootward_set;
create schema if not exists rootward_set;
revoke all on schema rootward_set from public;
grant usage on schema rootward_set to rootward_lane;
grant usage on schema public to rootward_set;

-- Functions of PostgreSQL's own with which SQL of one root could reach the session's next root, another lane, or the
-- rest of the server. Nothing that a transaction on one tree needs is among them.
do $$
declare f regprocedure;
begin
  for f in
    select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'pg_catalog' and (
      p.proname ~ '^(pg_advisory_|pg_try_advisory_|lo_|lowrite$|loread$|pg_logical_|pg_replication_|pg_export_snapshot$|pg_stat_get_|pg_stat_reset|pg_stat_clear)'
      or p.proname in ('set_config', 'pg_notify', 'pg_cancel_backend', 'pg_terminate_backend', 'pg_get_backend_memory_contexts',
                       'pg_show_all_settings', 'pg_lock_status', 'pg_prepared_statement', 'pg_cursor', 'pg_sleep', 'pg_sleep_for', 'pg_sleep_until',
                       'pg_export_snapshot', 'pg_switch_wal', 'pg_create_restore_point',
                       'query_to_xml', 'query_to_xmlschema', 'query_to_xml_and_xmlschema', 'cursor_to_xml', 'cursor_to_xmlschema',
                       'database_to_xml', 'database_to_xmlschema', 'database_to_xml_and_xmlschema',
                       'schema_to_xml', 'schema_to_xmlschema', 'schema_to_xml_and_xmlschema',
                       'table_to_xml', 'table_to_xmlschema', 'table_to_xml_and_xmlschema', 'ts_stat', 'ts_rewrite'))
  loop
    execute format('revoke execute on function %s from public', f);
    execute format('grant execute on function %s to rootward_system', f);
  end loop;
end $$;
revoke select on pg_stat_activity, pg_locks, pg_settings, pg_largeobject_metadata from public;
grant select on pg_stat_activity, pg_locks, pg_settings, pg_largeobject_metadata to rootward_system;

set role rootward_system;

-- One row: who serves this peer now.
create table if not exists rootward.peer_state (
  only_row boolean primary key default true check (only_row),
  peer text not null,
  term bigint not null default 0,
  secret_hash bytea,
  taken_at timestamptz,
  catalog_copy jsonb,
  -- Counts the changes of the table below.
  ownership_version bigint not null default 0
);

-- Which partitions this peer owns, and in which epoch. Partition -1 is the reference data's; only the hub owns it.
create table if not exists rootward.ownership (
  partition integer primary key,
  epoch bigint not null,
  state text not null check (state in ('owned', 'released'))
);

create or replace function rootward.count_ownership() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update rootward.peer_state set ownership_version = ownership_version + 1;
  return null;
end $$;
create or replace trigger count_ownership after insert or update or delete or truncate on rootward.ownership
  for each statement execute function rootward.count_ownership();

-- The definitions that this peer knows; the newest is in force.
create table if not exists rootward.schema_version (
  version integer primary key,
  definition jsonb not null,
  applied_at timestamptz not null default now()
);

-- The durable answers. The first writer of a row wins; nothing else decides whether work took effect.
create table if not exists rootward.outcome (
  partition integer not null,
  entity text not null,
  root_key text not null,
  request_id uuid not null,
  step integer not null,
  element integer not null,
  -- `do` or `undo`.
  direction text not null,
  -- `done`, `failed` or `tombstone`. Nothing but `record` writes here, so no constraint is parsed for every batch.
  kind text not null,
  transaction text not null,
  fingerprint bytea not null,
  reply bytea not null,
  -- The one row that belongs into the reply, if the function that ran the transaction stored it.
  answer text[],
  -- A chain's outcomes are collected by its home, once it has ended; the others by the age of their request.
  in_chain boolean not null,
  issued_at timestamptz not null,
  at timestamptz not null default clock_timestamp(),
  -- The id first: most are made in the order of time, so that new entries lie together and are told apart by one comparison.
  primary key (request_id, partition, entity, root_key, step, element, direction)
);

-- What may have been collected: a request issued, or a chain's step that expires, before these moments is refused, whatever
-- any clock says later. Both only grow.
create table if not exists rootward.collected (
  partition integer primary key,
  issued_before timestamptz not null default '-infinity',
  expired_before timestamptz not null default '-infinity'
);

-- Functions that run a transaction for many roots store the outcomes themselves.
grant insert on rootward.outcome to rootward_set;

-- Chains, each at its home: the partition of the first step's root.
create table if not exists rootward.chain (
  partition integer not null,
  entity text not null,
  root_key text not null,
  id uuid not null,
  definition text not null,
  version integer not null,
  -- No check here and below: PostgreSQL reads and plans each anew in every statement that writes the table.
  status text not null,
  -- Counts the firm changes of this row: whoever doesn't know of the last of them changes nothing any more.
  revision integer not null default 0,
  plan json not null,
  input json not null,
  labels jsonb not null default '{}',
  fingerprint bytea not null,
  issued_at timestamptz not null,
  deadline timestamptz,
  -- Why it goes back though no step was refused.
  called_back text,
  step text,
  error jsonb,
  result json,
  -- By step: when its timer is due or its signal too late, in milliseconds.
  waits jsonb not null default '{}',
  -- Attempts of the step where it stands, and how often a driver was lost since it last came on.
  attempts integer not null default 0,
  recoveries integer not null default 0,
  next_attempt_at timestamptz not null,
  -- Roots refuse its steps after this moment; every driver moves it on before it sends anything.
  expires_at timestamptz not null,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  ended_at timestamptz,
  is_collected boolean not null default false,
  -- The id first: it is looked for alone. The root keeps it unique per root, the partition lets it move.
  primary key (id, partition, entity, root_key)
);
-- Lists of open chains by status, and the scan for those that are due. Ended chains have no entry.
create index if not exists chain_open on rootward.chain (status, next_attempt_at, id) where ended_at is null;
-- Lists of the newest open chains.
create index if not exists chain_newest on rootward.chain (status, created_at) where ended_at is null;

-- What people did to a chain.
create table if not exists rootward.chain_event (
  partition integer not null,
  id uuid not null,
  at timestamptz not null default clock_timestamp(),
  event text not null,
  reason text not null,
  by text not null,
  -- From 1 in each chain: a counter of this database would meet the numbers of chains that come from another peer.
  number bigint not null,
  primary key (partition, id, number)
);
alter table rootward.chain_event alter column number drop identity if exists;

-- A counter that is replicated with the reference tables: equal counters mean equal copies.
create table if not exists rootward.reference_version (
  only_row boolean primary key default true check (only_row),
  version bigint not null
);

-- The root key of the unit that is running if it is of this entity, else NULL, which no row equals.
create or replace function rootward.root_key(entity text) returns text language sql stable parallel safe
return case when split_part(current_setting('backtrace_functions'), ' ', 1) = 'r_' || entity
            then convert_from(decode(split_part(current_setting('backtrace_functions'), ' ', 2), 'hex'), 'UTF8') end;

-- Functions of older builds that took other parameters, or returned nothing.
do $$ declare old regprocedure;
begin
  for old in select p.oid::regprocedure from pg_proc p where p.pronamespace = 'rootward'::regnamespace
      and (p.proname = 'record' and p.pronargs > 4 or p.proname = 'find_outcomes' and p.pronargs > 2
        or p.proname in ('open_chains', 'note_chains') and p.pronargs > 3
        or p.proname = 'open_chains' and p.proargtypes[2] = 'bool'::regtype
        or p.proname = 'append_journal' and p.pronargs > 2
        or p.proname = 'check_secret' and p.prorettype = 'void'::regtype) loop
    execute format('drop function %s', old);
  end loop;
end $$;

-- What our functions are given, a row each: one array of rows costs less than an array for each column.
do $$ begin
  if to_regtype('rootward.request') is null then
    -- What an outcome keeps of its request; the first seven columns are its key.
    create type rootward.request as (partition integer, entity text, root_key text, request_id uuid, step integer, element integer,
      direction text, transaction text, fingerprint bytea, in_chain boolean, issued_at timestamptz);
    -- A chain that starts.
    create type rootward.chain_start as (partition integer, entity text, root_key text, id uuid, definition text, version integer,
      plan json, input json, labels jsonb, fingerprint bytea, issued_at timestamptz, deadline timestamptz, status text,
      next_attempt_at timestamptz, expires_at timestamptz, ended_at timestamptz);
    -- How far a chain is, and what a person did to it.
    create type rootward.chain_note as (partition integer, entity text, root_key text, id uuid, revision integer, is_firm boolean,
      status text, called_back text, step text, error jsonb, result json, waits jsonb, attempts integer, recoveries integer,
      next_attempt_at timestamptz, expires_at timestamptz, ended_at timestamptz, event text, reason text, by text);
  end if;
end $$;

-- Who holds the secret speaks for the worker that took the peer over last: a new worker makes a new secret, and replaces this by
-- a function that compares with its hash. It is one expression, which PL/pgSQL evaluates without starting a statement.
create or replace function rootward.refuse_secret() returns boolean language plpgsql stable as $$
begin
  raise exception 'the secret of this session is not the one in force' using errcode = 'RW001';
end $$;
create or replace function rootward.check_secret(secret bytea) returns boolean language sql stable
return case when exists (select from rootward.peer_state where secret_hash = sha256(secret)) then true else rootward.refuse_secret() end;

-- What keeps a batch from running, if anything does: another worker's term, or partitions that the peer doesn't own in these epochs.
create or replace function rootward.check_batch(secret bytea, term bigint, version bigint, partitions integer[], epochs bigint[]) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare is_in_force boolean; is_newest boolean; is_known boolean;
begin
  select s.secret_hash = sha256(secret), s.term = check_batch.term, s.ownership_version = version
    into is_in_force, is_newest, is_known from rootward.peer_state s;
  if is_in_force is not true then
    raise exception 'the secret of this session is not the one in force' using errcode = 'RW001';
  end if;
  if is_newest is not true then
    raise exception 'this worker''s term % is over', term using errcode = 'RW001';
  end if;
  -- Only here: an expression with a query in it is a statement of its own, whether or not it comes to that.
  if is_known is not true and (select count(*) from unnest(partitions, epochs) as claimed(partition, epoch)
      join rootward.ownership o on o.partition = claimed.partition and o.epoch = claimed.epoch and o.state = 'owned') <> cardinality(partitions) then
    raise exception 'this peer does not own all partitions of the batch' using errcode = 'RW002';
  end if;
end $$;

-- The first statement of every batch: this worker's term is the newest, and the peer owns these partitions in these
-- epochs. They were read with a version of the table; as long as that is its version, nobody needs to look again. The shared
-- lock keeps a change of owner out until COMMIT: one for the whole peer, as one for each partition was a twentieth of a batch.
-- Every batch pays for it, so it does without a search path of its own, which would be a quarter more: every name is qualified.
create or replace function rootward.begin_batch(secret bytea, term bigint, version bigint, partitions integer[], epochs bigint[]) returns void
language plpgsql volatile security definer as $$
declare
  -- As a value, since PERFORM would start a statement for it. What follows reads what is committed then.
  is_locked pg_catalog.bool := pg_catalog.pg_advisory_xact_lock_shared(20825, 0) is not null;
  is_sound pg_catalog.bool;
begin
  select s.secret_hash operator(pg_catalog.=) pg_catalog.sha256(secret) and s.term operator(pg_catalog.=) begin_batch.term
      and s.ownership_version operator(pg_catalog.=) version
    into is_sound from rootward.peer_state s;
  if is_sound is not true then
    perform rootward.check_batch(secret, term, version, partitions, epochs);
  end if;
end $$;

-- Sets the root that row security lets through until the end of the transaction or of the savepoint. It runs for each unit, so it does
-- without a search path of its own, which would be a fifth more: every name is qualified, and there is no operator. As values, since PERFORM
-- would start a statement.
create or replace function rootward.enter(secret bytea, context text) returns void
language plpgsql volatile security definer as $$
declare
  is_in_force pg_catalog.bool := rootward.check_secret(secret);
  entered pg_catalog.text := pg_catalog.set_config('backtrace_functions', context, true);
begin
end $$;

-- The stored outcomes among these requests, each with its place (from 0) in the array.
create or replace function rootward.find_outcomes(secret bytea, requests rootward.request[])
returns table (ordinal integer, kind text, transaction text, fingerprint bytea, reply bytea, recorded_at_ms bigint, answer text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_hashjoin = off set enable_mergejoin = off as $$
declare is_in_force boolean := rootward.check_secret(secret);
begin
  return query select (u.ordinality - 1)::integer, o.kind, o.transaction, o.fingerprint, o.reply, (extract(epoch from o.at) * 1000)::bigint, to_json(o.answer)::text
    from unnest(requests) with ordinality as u
    -- OFFSET 0 keeps the planner from turning the join around: a plan that was made while the table was empty stays.
    cross join lateral (select * from rootward.outcome o where (o.partition, o.entity, o.root_key, o.request_id, o.step, o.element, o.direction)
      = (u.partition, u.entity, u.root_key, u.request_id, u.step, u.element, u.direction) offset 0) o;
end $$;

-- Writes outcomes. One that is there already is an error, which takes the whole batch back.
create or replace function rootward.record(secret bytea, requests rootward.request[], kinds text[], replies bytea[]) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare is_in_force boolean := rootward.check_secret(secret);
begin
  insert into rootward.outcome (partition, entity, root_key, request_id, step, element, direction, transaction, fingerprint, in_chain, issued_at, kind, reply)
    select * from unnest(requests, kinds, replies);
end $$;

-- Rows of chains, each in the same commit as its first step, or before it if the start is scheduled. If outcomes were stored before this, in
-- the same commit, it is said how many: the first step's only, or those of all steps. A chain whose first step has none gets no row; but if all
-- steps of one were to be in this commit, that is an error, as it is if one of theirs is missing. So is a chain that is there already. An error
-- takes the whole batch back. Returns nothing. Without a search path of its own, as above.
create or replace function rootward.open_chains(secret bytea, chains rootward.chain_start[], recorded integer[])
returns table (place integer, value text)
language plpgsql volatile security definer as $$
#variable_conflict use_column
declare is_in_force pg_catalog.bool := rootward.check_secret(secret); opened pg_catalog.int8;
begin
  insert into rootward.chain (partition, entity, root_key, id, definition, version, plan, input, labels, fingerprint, issued_at, deadline,
      status, next_attempt_at, expires_at, ended_at)
    select n.partition, n.entity, n.root_key, n.id, n.definition, n.version, n.plan, n.input, n.labels, n.fingerprint, n.issued_at, n.deadline,
      n.status, n.next_attempt_at, n.expires_at, n.ended_at
    from pg_catalog.unnest(chains) with ordinality as n
    -- Joined, as a subquery behind OR may be run by reading the whole table; OFFSET 0 as above. The fingerprint is of the chain's input, so
    -- these are no steps of a chain with the same id and another home.
    left join lateral (select pg_catalog.count(*) as done,
          pg_catalog.bool_or(o.partition operator(pg_catalog.=) n.partition and o.entity operator(pg_catalog.=) n.entity
            and o.root_key operator(pg_catalog.=) n.root_key and o.step operator(pg_catalog.=) 0 and o.element operator(pg_catalog.=) 0) as has_first
        from rootward.outcome o where o.request_id operator(pg_catalog.=) n.id and o.in_chain and o.fingerprint operator(pg_catalog.=) n.fingerprint
          and o.direction operator(pg_catalog.=) 'do' and o.kind operator(pg_catalog.=) 'done' offset 0) stored on recorded is not null
    where recorded is null or stored.has_first and stored.done operator(pg_catalog.>=) recorded[n.ordinality];
  get diagnostics opened = row_count;
  if opened operator(pg_catalog.<) pg_catalog.cardinality(chains) and 1 operator(pg_catalog.<) any (recorded) then
    raise exception 'not all steps of a chain are in the commit of its start' using errcode = 'RW004';
  end if;
end $$;

-- Progress of chains at their home, each by a driver or a person that knows of every firm change before. What is written
-- lazily is not firm: it may come late, and then changes nothing. An ended chain never opens again, but for one that failed
-- and is compensated. No chain comes twice in one call. Returns for each its place (from 0) and whether anything was changed.
create or replace function rootward.note_chains(secret bytea, notes rootward.chain_note[]) returns table (place integer, value text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare is_in_force boolean := rootward.check_secret(secret); changed integer[]; has_deeds boolean;
begin
  with written as (
    update rootward.chain c set
        revision = c.revision + n.is_firm::integer,
        status = n.status, called_back = coalesce(n.called_back, c.called_back), step = n.step, error = n.error,
        result = coalesce(n.result, c.result), waits = coalesce(n.waits, c.waits), attempts = n.attempts,
        recoveries = n.recoveries, next_attempt_at = n.next_attempt_at, expires_at = greatest(c.expires_at, n.expires_at),
        ended_at = n.ended_at, updated_at = clock_timestamp(),
        -- A person's word lifts a deadline that has passed: else it would undo what was just repaired.
        deadline = case when n.event in ('replay', 'skip', 'resume') and c.deadline <= n.next_attempt_at then null else c.deadline end
      from (
        select n.*, found.row
        from unnest(notes) with ordinality as n
        cross join lateral (
          select c.ctid as row from rootward.chain c
          where c.id = n.id and c.partition = n.partition and c.entity = n.entity and c.root_key = n.root_key
            and c.revision = n.revision and not c.is_collected
            and (c.ended_at is null or c.status = 'failed' and n.event = 'compensate')
          offset 0) found) n
      where c.ctid = n.row
      returning n.ordinality::integer as place, n.event)
    select array_agg(w.place), bool_or(w.event is not null) into changed, has_deeds from written w;
  if has_deeds then
    insert into rootward.chain_event (partition, id, event, reason, by, number)
      select n.partition, n.id, n.event, n.reason, n.by,
        (select coalesce(max(e.number), 0) + 1 from rootward.chain_event e where e.partition = n.partition and e.id = n.id)
      from unnest(notes) with ordinality as n
      where n.event is not null and n.ordinality = any (changed);
  end if;
  return query select n.place::integer - 1, case when n.place = any (coalesce(changed, '{}')) then 't' else 'f' end
    from generate_series(1, cardinality(notes)) as n (place);
end $$;

-- Takes away outcomes of requests issued before a moment; from then on such requests are refused in this partition.
create or replace function rootward.collect_outcomes(
  secret bytea, partition integer, issued_before timestamptz, entities text[], root_keys text[], request_ids uuid[]) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare is_in_force boolean := rootward.check_secret(secret); removed bigint;
begin
  insert into rootward.collected as c (partition, issued_before) values (collect_outcomes.partition, collect_outcomes.issued_before)
    on conflict on constraint collected_pkey do update set issued_before = greatest(c.issued_before, excluded.issued_before);
  delete from rootward.outcome where ctid = any (array(
    select o.row from unnest(entities, root_keys, request_ids) as u(entity, root_key, request_id)
    cross join lateral (select o.ctid as row from rootward.outcome o
      where o.partition = collect_outcomes.partition and o.entity = u.entity and o.root_key = u.root_key and o.request_id = u.request_id
        and not o.in_chain and o.issued_at < collect_outcomes.issued_before offset 0) o));
  get diagnostics removed = row_count;
  return removed;
end $$;

-- Takes away a chain's outcomes at one root, when its home says that it has ended; from then on no step of a chain that
-- expires as early runs in this partition.
create or replace function rootward.forget_chain(secret bytea, partition integer, entity text, root_key text, id uuid, expires_at timestamptz)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare is_in_force boolean := rootward.check_secret(secret);
begin
  insert into rootward.collected as c (partition, expired_before) values (forget_chain.partition, forget_chain.expires_at)
    on conflict on constraint collected_pkey do update set expired_before = greatest(c.expired_before, excluded.expired_before);
  delete from rootward.outcome o where o.partition = forget_chain.partition and o.entity = forget_chain.entity
    and o.root_key = forget_chain.root_key and o.request_id = forget_chain.id and o.in_chain;
end $$;

-- Marks an ended chain, so that nobody opens it again while its roots forget it; then takes its row away. A start with its
-- id is refused from then on.
create or replace function rootward.collect_chain(
  secret bytea, partition integer, entity text, root_key text, id uuid, ended_before timestamptz, is_last boolean) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare is_in_force boolean := rootward.check_secret(secret); issued timestamptz;
begin
  update rootward.chain c set is_collected = true
    where c.partition = collect_chain.partition and c.entity = collect_chain.entity and c.root_key = collect_chain.root_key
      and c.id = collect_chain.id and c.ended_at < collect_chain.ended_before
    returning c.issued_at into issued;
  if issued is null then
    return false;
  end if;
  if is_last then
    insert into rootward.collected as k (partition, issued_before) values (collect_chain.partition, issued + interval '1 millisecond')
      on conflict on constraint collected_pkey do update set issued_before = greatest(k.issued_before, excluded.issued_before);
    delete from rootward.chain_event e where e.partition = collect_chain.partition and e.id = collect_chain.id;
    delete from rootward.chain c where c.partition = collect_chain.partition and c.entity = collect_chain.entity
      and c.root_key = collect_chain.root_key and c.id = collect_chain.id;
  end if;
  return true;
end $$;

-- Counts a change of the reference data, in the same commit.
create or replace function rootward.bump_reference(secret bytea) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare is_in_force boolean := rootward.check_secret(secret); new_version bigint;
begin
  update rootward.reference_version r set version = r.version + 1 returning r.version into new_version;
  return new_version;
end $$;

-- One way or the other of a change of owner. The exclusive lock waits for the peer's batches that are under way.
create or replace function rootward.release_partition(p integer) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare old_epoch bigint;
begin
  perform pg_advisory_xact_lock(20825, 0);
  update rootward.ownership set state = 'released' where partition = p and state = 'owned' returning epoch into old_epoch;
  return old_epoch;
end $$;
create or replace function rootward.own_partition(p integer, new_epoch bigint) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(20825, 0);
  insert into rootward.ownership values (p, new_epoch, 'owned')
    on conflict (partition) do update set epoch = excluded.epoch, state = 'owned' where ownership.epoch < excluded.epoch;
end $$;

revoke execute on all functions in schema rootward from public;
grant execute on function rootward.check_secret, rootward.refuse_secret to rootward_set;
grant select (secret_hash) on rootward.peer_state to rootward_set;
grant execute on function rootward.root_key(text), rootward.begin_batch, rootward.enter, rootward.record, rootward.find_outcomes,
  rootward.open_chains, rootward.note_chains,
  rootward.collect_outcomes, rootward.forget_chain, rootward.collect_chain, rootward.bump_reference to rootward_lane;
reset role;
