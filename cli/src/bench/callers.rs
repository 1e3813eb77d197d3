//! Who sends what in a closed loop.

use std::sync::Arc;

use rootward_client::{Arguments, Call, Client, Fault, v1::RetryClass};
use rootward_cluster::{Transferred, TwoPhaseClient};

use super::{
    closed_loop::{Caller, End},
    ground::Roots,
    workload::Shape,
};

/// A transfer as a chain of two steps; answered when the chain has ended.
pub(super) struct Chains {
    pub client: Client,
    pub roots: Arc<Roots>,
}

/// A transaction of one root.
pub(super) struct Deposits {
    pub client: Client,
    pub roots: Arc<Roots>,
}

/// A workload's transaction.
pub(super) struct Calls {
    pub client: Client,
    pub shape: Shape,
    pub roots: u64,
}

/// A transfer by two-phase commit.
pub(super) struct TwoPhase {
    pub client: TwoPhaseClient,
    pub roots: Arc<Roots>,
}

impl Caller for Chains {
    async fn once(&mut self) -> anyhow::Result<End> {
        let (from, to) = self.roots.pair();
        let input = Arguments::new().with("from", from.root).with("to", to.root).with("amount", 1);
        let chain = match self.client.start_chain("transfer", input).send().await {
            Ok(answer) => answer.chain.unwrap_or_default(),
            Err(fault) => return refused(fault),
        };
        anyhow::ensure!(chain.status == "completed", "chain {} is {}", chain.id, chain.status);
        Ok(End::Done)
    }
}

impl Caller for Deposits {
    async fn once(&mut self) -> anyhow::Result<End> {
        let (account, _) = self.roots.pair();
        // Nothing is deposited, so that the sum stays; the row is written all the same.
        let arguments = Arguments::new().with("account_id", account.root).with("amount", 0);
        match self.client.call("deposit", arguments).send().await {
            Ok(_) => Ok(End::Done),
            Err(fault) => refused(fault),
        }
    }
}

impl Calls {
    /// The next call, with an id of its own.
    ///
    /// # Errors
    /// If its arguments can't be drawn.
    pub(super) fn call(&self) -> anyhow::Result<Call> {
        Ok(self.client.call(self.shape.transaction, self.shape.arguments(self.roots, &mut rand::rng())?))
    }
}

impl Caller for Calls {
    async fn once(&mut self) -> anyhow::Result<End> {
        match self.call()?.send().await {
            Ok(_) => Ok(End::Done),
            Err(fault) => refused(fault),
        }
    }
}

impl Caller for TwoPhase {
    async fn once(&mut self) -> anyhow::Result<End> {
        let (from, to) = self.roots.pair();
        Ok(match self.client.transfer(from, to, 1).await? {
            Transferred::Done => End::Done,
            Transferred::Refused(_) => End::Refused,
            Transferred::Aborted => End::Aborted,
        })
    }
}

fn refused(fault: Fault) -> anyhow::Result<End> {
    if fault.retry_class() == RetryClass::Refused { Ok(End::Refused) } else { Err(fault.into()) }
}
