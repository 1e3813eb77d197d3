-- name: withdraw
-- root: account = :account_id
select 1 from account where account_id = :account_id;  -- expect: one, else "no such account"
update account set balance = balance - :amount where account_id = :account_id and balance >= :amount returning balance;
-- expect: one, else "insufficient funds"
insert into entry (account_id, entry_id, kind, amount, at) values (:account_id, :request_id, 'withdrawal', -:amount, :now);
