-- name: add_catalogue_item
-- reference: write
insert into catalogue (product_id, name, price) values (:product_id, :name, :price) on conflict do nothing;
-- expect: one, else "product exists already"

-- name: add_warehouse
-- reference: write
insert into warehouse (warehouse) values (:warehouse) on conflict do nothing;
-- expect: one, else "warehouse exists already"
