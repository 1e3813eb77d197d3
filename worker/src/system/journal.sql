-- The journal, and what other peers told of theirs. Applied after guards.sql; each statement can be run again.
set role rootward_system;

-- One row for each transaction that took effect at a root whose entity has a journal.
create table if not exists rootward.journal (
  partition integer not null,
  -- From 1, without a gap.
  sequence bigint not null,
  entity text not null,
  root_key text not null,
  -- The client's request id, or the chain's id.
  request_id uuid not null,
  step integer not null,
  element integer not null,
  direction text not null,
  in_chain boolean not null,
  transaction text not null,
  -- JSON of canonical texts. As text, so that not a byte of it is another when it is read.
  arguments text not null,
  issued_at timestamptz not null,
  at timestamptz not null,
  -- sha256(hash of the row before || text of this row); 32 zero bytes stand before the first row.
  hash bytea not null,
  primary key (partition, sequence)
);
-- Functions that run a transaction for many roots write it themselves.
grant insert on rootward.journal to rootward_set;
-- What they are given for it, beside `rootward.request`.
do $$ begin
  if to_regtype('rootward.journal_entry') is null then
    create type rootward.journal_entry as (sequence bigint, arguments text, at timestamptz, hash bytea);
  end if;
end $$;
create or replace trigger journal_insert_only before update or delete on rootward.journal
  for each row execute function rootward.refuse_change('a journal only grows', 'rootward journal verify finds what was changed all the same');
create or replace trigger journal_insert_only_truncate before truncate on rootward.journal
  for each statement execute function rootward.refuse_change('a journal only grows', 'rootward journal verify finds what was changed all the same');

-- What a row's hash is made of, so that anybody can verify a journal with plain SQL.
create or replace function rootward.journal_text(j rootward.journal) returns text
language sql immutable set search_path = pg_catalog, pg_temp
return (select string_agg(octet_length(convert_to(field, 'UTF8')) || ':' || field, '' order by place)
  from unnest(array[j.partition::text, j.sequence::text, j.entity, j.root_key, j.request_id::text, j.step::text, j.element::text, j.direction,
    case when j.in_chain then 't' else 'f' end, j.transaction, j.arguments, (extract(epoch from j.issued_at) * 1000000)::bigint::text,
    (extract(epoch from j.at) * 1000000)::bigint::text]) with ordinality as f (field, place));

-- The heads of other peers' journals, as they told them. A journal whose tail was cut doesn't reach the head any more.
create table if not exists rootward.journal_witness (
  partition integer primary key,
  sequence bigint not null,
  hash bytea not null,
  told_by text not null,
  told_at timestamptz not null default clock_timestamp()
);

-- The last row of each of these partitions that has one.
create or replace function rootward.journal_heads(secret bytea, partitions integer[])
returns table (partition integer, sequence bigint, hash bytea)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare is_in_force boolean := rootward.check_secret(secret);
begin
  return query select j.partition, j.sequence, j.hash from unnest(partitions) as p (partition)
    cross join lateral (select * from rootward.journal j where j.partition = p.partition order by j.sequence desc limit 1) j;
end $$;

-- Writes rows of the journal for units that have taken effect in this transaction one by one.
create or replace function rootward.append_journal(secret bytea, entries rootward.journal[]) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare is_in_force boolean := rootward.check_secret(secret);
begin
  insert into rootward.journal select * from unnest(entries);
end $$;

revoke execute on function rootward.journal_text, rootward.journal_heads, rootward.append_journal from public;
grant execute on function rootward.journal_heads, rootward.append_journal to rootward_lane;
reset role;
