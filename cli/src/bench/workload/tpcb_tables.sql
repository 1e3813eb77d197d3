create table account (
  account_id bigint primary key,
  balance    bigint not null default 0,
  filler     char(84) not null default ''
);

create table branch (
  account_id bigint not null references account,
  branch_id  integer not null,
  balance    bigint not null default 0,
  filler     char(88) not null default '',
  primary key (account_id, branch_id)
);

create table teller (
  account_id bigint not null references account,
  teller_id  integer not null,
  balance    bigint not null default 0,
  filler     char(84) not null default '',
  primary key (account_id, teller_id)
);

create table history (
  account_id bigint not null references account,
  history_id uuid not null,
  teller_id  integer not null,
  branch_id  integer not null,
  delta      bigint not null,
  at         timestamptz not null,
  filler     char(22) not null default '',
  primary key (account_id, history_id)
);
