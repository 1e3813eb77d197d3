//! The journal outside the lanes that write it: the form of a row (`row`), reading (`store`), verifying (`verify`), and what peers tell each
//! other (`witness`); `subscribe` streams it.

mod row;
mod store;
mod subscribe;
mod verify;
mod witness;

pub(crate) use row::{FIRST, Hash, Row};
pub(crate) use store::{heads, keep_witnessed, witnessed};
pub(crate) use subscribe::{Progress, subscribe};
pub(crate) use verify::verify;
pub(crate) use witness::tell_heads;
