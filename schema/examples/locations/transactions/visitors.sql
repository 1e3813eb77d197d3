-- name: add_visitor
-- root: visitor = :visitor_id
insert into visitor (visitor_id, name) values (:visitor_id, :name) on conflict do nothing;
-- expect: one, else "visitor exists already"

-- Numbers count per root: a sequence would count per peer, and meet its own numbers when a visitor moves.
-- name: visit
-- root: visitor = :visitor_id
select 1 from visitor where visitor_id = :visitor_id;  -- expect: one, else "no such visitor"
select 1 from location where location_id = :location_id;  -- expect: one, else "no such location"
insert into visit (visitor_id, visit_no, location_id, at)
select :visitor_id, coalesce(max(visit_no), 0) + 1, :location_id, :now from visit where visitor_id = :visitor_id
returning visit_no;

-- name: visits_of
-- root: visitor = :visitor_id
select visit_no, location.name, location.latitude, location.longitude, at
from visit join location using (location_id)
where visitor_id = :visitor_id
order by visit_no;

-- All known places, the nearest first, as seen from the visitor's last one.
-- name: places_nearby
-- root: visitor = :visitor_id
select location.location_id, location.name,
  distance_km(here.latitude, here.longitude, location.latitude, location.longitude) as distance_km
from visit join location as here using (location_id) cross join location
where visitor_id = :visitor_id
  and visit_no = (select max(visit_no) from visit where visitor_id = :visitor_id)
order by distance_km, location.location_id
limit :count::integer;
