//! What `rootward bench` needs of the databases themselves: PostgreSQL's own counters, the books before and after, and
//! the baselines: pgbench, pgbouncer, and two-phase commit for chains. Nothing here serves transactions.

mod books;
mod gauge;
mod page;
mod pgbench;
mod pgbouncer;
mod processor;
mod session;
mod shards;
mod two_phase;

pub use books::{Books, BooksError};
pub use gauge::Gauge;
pub use page::{PageError, metric};
pub use pgbench::{Pgbench, PgbenchError, PgbenchResult, PgbenchRun};
pub use pgbouncer::{Pgbouncer, PgbouncerError};
pub use processor::{ProcessorTime, resident_bytes};
pub use session::run_sql;
pub use shards::{Messages, Moved, ShardClient, Shards, ShardsError};
pub use two_phase::{Place, Transferred, TwoPhaseClient, TwoPhaseError, TwoPhaseTransfer};
