//! What a process measures of itself, and the page on which Prometheus reads it.
//!
//! Counting is a few atomic additions, most of them once a batch; whatever costs more is done when somebody asks for the page.

mod by_code;
mod endpoint;
mod histogram;
mod page;
mod process;

pub use by_code::ByCode;
pub use endpoint::{Endpoint, page_of, report};
pub use histogram::{Histogram, Tally};
pub use page::{Labels, Measured, Page};
pub use process::{cpu_seconds, resident_bytes, write_process};
