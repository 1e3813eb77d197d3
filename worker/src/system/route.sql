-- Routes of the reference data: where a peer's copy comes from, and how it is made anew by another route.
--
-- Subscriptions want a superuser, and the copy is written past its triggers, so these functions belong to whoever sets the peer up.
-- They are for `rootward_system` alone and take no SQL: what may be copied is what the newest schema calls reference data.
create schema if not exists rootward_reference;
revoke all on schema rootward_reference from public;
grant usage on schema rootward_reference to rootward_system;

-- The node that this peer's subscription reads from.
create table if not exists rootward_reference.route (
  only_row boolean primary key default true check (only_row),
  source text not null,
  since timestamptz not null default clock_timestamp()
);
-- Every slot that was ever made for this peer and may be there still. One that isn't on the route is dropped as soon as its node answers:
-- it would keep that node's log for ever.
create table if not exists rootward_reference.slot (
  source text primary key,
  slot text not null,
  connection text not null
);
grant select on rootward_reference.route to rootward_system;
grant select, insert, update, delete on rootward_reference.slot to rootward_system;

-- The first thing in each step of a worker's: its term is the newest. Whoever repairs by hand has none.
create or replace function rootward_reference.guard(term bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform from rootward.peer_state s where s.term = guard.term for share;
  if not found and term is not null then
    raise exception 'this worker''s term % is over', term using errcode = 'RW001';
  end if;
end $$;

-- At the source: whoever writes reference data waits until the end of this transaction; whoever reads doesn't notice. The counter comes
-- last, as it does for those who write: else they and this would wait for each other.
create or replace function rootward_reference.hold() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '10s' as $$
declare tables text;
begin
  select string_agg(format('%I.%I', p.schemaname, p.tablename), ', ' order by p.schemaname = 'rootward', p.schemaname, p.tablename)
    into tables
    from pg_publication_tables p where p.pubname = 'rootward_reference';
  execute 'lock table ' || tables || ' in share mode';
end $$;

create or replace function rootward_reference.is_reference(namespace text, name text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select namespace = 'rootward' and name = 'reference_version'
    or namespace = 'public' and exists (
      select from jsonb_array_elements((select s.definition -> 'reference' from rootward.schema_version s order by s.version desc limit 1)) r
      where r ->> 'name' = is_reference.name)
$$;

create or replace function rootward_reference.columns_of(namespace text, name text, form text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format(form, a.attname), ', ' order by a.attnum) from pg_attribute a
    where a.attrelid = format('%I.%I', namespace, name)::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
$$;

-- Ends the subscription, whatever state it is in, and whether its source can be reached or not. What it has applied stays.
create or replace function rootward_reference.unsubscribe(term bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform rootward_reference.guard(term);
  if exists (select from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = current_database() and s.subname = 'rootward_reference') then
    alter subscription rootward_reference disable;
    -- Without its slot's name it doesn't ask the source, which may be gone.
    alter subscription rootward_reference set (slot_name = none);
    drop subscription rootward_reference;
  end if;
end $$;

-- Makes room for what comes: one table of the session's own for each of these, rootward_incoming_1 and so on, until the end of the
-- transaction. Returns their columns, for COPY.
create or replace function rootward_reference.begin_copy(namespaces text[], names text[]) returns setof text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare columns text;
begin
  for n in 1 .. cardinality(names) loop
    if rootward_reference.is_reference(namespaces[n], names[n]) is not true then
      raise exception '%.% is not reference data by the schema of this peer', namespaces[n], names[n] using errcode = 'RW008';
    end if;
    columns := rootward_reference.columns_of(namespaces[n], names[n], '%I');
    execute format('create temporary table %I on commit drop as select %s from %I.%I with no data', 'rootward_incoming_' || n, columns, namespaces[n], names[n]);
    execute format('grant insert on pg_temp.%I to rootward_system', 'rootward_incoming_' || n);
    return next columns;
  end loop;
end $$;

-- Makes the tables equal to what came, touching only rows that differ; returns how many did. The rows were checked where they were written, so no
-- trigger and no foreign key has a say. A copy never becomes older, unless whoever repairs by hand says that it may.
create or replace function rootward_reference.merge(term bigint, namespaces text[], names text[], may_be_older boolean)
returns table (name text, changed bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp set session_replication_role = replica as $$
declare
  target text; incoming text; is_same text; part bigint; old_version bigint; new_version bigint;
begin
  perform rootward_reference.guard(term);
  for n in 1 .. cardinality(names) loop
    target := format('%I.%I', namespaces[n], names[n]);
    incoming := 'rootward_incoming_' || n;
    -- What the caller made by this name is not what `begin_copy` made.
    if not exists (select from pg_class c where c.oid = to_regclass('pg_temp.' || incoming) and c.relkind = 'r' and c.relowner = current_user::regrole)
        or rootward_reference.is_reference(namespaces[n], names[n]) is not true then
      raise exception 'nothing was copied for %', target using errcode = 'RW008';
    end if;
    if names[n] = 'reference_version' and namespaces[n] = 'rootward' and not may_be_older then
      select v.version into old_version from rootward.reference_version v;
      execute format('select max(i.version) from pg_temp.%I i', incoming) into new_version;
      if coalesce(new_version, 0) < coalesce(old_version, 0) then
        raise exception 'the source shows version %, and this peer shows % already', coalesce(new_version, 0), old_version using errcode = 'RW007';
      end if;
    end if;
    select string_agg(format('t.%1$I = i.%1$I', a.attname), ' and ') into is_same from pg_index x
      join pg_attribute a on a.attrelid = x.indrelid and a.attnum = any (x.indkey) where x.indrelid = target::regclass and x.indisprimary;
    execute format('delete from %s t where not exists (select from pg_temp.%I i where %s)', target, incoming, is_same);
    get diagnostics changed = row_count;
    execute format('update %s t set %s from pg_temp.%I i where %s and row(%s)::text <> row(%s)::text', target,
      rootward_reference.columns_of(namespaces[n], names[n], '%1$I = i.%1$I'), incoming, is_same,
      rootward_reference.columns_of(namespaces[n], names[n], 't.%I'), rootward_reference.columns_of(namespaces[n], names[n], 'i.%I'));
    get diagnostics part = row_count;
    changed := changed + part;
    execute format('insert into %s (%s) select %s from pg_temp.%I i where not exists (select from %s t where %s)', target,
      rootward_reference.columns_of(namespaces[n], names[n], '%I'), rootward_reference.columns_of(namespaces[n], names[n], 'i.%I'), incoming, target, is_same);
    get diagnostics part = row_count;
    changed := changed + part;
    name := names[n];
    if namespaces[n] = 'public' then
      return next;
    end if;
  end loop;
end $$;

-- Follows the source from the slot on, which was made before, and notes the route in the same commit.
create or replace function rootward_reference.subscribe(term bigint, source text, slot text, connection text, tables integer) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform rootward_reference.guard(term);
  execute format('create subscription rootward_reference connection %L publication rootward_reference with (create_slot = false, slot_name = %L, copy_data = false)',
    connection, slot);
  -- One that was published meanwhile would be followed without having been copied.
  if (select count(*) from pg_subscription_rel r join pg_subscription s on s.oid = r.srsubid join pg_database d on d.oid = s.subdbid
      where d.datname = current_database() and s.subname = 'rootward_reference') <> tables then
    raise exception 'what is published has changed while it was copied' using errcode = 'RW008';
  end if;
  insert into rootward_reference.route as r (source) values (subscribe.source)
    on conflict (only_row) do update set source = excluded.source, since = clock_timestamp();
end $$;

do $$ declare f regprocedure; begin
  for f in select p.oid from pg_proc p where p.pronamespace = 'rootward_reference'::regnamespace loop
    execute format('revoke all on function %s from public; grant execute on function %s to rootward_system', f, f);
  end loop;
end $$;
