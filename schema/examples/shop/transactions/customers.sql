-- name: add_customer
-- root: customer = :customer_id
insert into customer (customer_id, name) values (:customer_id, :name) on conflict do nothing;
-- expect: one, else "customer exists already"

-- Joins with the catalogue, which every peer has a copy of.
-- name: orders_of
-- root: customer = :customer_id
select orders.order_id, orders.placed_at, orders.total, order_line.line_no, order_line.product_id, catalogue.name as product, order_line.quantity, order_line.unit_price
from orders
  join order_line using (customer_id, order_id)
  join catalogue using (product_id)
where customer_id = :customer_id
order by orders.placed_at, orders.order_id, order_line.line_no;
