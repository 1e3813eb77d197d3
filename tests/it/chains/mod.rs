//! Chains: every step exactly once, whoever is killed; refused ones go back; parked ones wait for a person.

mod bulk;
mod collection;
mod failures;
mod harness;
mod late_notes;
mod one_commit;
mod out_of_reach;
mod owners;
mod retries;
mod side_by_side;
mod transfers;
mod verbs;
mod versions;
mod waits;
