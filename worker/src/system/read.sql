
set role rootward_system;

-- The first statement of a read on a session of its own, at the primary or at a standby: what this server shows is of this worker's
-- term, and the peer owns the partition in this epoch. Nothing is locked: whatever the read sees is of the moment when that was so.
create or replace function rootward.begin_read(secret bytea, term bigint, partition integer, epoch bigint) returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare standing record;
begin
  select s.term, s.secret_hash into standing from rootward.peer_state s;
  if standing.secret_hash is distinct from sha256(secret) or standing.term is distinct from term then
    raise exception 'term % is not the one that this server shows', term using errcode = 'RW001';
  end if;
  if not exists (select from rootward.ownership o
      where o.partition = begin_read.partition and o.epoch = begin_read.epoch and o.state = 'owned') then
    raise exception 'this server does not show that partition % is owned in epoch %', partition, epoch using errcode = 'RW002';
  end if;
end $$;
revoke execute on function rootward.begin_read from public;
grant execute on function rootward.begin_read to rootward_lane;

reset role;
