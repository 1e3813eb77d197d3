//! Schema files: what users write, what is checked, and where a root key is placed.
//!
//! The crate reads the files of a folder and nothing else: it opens no connection and knows no runtime. Facts about
//! tables and statements come from PostgreSQL's catalogues and are handed in: [`Source::read`] reads, the connection's
//! owner fills [`facts::Facts`], [`check`] compiles a [`Schema`] or says everything that is wrong.

mod containment;
mod definition;
mod distance;
mod duration;
mod guards;
mod pg_hash;
mod placement;
mod region;
mod ring;
mod value;

pub use containment::{Node, containment_sql, quoted};
mod finding;
mod names;
mod nearest;
mod sql;

mod chain_source;
mod manifest;
mod source;
mod stage;
mod table_source;
mod transaction_file;

pub mod codes;
pub mod facts;

mod check;
mod gather;
mod set_wise;

pub use chain_source::{ActionSource, Arguments, ChainSource, CompensationSource, StepSource};
pub use check::check;
pub use definition::{
    BUILT_IN_PARAMETERS, Chain, Column, Compensation, ContentKey, DeferrableConstraint, Expect, ExpectedRows, Expression, Invariant,
    OnExhausted, OnFailure, ReferenceTable, Retry, RootEntity, Schema, SetWise, SqlFile, Statement, Step, Target, Transaction, TreeTable,
    Wait,
};
pub use distance::kilometres;
pub use duration::duration_text;
pub use finding::{Finding, Located, Place, Severity, Span, line_and_column, render};
pub use gather::{Aggregate, Gather, NotGathered, OutputColumn, PER_PEER, SortKey, Total, gather};
pub use manifest::{InvariantSource, Manifest, RootSource};
pub use nearest::{nearest, nearest_setting};
pub use placement::{BadKey, partition_of, sql_partition_expression};
pub use region::{NoPeer, RegionalPeer, assign_by_region, reassign_by_region};
pub use ring::{Capacity, NoCapacity, assign, reassign};
pub use source::{Source, TableStatement};
pub use stage::{Stage, StageSource};
pub use table_source::{KeySource, TableSource};
pub use transaction_file::{StatementSource, TargetSource, TransactionSource};
pub use value::{BadValue, Text, Type};
