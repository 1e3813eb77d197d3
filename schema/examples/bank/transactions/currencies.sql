-- Reference data is written on the hub, by transactions that say so; replication carries it to every peer.

-- name: add_currency
-- reference: write
insert into currency (code, name, minor_digits) values (:code, :name, :minor_digits) on conflict do nothing;
-- expect: one, else "currency exists already"

-- name: rename_currency
-- reference: write
update currency set name = :name where code = :code;  -- expect: one, else "no such currency"
