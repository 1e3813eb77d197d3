//! Schema files: what users write, what is checked, and where a root key is placed.
//!
//! The crate reads the files of a folder and nothing else: it opens no connection and knows no runtime. Facts about
//! tables and statements come from PostgreSQL's catalogues and are handed in.

mod containment;
mod definition;
mod pg_hash;
mod placement;
mod ring;
mod value;

pub use containment::{Node, containment_sql, quoted};
pub use definition::{
    BUILT_IN_PARAMETERS, Chain, Column, Compensation, DeferrableConstraint, Expect, ExpectedRows, Expression, Invariant, OnFailure,
    ReferenceTable, RootEntity, Schema, SqlFile, Statement, Step, Target, Transaction, TreeTable,
};
pub use placement::{BadKey, partition_of, sql_partition_expression};
pub use ring::{Capacity, NoCapacity, assign, reassign};
pub use value::{BadValue, Text, Type};
