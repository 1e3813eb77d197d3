
-- A script for pgbench draws the id by itself: pgbench has no uuid, and what a default calls, lanes can't run set-wise.
create table history (
  account_id bigint not null references account,
  history_id bigint not null,
  teller_id  integer not null,
  branch_id  integer not null,
  delta      bigint not null,
  at         timestamptz not null default now(),
  filler     text not null default '                      ',
  primary key (account_id, history_id)
);
