-- The catalog: what exists. It lies on the hub only; every other process keeps a copy and goes on with it while the hub is down.
create schema if not exists rootward_catalog authorization rootward_system;
set role rootward_system;

-- One row. The version grows with every change below, so that a copy knows whether it is old.
create table if not exists rootward_catalog.cluster (
  only_row boolean primary key default true check (only_row),
  name text not null,
  partitions integer not null,
  version bigint not null default 1
);
create table if not exists rootward_catalog.peer (
  id text primary key,
  worker_address text not null,
  capacity integer not null check (capacity >= 0),
  region text not null default '',
  state text not null check (state in ('active', 'draining', 'removed')),
  is_hub boolean not null default false
);
-- The PostgreSQL that served the peer last: a worker at an older timeline is at a primary that was replaced.
alter table rootward_catalog.peer add column if not exists system_identifier text;
alter table rootward_catalog.peer add column if not exists timeline integer;
-- Where it stands, in degrees, if that is known.
alter table rootward_catalog.peer add column if not exists latitude double precision;
alter table rootward_catalog.peer add column if not exists longitude double precision;
-- Whether it passes reference data on to the other peers of its region; and, on a relay and the hub, how others copy from it.
alter table rootward_catalog.peer add column if not exists is_relay boolean not null default false;
alter table rootward_catalog.peer add column if not exists reference_source text not null default '';
create table if not exists rootward_catalog.partition (
  partition integer primary key,
  peer text not null references rootward_catalog.peer (id),
  epoch bigint not null,
  -- The region whose peers it never leaves; empty if it may be anywhere.
  region text not null default ''
);
do $$ begin
  -- ALTER TABLE would lock the map against its readers though there is nothing to do.
  if not exists (select from pg_attribute where attrelid = 'rootward_catalog.partition'::regclass and attname = 'region') then
    alter table rootward_catalog.partition add column region text not null default '';
  end if;
end $$;
create table if not exists rootward_catalog.schema_version (
  version integer primary key,
  definition jsonb not null,
  state text not null check (state in ('applying', 'active')),
  created_at timestamptz not null default now()
);

create or replace function rootward_catalog.changed() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update rootward_catalog.cluster set version = version + 1;
  notify rootward_catalog; -- only a wake-up: who hears it reads the tables
  return null;
end $$;
create or replace trigger changed after insert or update or delete on rootward_catalog.peer for each statement execute function rootward_catalog.changed();
create or replace trigger changed after insert or update or delete on rootward_catalog.partition for each statement execute function rootward_catalog.changed();
create or replace trigger changed after insert or update or delete on rootward_catalog.schema_version for each statement execute function rootward_catalog.changed();
reset role;
