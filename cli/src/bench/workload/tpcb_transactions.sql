-- name: open_account
-- root: account = :account_id
insert into account (account_id) values (:account_id);
insert into branch (account_id, branch_id) values (:account_id, 1);
insert into teller (account_id, teller_id) select :account_id, number from generate_series(1, 10) as number;

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
