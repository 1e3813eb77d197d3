//! Faults of all kinds while partitions move, and appends that keep one order meanwhile.

use tests::faults::{FaultKind, Rounds};

use crate::shared::exe;

/// The battery plays fifteen rounds with random faults; here are those that no other test has, and one that a seed chooses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_move_and_money_adds_up_whatever_fails() {
    let seed: u64 = rand::random();
    let mut rounds = Rounds::start(exe(), seed).await.expect("a bank starts");
    let chosen = rounds.plan(1)[0];
    for fault in [FaultKind::CutBetweenWorkers, FaultKind::Drop, chosen] {
        let round = rounds.run(fault).await.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        assert!(round.stage == "done" && round.requests > 0, "seed {seed}: {fault:?}: {round:?}");
    }
}
