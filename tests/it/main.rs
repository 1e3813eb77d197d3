//! The integration tests, in one program: each works on real PostgreSQL servers that it starts itself.

mod embedded;
mod kill_points;
mod schema_fixtures;
mod shared;
