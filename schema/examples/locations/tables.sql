-- The key of a place: the hash of its content. The separator cannot stand in a number, so no two contents are written alike.
create function location_key(name text, latitude double precision, longitude double precision) returns text
language sql immutable strict parallel safe
return encode(sha256(convert_to(name || '|' || latitude || '|' || longitude, 'UTF8')), 'hex');

-- Kilometres between two places on a sphere of the earth's mean radius, 6371.0088 km, by the haversine formula.
create function distance_km(latitude double precision, longitude double precision, other_latitude double precision, other_longitude double precision)
returns double precision
language sql immutable strict parallel safe
return 2 * 6371.0088 * asin(least(1, sqrt(
  sind((other_latitude - latitude) / 2) ^ 2 + cosd(latitude) * cosd(other_latitude) * sind((other_longitude - longitude) / 2) ^ 2)));

create table location (
  location_id text primary key,
  name        text not null,
  latitude    double precision not null check (latitude between -90 and 90),
  longitude   double precision not null check (longitude between -180 and 180)
);

-- The tree of a visitor: who was where, and when.

create table visitor (
  visitor_id bigint primary key,
  name       text not null
);

create table visit (
  visitor_id  bigint not null references visitor,
  visit_no    integer not null,
  location_id text not null references location,
  at          timestamptz not null,
  primary key (visitor_id, visit_no)
);
