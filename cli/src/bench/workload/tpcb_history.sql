
create table history (
  account_id bigint not null references account,
  history_id uuid not null,
  teller_id  integer not null,
  branch_id  integer not null,
  delta      bigint not null,
  at         timestamptz not null,
  filler     text not null default '                      ',
  primary key (account_id, history_id)
);
