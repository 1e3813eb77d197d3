//! Chains: every step exactly once, whoever is killed; refused ones go back; parked ones wait for a person.

mod bulk;
mod failures;
mod harness;
mod retries;
mod side_by_side;
mod transfers;
mod verbs;
mod versions;
mod waits;
