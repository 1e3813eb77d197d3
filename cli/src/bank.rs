//! The example bank, compiled in: what the demo plays with and the benchmark measures.

use std::{sync::Arc, time::Duration};

use rootward_proto::v1::{ListPartitionsRequest, ListPeersRequest};
use rootward_schema::{Type, partition_of};
use tokio::time::Instant;

use crate::load::{self, Tally};

/// The example's files, by their path in its folder.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("rootward.toml", include_str!("../../schema/examples/bank/rootward.toml")),
    ("tables.sql", include_str!("../../schema/examples/bank/tables.sql")),
    ("transactions/accounts.sql", include_str!("../../schema/examples/bank/transactions/accounts.sql")),
    ("transactions/currencies.sql", include_str!("../../schema/examples/bank/transactions/currencies.sql")),
    ("transactions/deposit.sql", include_str!("../../schema/examples/bank/transactions/deposit.sql")),
    ("transactions/transfer.sql", include_str!("../../schema/examples/bank/transactions/transfer.sql")),
    ("transactions/withdraw.sql", include_str!("../../schema/examples/bank/transactions/withdraw.sql")),
];

/// How many clients open the accounts.
pub(crate) const OPENING_CLIENTS: u64 = 128;

/// Reference data arrive a moment later; an account refers to its currency.
pub(crate) async fn wait_for_copies(router: &str) -> anyhow::Result<()> {
    let mut client = load::connect(router).await?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let peers = client.list_peers(ListPeersRequest {}).await?.into_inner().peers;
        let versions: Vec<i64> = peers.iter().filter_map(|peer| peer.status.as_ref()).map(|status| status.reference_version).collect();
        if versions.len() == peers.len() && versions.windows(2).all(|pair| pair[0] == pair[1]) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "the reference data did not arrive on every peer within 10 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Opens accounts 1 to `accounts` with 1,000 on each; returns how many were opened.
pub(crate) async fn open_accounts(router: &str, accounts: u64) -> anyhow::Result<u64> {
    let client = load::connect(router).await?;
    let tally = Arc::new(Tally::default());
    let counted = tally.clone();
    load::for_each(accounts, OPENING_CLIENTS, move |number| {
        let (client, tally) = (client.clone(), counted.clone());
        async move {
            let arguments =
                [("account_id", (number + 1).to_string()), ("owner", format!("owner {}", number + 1)), ("amount", "1000".to_owned())];
            load::run_call(&client, &tally, "open_account", load::values(&arguments)).await;
        }
    })
    .await;
    Ok(Tally::read(&tally.done))
}

/// Accounts by the peer that owns them, as the catalog says.
#[derive(Debug, Clone)]
pub(crate) struct Owners {
    peers: Vec<String>,
    /// By partition: the owner's place in `peers`.
    owners: Vec<u32>,
}

impl Owners {
    pub(crate) async fn read(router: &str) -> anyhow::Result<Owners> {
        let map = load::connect(router).await?.list_partitions(ListPartitionsRequest {}).await?.into_inner();
        Ok(Owners { peers: map.peers, owners: map.owners })
    }

    /// The id of the peer that an account lies on; none if the catalog doesn't say.
    pub(crate) fn of(&self, account: u64) -> Option<&str> {
        let count = u32::try_from(self.owners.len()).ok()?;
        let partition = partition_of(&Type::Bigint, &account.to_string(), count).ok()?;
        let owner = self.owners.get(usize::try_from(partition).ok()?)?;
        self.peers.get(usize::try_from(*owner).ok()?).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_lies_where_its_partition_does() {
        let owners = Owners { peers: vec!["hub".to_owned(), "p1".to_owned(), "p2".to_owned()], owners: vec![1, 2] };
        for account in 1..100 {
            let partition = partition_of(&Type::Bigint, &account.to_string(), 2).expect("a number is a key");
            assert_eq!(owners.of(account), Some(if partition == 0 { "p1" } else { "p2" }));
        }
    }
}
