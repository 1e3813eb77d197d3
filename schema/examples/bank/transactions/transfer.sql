-- The steps of the chain `transfer`. They are transactions like any other; their entries have a kind of their own, so
-- that `verify` can see that transfers add up to zero.

-- name: transfer_out
-- root: account = :account_id
select 1 from account where account_id = :account_id;  -- expect: one, else "no such account"
update account set balance = balance - :amount where account_id = :account_id and balance >= :amount returning balance;
-- expect: one, else "insufficient funds"
-- A transfer of less than nothing would take from the other account, and what undoes it could be refused.
insert into entry (account_id, entry_id, kind, amount, at)
select :account_id, :request_id, 'transfer', -:amount::numeric, :now where :amount >= 0;
-- expect: one, else "an amount is not negative"

-- name: transfer_in
-- root: account = :account_id
select 1 from account where account_id = :account_id;  -- expect: one, else "no such account"
update account set balance = balance + :amount where account_id = :account_id and not is_frozen returning balance;
-- expect: one, else "account is frozen"
insert into entry (account_id, entry_id, kind, amount, at) values (:account_id, :request_id, 'transfer', :amount, :now);

-- Undoes transfer_out. It expects nothing and asks nobody whether the account is frozen: a compensation must work.
-- Inside a chain `:request_id` is another one for undoing than for doing, so the two entries don't collide.
-- name: transfer_back
-- root: account = :account_id
update account set balance = balance + :amount where account_id = :account_id;
insert into entry (account_id, entry_id, kind, amount, at) values (:account_id, :request_id, 'transfer', :amount, :now);
