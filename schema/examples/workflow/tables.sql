-- A root. A closed item refuses marks; one with an SQLSTATE in `raises` raises it in `mark_brittle`.
create table item (
  item_id   bigint primary key,
  is_closed boolean not null default false,
  raises    text check (raises ~ '^[0-9A-Z]{5}$')
);

-- What a step left behind, or what undid it. The key is the request's id, which is another one for undoing than for doing,
-- so neither can stand twice.
create table mark (
  item_id    bigint not null references item,
  request_id uuid not null,
  chain_id   uuid,
  step       text not null,
  kind       text not null check (kind in ('done', 'undone')),
  note       text not null,
  at         timestamptz not null,
  primary key (item_id, request_id)
);

-- Raises what the item says, such as 40001, which PostgreSQL raises when transactions get into each other's way.
create function raise_as_told(id bigint) returns void
language plpgsql as $$
declare
  told text;
begin
  select raises into told from item where item_id = id;
  if told is not null then
    raise exception 'item % raises %', id, told using errcode = told;
  end if;
end
$$;
