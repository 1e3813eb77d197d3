-- The five statements of pgbench's built-in script `tpcb-like`.
-- name: tpcb
-- root: account = :account_id
update account set balance = balance + :delta where account_id = :account_id;  -- expect: one, else "no such account"
select balance from account where account_id = :account_id;
update teller set balance = balance + :delta where account_id = :account_id and teller_id = :teller_id;
-- expect: one, else "no such teller"
update branch set balance = balance + :delta where account_id = :account_id and branch_id = 1;
insert into history (account_id, history_id, teller_id, branch_id, delta, at)
values (:account_id, :request_id, :teller_id, 1, :delta, :now);
