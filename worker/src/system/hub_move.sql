-- Moves of partitions: what was decided, and how far it is. Whoever holds the hub's term drives them on from here.
set role rootward_system;
-- How other peers' PostgreSQL reaches this one; its worker says so.
alter table rootward_catalog.peer add column if not exists replication text not null default '';
create table if not exists rootward_catalog.move (
  id uuid primary key,
  partitions integer[] not null,
  source text not null,
  target text not null,
  -- By partition: the epoch in which the source owns it.
  epochs bigint[] not null,
  stage text not null,
  reason text not null default '',
  -- Why it doesn't go on at the moment, or why it was given up.
  error text,
  rows_total bigint,
  rows_copied bigint not null default 0,
  rows_cleaned bigint not null default 0,
  tables integer not null default 0,
  tables_ready integer not null default 0,
  -- How often the switch was tried, and for how long the last one held the partitions, in microseconds.
  switches integer not null default 0,
  held_us bigint,
  is_verified boolean not null default false,
  started_at timestamptz not null default clock_timestamp(),
  copied_at timestamptz,
  updated_at timestamptz not null default clock_timestamp(),
  ended_at timestamptz
);
create index if not exists move_open on rootward_catalog.move (started_at) where ended_at is null;
reset role;
