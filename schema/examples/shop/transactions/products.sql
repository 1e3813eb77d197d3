-- Makes a root of something that the catalogue lists.
-- name: add_product
-- root: product = :product_id
select 1 from catalogue where product_id = :product_id;  -- expect: one, else "unknown product"
insert into product (product_id) values (:product_id) on conflict do nothing returning product_id;
-- expect: one, else "product exists already"

-- name: add_stock
-- root: product = :product_id
insert into stock (product_id, warehouse, initial, on_hand) values (:product_id, :warehouse, :quantity, :quantity)
on conflict (product_id, warehouse)
do update set initial = stock.initial + excluded.initial, on_hand = stock.on_hand + excluded.on_hand;

-- name: stock_of
-- root: product = :product_id
select warehouse, initial, on_hand, reserved from stock where product_id = :product_id order by warehouse;
