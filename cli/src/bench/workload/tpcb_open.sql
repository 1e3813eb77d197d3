-- name: open_account
-- root: account = :account_id
insert into account (account_id) values (:account_id);
insert into branch (account_id, branch_id) values (:account_id, 1);
insert into teller (account_id, teller_id) select :account_id, number from generate_series(1, 10) as number;
