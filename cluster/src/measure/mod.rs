//! What `rootward bench` needs of the databases themselves: PostgreSQL's own counters, the books before and after, and
//! two-phase commit as the baseline that chains are compared with. Nothing here serves transactions.

mod books;
mod gauge;
mod session;
mod two_phase;

pub use books::{Books, BooksError};
pub use gauge::Gauge;
pub use two_phase::{Place, Transferred, TwoPhaseClient, TwoPhaseError, TwoPhaseTransfer};
