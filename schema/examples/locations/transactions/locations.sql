-- Written on the hub, carried to every peer by replication. Told twice, a place is still one place.
-- name: add_location
-- reference: write
insert into location (location_id, name, latitude, longitude)
values (location_key(:name, :latitude, :longitude), :name, :latitude, :longitude)
on conflict do nothing;
select location_id, name, latitude, longitude from location where location_id = location_key(:name, :latitude, :longitude);
