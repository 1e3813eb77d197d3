//! The journal outside the lanes that write it: the form of a row (`row`), reading (`store`), verifying (`verify`), and what peers tell each
//! other (`witness`).

mod row;
mod store;
mod verify;
mod witness;

pub(crate) use row::{FIRST, Hash, Row};
pub(crate) use store::{heads, keep_witnessed, witnessed};
pub(crate) use verify::verify;
pub(crate) use witness::tell_heads;
