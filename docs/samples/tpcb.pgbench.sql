-- pgbench's built-in script `tpcb-like` over the tables of `rootward bench tpcb`:
--   rootward bench pgbench -f docs/samples/tpcb.pgbench.sql
-- Rootward reads where it runs from this comment, which is none of pgbench's business.
-- root: account = :aid
\set aid random(1, 10000 * :scale)
\set tid random(1, 10)
\set delta random(-5000, 5000)
\set hid random(1, 9223372036854775806)
BEGIN;
UPDATE account SET balance = balance + :delta WHERE account_id = :aid;
SELECT balance FROM account WHERE account_id = :aid;
UPDATE teller SET balance = balance + :delta WHERE account_id = :aid AND teller_id = :tid;
UPDATE branch SET balance = balance + :delta WHERE account_id = :aid AND branch_id = 1;
INSERT INTO history (account_id, history_id, teller_id, branch_id, delta) VALUES (:aid, :hid, :tid, 1, :delta);
END;
