-- Reference data: what the shop sells, and where it keeps it.

create table catalogue (
  product_id bigint primary key,
  name       text not null,
  price      numeric(12, 2) not null check (price >= 0)
);

create table warehouse (
  warehouse text primary key
);

-- The customer's tree.

create table customer (
  customer_id bigint primary key,
  name        text not null
);

create table orders (
  customer_id bigint not null references customer,
  order_id    uuid not null,
  placed_at   timestamptz not null,
  total       numeric(14, 2) not null,
  primary key (customer_id, order_id)
);

-- The product's key is stored, without a foreign key: the product is another root and may live in another database.
-- The catalogue is reference data, so that a foreign key to it is possible.
create table order_line (
  customer_id bigint not null,
  order_id    uuid not null,
  line_no     integer not null,
  product_id  bigint not null references catalogue,
  quantity    integer not null check (quantity > 0),
  unit_price  numeric(12, 2) not null,
  primary key (customer_id, order_id, line_no),
  foreign key (customer_id, order_id) references orders
);

-- The product's tree.

create table product (
  product_id bigint primary key references catalogue
);

-- `reserved` of the `on_hand` pieces are promised to orders under way; `initial` is all that ever came in.
create table stock (
  product_id bigint not null references product,
  warehouse  text not null references warehouse,
  initial    integer not null check (initial >= 0),
  on_hand    integer not null check (on_hand >= 0),
  reserved   integer not null default 0 check (reserved >= 0),
  primary key (product_id, warehouse),
  constraint stock_reserved_is_on_hand check (reserved <= on_hand)
);

-- One line of one order, held in one warehouse.
create table reservation (
  product_id bigint not null references product,
  chain_id   uuid not null,
  line_no    integer not null,
  warehouse  text not null,
  quantity   integer not null check (quantity > 0),
  state      text not null default 'open' check (state in ('open', 'confirmed', 'released')),
  primary key (product_id, chain_id, line_no),
  foreign key (product_id, warehouse) references stock
);
