-- What refuses a change of rows that never change. Applied after peer.sql; each statement can be run again.
set role rootward_system;

-- The table's trigger says why, and what to do instead. Nobody can pretend to have logged in as the worker: a lane is a login of
-- its own, and a member of nothing.
create or replace function rootward.refuse_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if session_user = 'rootward_system' then
    return case when tg_op = 'DELETE' then old when tg_op = 'UPDATE' then new end;
  end if;
  raise exception '% of `%` is refused: %', tg_op, tg_table_name, tg_argv[0] using errcode = 'restrict_violation', hint = tg_argv[1];
end $$;
reset role;
