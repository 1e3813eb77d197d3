-- The steps of the chains. Each inserts one row, whose key is the request's id: however often a step is sent, it stands once.

-- name: mark
-- root: item = :item_id
select 1 from item where item_id = :item_id;  -- expect: one, else "no such item"
select 1 from item where item_id = :item_id and not is_closed;  -- expect: one, else "item is closed"
insert into mark (item_id, request_id, chain_id, step, kind, note, at)
values (:item_id, :request_id, :chain_id, :step, 'done', :note, :now);
select count(*) as marks from mark where item_id = :item_id;

-- name: mark_brittle
-- root: item = :item_id
select raise_as_told(:item_id);
insert into mark (item_id, request_id, chain_id, step, kind, note, at)
values (:item_id, :request_id, :chain_id, :step, 'done', :note, :now);

-- Undoes either. It asks nobody whether the item is closed, and expects nothing: a compensation must work.
-- name: unmark
-- root: item = :item_id
insert into mark (item_id, request_id, chain_id, step, kind, note, at)
values (:item_id, :request_id, :chain_id, :step, 'undone', :note, :now);
