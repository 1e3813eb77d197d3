-- The steps of the chain `place_order`. Built in are `:chain_id`, the chain's id, and `:element`, the number of the line
-- that a step is run for, from 0.

-- Sets the goods aside in one warehouse, the one that has most of them; a line is never taken from two.
-- name: reserve
-- root: product = :product_id
select 1 from catalogue where product_id = :product_id;  -- expect: one, else "unknown product"
with chosen as (
  select warehouse from stock
  where product_id = :product_id and on_hand - reserved >= :quantity
  order by on_hand - reserved desc, warehouse
  limit 1
), taken as (
  update stock set reserved = reserved + :quantity
  from chosen
  where stock.product_id = :product_id and stock.warehouse = chosen.warehouse
  returning stock.warehouse
)
insert into reservation (product_id, chain_id, line_no, warehouse, quantity)
select :product_id, :chain_id, :element + 1, taken.warehouse, :quantity from taken
returning warehouse;
-- expect: one, else "out of stock"

-- Undoes reserve.
-- name: release
-- root: product = :product_id
with released as (
  update reservation set state = 'released'
  where product_id = :product_id and chain_id = :chain_id and line_no = :element + 1 and state = 'open'
  returning warehouse, quantity
)
update stock set reserved = stock.reserved - released.quantity
from released
where stock.product_id = :product_id and stock.warehouse = released.warehouse;

-- The order's id is the chain's: the same chain sent twice makes one order. A list comes as JSON and is taken apart here.
-- name: create_order
-- root: customer = :customer_id
select 1 from customer where customer_id = :customer_id;  -- expect: one, else "unknown customer"
insert into orders (customer_id, order_id, placed_at, total)
select :customer_id, :chain_id, :now, coalesce(sum(line.quantity * line.unit_price), 0)
from jsonb_to_recordset(:lines::jsonb) as line (quantity integer, unit_price numeric)
returning order_id, total;
insert into order_line (customer_id, order_id, line_no, product_id, quantity, unit_price)
select :customer_id, :chain_id, line.line_no, line.product_id, line.quantity, line.unit_price
from rows from (jsonb_to_recordset(:lines::jsonb) as (product_id bigint, quantity integer, unit_price numeric))
  with ordinality as line (product_id, quantity, unit_price, line_no);
-- expect: some, else "an order has at least one line"

-- The goods leave the shelf.
-- name: confirm
-- root: product = :product_id
with confirmed as (
  update reservation set state = 'confirmed'
  where product_id = :product_id and chain_id = :chain_id and line_no = :element + 1 and state = 'open'
  returning warehouse, quantity
)
update stock set on_hand = stock.on_hand - confirmed.quantity, reserved = stock.reserved - confirmed.quantity
from confirmed
where stock.product_id = :product_id and stock.warehouse = confirmed.warehouse;
-- expect: one, else "nothing is reserved"
