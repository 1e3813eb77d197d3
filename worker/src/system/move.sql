-- Moving partitions: what a peer does as the source or the target of a move.
--
-- Subscriptions want a superuser, and publications the owner of their tables, so these functions belong to whoever sets the peer up.
-- They are for `rootward_system` alone and take no SQL: tables and their conditions come from `movable`, which only set-up writes.
create schema if not exists rootward_move;
revoke all on schema rootward_move from public;
grant usage on schema rootward_move to rootward_system, rootward_reader;

-- Everything that belongs to a partition, and how a row tells its partition. A table of ours is added here and nowhere else;
-- those of the trees are written by `schema apply`. The columns of the expression must be in the primary key.
create table if not exists rootward_move.movable (
  namespace text not null,
  name text not null,
  partition_expression text not null,
  primary key (namespace, name)
);
delete from rootward_move.movable where namespace = 'rootward';
insert into rootward_move.movable values
  ('rootward', 'outcome', 'partition'),
  ('rootward', 'chain', 'partition'),
  ('rootward', 'chain_event', 'partition'),
  ('rootward', 'journal', 'partition'),
  ('rootward', 'collected', 'partition');

-- Partitions whose rows lie here though this peer doesn't own them: `in` are being copied hither; `out` are released, and
-- nobody owns them until the hub decides; `gone` belong to another peer, and their rows are being taken away.
create table if not exists rootward_move.transit (
  partition integer primary key,
  move uuid not null,
  state text not null check (state in ('in', 'out', 'gone'))
);
-- The highest term of a mover that has been here: one of an older term is asleep or cut off, and changes nothing any more.
create table if not exists rootward_move.mover (
  only_row boolean primary key default true check (only_row),
  term bigint not null default 0
);
insert into rootward_move.mover default values on conflict do nothing;
grant select on rootward_move.movable, rootward_move.transit, rootward_move.mover to rootward_system;

-- Partitions whose rows nobody may read here.
create or replace function rootward_move.hidden() returns integer[]
language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp as $$
  select coalesce(array_agg(partition), '{}') from rootward_move.transit
$$;

-- Chains and outcomes of the partitions that are here.
create or replace view rootward_move.chain as select * from rootward.chain where partition <> all ((select rootward_move.hidden())::integer[]);
create or replace view rootward_move.outcome as select * from rootward.outcome where partition <> all ((select rootward_move.hidden())::integer[]);
grant select on rootward_move.chain, rootward_move.outcome to rootward_system;

-- Publication, slot and subscription of a move have one name.
create or replace function rootward_move.name_of(move uuid) returns name language sql immutable set search_path = pg_catalog, pg_temp as $$
  select ('rootward_move_' || replace(move::text, '-', ''))::name
$$;

-- The first thing in each step: the worker's term and the mover's are the newest, until the step is committed. A change of owners updates
-- the peer's row too; a weaker lock here would have to be made stronger there, and two steps would wait for each other.
create or replace function rootward_move.guard(term bigint, mover_term bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform from rootward.peer_state s where s.term = guard.term for no key update;
  if not found then
    raise exception 'this worker''s term % is over', term using errcode = 'RW001';
  end if;
  update rootward_move.mover m set term = mover_term where m.term <= mover_term;
  if not found then
    raise exception 'another worker moves partitions now: the term % of the hub is over', mover_term using errcode = 'RW005';
  end if;
end $$;

-- At the target, before anything is copied. What lies here of these partitions is nobody's from now on.
create or replace function rootward_move.arrive(term bigint, mover_term bigint, move uuid, partitions integer[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform rootward_move.guard(term, mover_term);
  perform pg_advisory_xact_lock(20825, 0);
  if exists (select from rootward.ownership o where o.partition = any (partitions) and o.state = 'owned') then
    raise exception 'this peer owns a partition that is to come' using errcode = 'RW006';
  end if;
  insert into rootward_move.transit select unnest(partitions), arrive.move, 'in' on conflict on constraint transit_pkey do nothing;
  if exists (select from rootward_move.transit t where t.partition = any (partitions) and (t.move <> arrive.move or t.state <> 'in')) then
    raise exception 'another move of these partitions is not cleaned up here' using errcode = 'RW006';
  end if;
end $$;

-- At the source. The exclusive lock waits for the batches under way; none of these partitions begins here any more.
create or replace function rootward_move.release(term bigint, mover_term bigint, move uuid, partitions integer[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform rootward_move.guard(term, mover_term);
  perform pg_advisory_xact_lock(20825, 0);
  insert into rootward_move.transit select o.partition, release.move, 'out' from rootward.ownership o
    where o.partition = any (partitions) and o.state = 'owned';
  update rootward.ownership o set state = 'released' where o.partition = any (partitions) and o.state = 'owned';
  if (select count(*) from rootward_move.transit t where t.partition = any (partitions) and t.move = release.move and t.state = 'out')
      <> cardinality(partitions) then
    raise exception 'this peer doesn''t own all partitions of the move' using errcode = 'RW006';
  end if;
end $$;

-- At the source, when the hub has decided that nothing moves. Nobody wrote these partitions meanwhile, so the epoch stays.
create or replace function rootward_move.take_back(term bigint, mover_term bigint, move uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform rootward_move.guard(term, mover_term);
  perform pg_advisory_xact_lock(20825, 0);
  update rootward.ownership o set state = 'owned' from rootward_move.transit t
    where t.partition = o.partition and t.move = take_back.move and t.state = 'out';
  delete from rootward_move.transit t where t.move = take_back.move and t.state = 'out';
end $$;

-- At the target, when the hub has decided that it is the owner.
create or replace function rootward_move.own(term bigint, mover_term bigint, move uuid, partitions integer[], epochs bigint[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform rootward_move.guard(term, mover_term);
  perform pg_advisory_xact_lock(20825, 0);
  delete from rootward_move.transit t where t.move = own.move and t.state = 'in';
  insert into rootward.ownership select p, e, 'owned' from unnest(partitions, epochs) as n (p, e)
    on conflict (partition) do update set epoch = excluded.epoch, state = 'owned' where ownership.epoch < excluded.epoch;
end $$;

-- At the source, when the target owns them.
create or replace function rootward_move.settle(term bigint, mover_term bigint, move uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform rootward_move.guard(term, mover_term);
  perform pg_advisory_xact_lock(20825, 0);
  delete from rootward.ownership o using rootward_move.transit t
    where t.partition = o.partition and t.move = settle.move and t.state = 'out' and o.state = 'released';
  update rootward_move.transit t set state = 'gone' where t.move = settle.move and t.state = 'out';
end $$;

-- The last step on either side: no row of these partitions is left here.
create or replace function rootward_move.forget(term bigint, mover_term bigint, move uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform rootward_move.guard(term, mover_term);
  delete from rootward_move.transit t where t.move = forget.move and t.state in ('in', 'gone');
end $$;

-- Publishes the rows of these partitions, and nothing else.
create or replace function rootward_move.publish(term bigint, mover_term bigint, move uuid, partitions integer[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare tables text;
begin
  perform rootward_move.guard(term, mover_term);
  if current_setting('wal_level') <> 'logical' then
    raise exception 'wal_level is %, and moving a partition away needs logical', current_setting('wal_level') using errcode = 'RW006';
  end if;
  if exists (select from pg_publication where pubname = rootward_move.name_of(move)) then
    return;
  end if;
  select string_agg(format('table %I.%I where (%s = any (%L::integer[]))', m.namespace, m.name, m.partition_expression, partitions), ', ')
    into tables from rootward_move.movable m;
  execute format('create publication %I for %s', rootward_move.name_of(move), tables);
end $$;

create or replace function rootward_move.unpublish(move uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  execute format('drop publication if exists %I', rootward_move.name_of(move));
end $$;

-- Copies and follows. The slot is made by a statement of its own before, since CREATE SUBSCRIPTION would wait for itself where both
-- databases are in one PostgreSQL cluster. What it has applied is flushed before the source hears of it.
create or replace function rootward_move.subscribe(term bigint, mover_term bigint, move uuid, connection text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare subscription name := rootward_move.name_of(move);
begin
  perform rootward_move.guard(term, mover_term);
  if exists (select from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = current_database() and s.subname = subscription) then
    execute format('alter subscription %I connection %L', subscription, connection);
    return;
  end if;
  execute format('create subscription %I connection %L publication %I with (create_slot = false, slot_name = %L, copy_data = true, synchronous_commit = on)',
    subscription, connection, subscription, subscription);
end $$;

-- Has its workers end; those that are under way do so by themselves. It is a transaction of its own: where both databases are in one PostgreSQL
-- cluster, a worker that makes a slot for a copy waits for all transactions that are under way, and the end of the subscription waits for that slot.
create or replace function rootward_move.disable(move uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare subscription name := rootward_move.name_of(move);
begin
  if exists (select from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = current_database() and s.subname = subscription) then
    execute format('alter subscription %I disable', subscription);
  end if;
end $$;

-- Ends it, whether the source can be reached or not. Returns its number, by which the slots of copies that had not ended are named.
create or replace function rootward_move.unsubscribe(move uuid) returns oid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare subscription name := rootward_move.name_of(move); number oid;
begin
  select s.oid into number from pg_subscription s join pg_database d on d.oid = s.subdbid
    where d.datname = current_database() and s.subname = subscription;
  if number is not null then
    execute format('alter subscription %I disable', subscription);
    execute format('alter subscription %I set (slot_name = none)', subscription);
    execute format('drop subscription %I', subscription);
  end if;
  return number;
end $$;

-- How far the first copy is: tables, those that are there and follow, and rows copied by the copies under way.
create or replace function rootward_move.copied(move uuid, out tables bigint, out ready bigint, out rows bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select count(*), count(*) filter (where r.srsubstate = 'r'),
      coalesce(sum(case when r.srsubstate in ('i', 'd') then p.tuples_processed else pg_stat_get_live_tuples(r.srrelid) end), 0)::bigint
    from pg_subscription s join pg_database d on d.oid = s.subdbid and d.datname = current_database()
    join pg_subscription_rel r on r.srsubid = s.oid
    left join pg_stat_progress_copy p on p.relid = r.srrelid and p.datname = current_database()
    where s.subname = rootward_move.name_of(move)
$$;

-- By table: rows of these partitions, and the sum of the hashes of their texts, which no order changes. Columns go by their names, since
-- a peer that was added later may have them in another order.
create or replace function rootward_move.digest(partitions integer[])
returns table (name text, rows bigint, digest text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set datestyle = 'ISO' set intervalstyle = 'postgres' set timezone = 'UTC' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare m record; columns text;
begin
  for m in select * from rootward_move.movable order by 1, 2 loop
    select string_agg(format('t.%I', a.attname), ', ' order by a.attname) into columns from pg_attribute a
      where a.attrelid = format('%I.%I', m.namespace, m.name)::regclass and a.attnum > 0 and not a.attisdropped;
    return query execute format('select %L::text, count(*), coalesce(sum(hashtextextended(row(%s)::text collate "C", 0)::numeric), 0)::text from %I.%I t where %s = any (%L::integer[])',
      m.namespace || '.' || m.name, columns, m.namespace, m.name, m.partition_expression, partitions);
  end loop;
end $$;

-- By partition: rows and bytes of all tables.
create or replace function rootward_move.sizes() returns table (partition integer, rows bigint, bytes bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare parts text;
begin
  select string_agg(format('select %s, count(*), sum(pg_column_size(t.*))::bigint from %I.%I t group by 1', m.partition_expression, m.namespace, m.name), ' union all ')
    into parts from rootward_move.movable m;
  return query execute format('select p, sum(r)::bigint, sum(b)::bigint from (%s) as all_parts (p, r, b) group by 1', parts);
end $$;

-- Takes away rows of a move's partitions from a range of a table's pages. They belong to nobody here, and the shared lock keeps it so
-- until COMMIT; no trigger of the user's fires and no foreign key is followed, since whole trees go.
create or replace function rootward_move.clean(term bigint, mover_term bigint, move uuid, namespace text, name text, first_page bigint, end_page bigint)
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp set session_replication_role = replica as $$
declare removed bigint; partitions integer[]; condition text;
begin
  perform rootward_move.guard(term, mover_term);
  perform pg_advisory_xact_lock_shared(20825, 0);
  select array_agg(t.partition) into partitions from rootward_move.transit t where t.move = clean.move and t.state in ('in', 'gone');
  if exists (select from rootward.ownership o where o.partition = any (partitions) and o.state = 'owned') then
    raise exception 'this peer owns a partition that was to be cleaned' using errcode = 'RW006';
  end if;
  select m.partition_expression into strict condition from rootward_move.movable m where m.namespace = clean.namespace and m.name = clean.name;
  execute format('delete from %I.%I where ctid >= %L::tid and ctid < %L::tid and %s = any ($1)',
    clean.namespace, clean.name, format('(%s,0)', first_page), format('(%s,0)', end_page), condition) using partitions;
  get diagnostics removed = row_count;
  return removed;
end $$;

do $$ declare f regprocedure; begin
  for f in select p.oid from pg_proc p where p.pronamespace = 'rootward_move'::regnamespace loop
    execute format('revoke all on function %s from public; grant execute on function %s to rootward_system', f, f);
  end loop;
end $$;
grant execute on function rootward_move.hidden to rootward_reader;
