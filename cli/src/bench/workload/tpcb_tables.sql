-- pgbench's fillers are char(n), which is as many blanks; a table with a char(n) is outside of the set-wise class, one with text is not.
create table account (
  account_id bigint primary key,
  balance    bigint not null default 0,
  filler     text not null default '                                                                                    '
);

create table branch (
  account_id bigint not null references account,
  branch_id  integer not null,
  balance    bigint not null default 0,
  filler     text not null default '                                                                                        ',
  primary key (account_id, branch_id)
);

create table teller (
  account_id bigint not null references account,
  teller_id  integer not null,
  balance    bigint not null default 0,
  filler     text not null default '                                                                                    ',
  primary key (account_id, teller_id)
);
