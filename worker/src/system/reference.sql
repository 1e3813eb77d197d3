-- What wakes those who wait for a version of the reference data. Applied after peer.sql; each statement can be run again.
set role rootward_system;

create or replace function rootward.tell_reference_version() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  notify rootward_reference; -- only a wake-up: who hears it reads the row
  return null;
end $$;
-- For each row, and always: the apply worker of a subscription fires no other triggers.
create or replace trigger tell_reference_version after insert or update on rootward.reference_version
  for each row execute function rootward.tell_reference_version();
alter table rootward.reference_version enable always trigger tell_reference_version;
reset role;
