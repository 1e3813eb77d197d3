//! The integration tests, in one program: each works on real PostgreSQL servers that it starts itself.

mod connections;
mod controls;
mod docs;
mod embedded;
mod escapes;
mod kill_points;
mod manners;
mod request_ids;
mod schema_fixtures;
mod shared;
