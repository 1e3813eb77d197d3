-- Goods come in, and whoever brought them is told what is there now: `add_stock` and `stock_of` in one transaction.

-- name: restock
-- root: product = :product_id
insert into stock (product_id, warehouse, initial, on_hand) values (:product_id, :warehouse, :quantity, :quantity)
on conflict (product_id, warehouse)
do update set initial = stock.initial + excluded.initial, on_hand = stock.on_hand + excluded.on_hand;
select warehouse, initial, on_hand, reserved from stock where product_id = :product_id order by warehouse;
-- expect: some, else "nothing is in stock"
