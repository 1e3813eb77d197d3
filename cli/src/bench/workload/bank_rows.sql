-- A deposit outside the class of transactions that lanes run set-wise: what a function of the schema does is not proven.

-- name: deposit_by_rows
-- root: account = :account_id
select 1 from account where account_id = :account_id;  -- expect: one, else "no such account"
update account set balance = after_deposit(balance, :amount) where account_id = :account_id and not is_frozen returning balance;
-- expect: one, else "account is frozen"
insert into entry (account_id, entry_id, kind, amount, at) values (:account_id, :request_id, 'deposit', :amount, :now);
