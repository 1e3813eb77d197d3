-- name: open_account
-- root: account = :u
insert into t (u, v) values (:u, 0) on conflict do nothing;  -- expect: one, else "account exists already"

-- name: look
-- root: account = :u
select v from t where u = :u;  -- expect: one, else "no such account"

-- name: take
-- root: account = :u
update t set v = v - 1 where u = :u;  -- expect: one, else "no such account"

-- name: give
-- root: account = :u
update t set v = v + 1 where u = :u;  -- expect: one, else "no such account"

-- Undoes `take`. It expects nothing: a compensation must work.
-- name: give_back
-- root: account = :u
update t set v = v + 1 where u = :u;
