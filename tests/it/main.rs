//! The integration tests, in one program: each works on real PostgreSQL servers that it starts itself.

mod controls;
mod embedded;
mod kill_points;
mod request_ids;
mod schema_fixtures;
mod shared;
