-- Where rows are staged by any client of SQL. Applied after journal.sql; each statement can be run again.
--
-- Whoever is to stage is granted the role rootward_stager: it may insert into the staging tables and read them, and nothing else.
do $$
begin
  if not exists (select from pg_roles where rolname = 'rootward_stager') then
    create role rootward_stager nologin;
  end if;
exception when duplicate_object or unique_violation then
  null; -- another peer of the same cluster made it at the same moment
end $$;
create schema if not exists stage authorization rootward_system;
revoke all on schema stage from public;
grant usage on schema stage to rootward_stager;
do $$ begin
  execute format('grant connect on database %I to rootward_stager', current_database());
end $$;
set role rootward_system;

create or replace function rootward.tell_staged() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  notify rootward_stage; -- only a wake-up, without a payload: who hears it scans
  return null;
end $$;
reset role;
