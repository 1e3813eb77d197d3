-- A transaction is a name, the root that it runs at, and statements. Parameters are written `:name`; their types come
-- from PostgreSQL. `:request_id` and `:now` are built in: the request's id, and when the client issued it. Both stay
-- the same however often the request is sent again.

-- name: open_account
-- root: account = :account_id
insert into account (account_id, owner, balance) values (:account_id, :owner, :amount) on conflict do nothing;
-- expect: one, else "account exists already"
insert into entry (account_id, entry_id, kind, amount, at) values (:account_id, :request_id, 'opening', :amount::numeric, :now);

-- name: balance
-- root: account = :account_id
select balance, is_frozen, currency.code as currency, currency.name as currency_name
from account join currency on currency.code = account.currency
where account_id = :account_id;  -- expect: one, else "no such account"

-- name: history
-- root: account = :account_id
select entry_id, kind, amount, at from entry
where account_id = :account_id
order by at desc, entry_id
limit :count::integer;

-- name: freeze
-- root: account = :account_id
update account set is_frozen = true where account_id = :account_id;  -- expect: one, else "no such account"

-- name: unfreeze
-- root: account = :account_id
update account set is_frozen = false where account_id = :account_id;  -- expect: one, else "no such account"

-- One call of a PL/pgSQL function.
-- name: close_month
-- root: account = :account_id
select apply_interest(:account_id, :rate, :request_id, :now) as interest;
