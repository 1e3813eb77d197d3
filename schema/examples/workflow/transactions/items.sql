-- name: add_item
-- root: item = :item_id
insert into item (item_id) values (:item_id) on conflict do nothing;
-- expect: one, else "item exists already"

-- name: close_item
-- root: item = :item_id
update item set is_closed = true where item_id = :item_id;  -- expect: one, else "no such item"

-- name: open_item
-- root: item = :item_id
update item set is_closed = false where item_id = :item_id;  -- expect: one, else "no such item"

-- The SQLSTATE that `mark_brittle` shall raise from now on; NULL for none.
-- name: tell_item
-- root: item = :item_id
update item set raises = :sqlstate where item_id = :item_id;  -- expect: one, else "no such item"

-- name: marks_of
-- root: item = :item_id
select chain_id, step, kind, note, at from mark where item_id = :item_id order by at, step, kind;
