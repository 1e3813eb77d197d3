-- The names are the benchmark's. An account may hold less than nothing.
create table t (
  u integer primary key,
  v integer not null
);
