-- Ordinary PostgreSQL, applied to every peer in this order.

-- Reference data: a table that is listed under [reference] in rootward.toml. Trees may refer to it, and read it in joins.
create table currency (
  code         text primary key,
  name         text not null,
  minor_digits integer not null default 2
);

-- The root table. Every account is a root: all that belongs to it lives in one database.
create table account (
  account_id bigint primary key,
  owner      text not null,
  currency   text not null default 'EUR' references currency,
  balance    numeric(20, 2) not null default 0,
  is_frozen  boolean not null default false,
  -- A CHECK is a business refusal, too: whoever would overdraw is told this name.
  constraint account_balance_within_limit check (balance >= 0)
);

-- A sub-entity. It refers to its root, and its primary key begins with the root key, so that it is found, moved and
-- checked with its account. `entry_id` is the request's id: the same request never makes a second entry.
create table entry (
  account_id bigint not null references account,
  entry_id   uuid not null,
  kind       text not null,
  amount     numeric(20, 2) not null,
  at         timestamptz not null,
  primary key (account_id, entry_id),
  constraint entry_kind_known check (kind in ('opening', 'deposit', 'withdrawal', 'transfer', 'interest')),
  -- A deposit of less than nothing would be a withdrawal that nobody checked.
  constraint entry_amount_has_right_sign check (case kind when 'withdrawal' then amount <= 0 when 'transfer' then true else amount >= 0 end)
);

-- Interest on the balance, at `rate` per cent, rounded to the currency's minor unit. A function of the schema runs with
-- the rights of its caller, so it sees one account and nothing else.
create function apply_interest(id bigint, rate numeric, request uuid, moment timestamptz) returns numeric
language plpgsql as $$
declare
  earned numeric;
begin
  select round(account.balance * rate / 100, currency.minor_digits) into earned
  from account join currency on currency.code = account.currency
  where account.account_id = id;
  if not found then
    -- RAISE is a business refusal as well.
    raise exception 'no such account';
  end if;
  update account set balance = balance + earned where account_id = id;
  insert into entry (account_id, entry_id, kind, amount, at) values (id, request, 'interest', earned, moment);
  return earned;
end
$$;
