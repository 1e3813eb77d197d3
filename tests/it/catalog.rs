//! The hub away, and new versions of the schema.

use rootward_cluster::{ApplyError, Compiled, DeployError, deploy};
use tests::{Cluster, Shape, check_bank, until};
use uuid::Uuid;

use crate::shared::{exe, own_bank};

#[tokio::test]
async fn everything_goes_on_while_the_hub_is_down_even_for_a_worker_that_starts_then() {
    let mut bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    let one = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0].to_string();
    let two = bank.open_accounts(&client, "p2", 1, 100).await.expect("opened")[0].to_string();
    bank.embedded.kill_worker("hub").await.expect("killed");
    bank.embedded.kill_postgres("hub").await.expect("killed");
    let transfer = [("from", one.as_str()), ("to", two.as_str()), ("amount", "1")];
    assert_eq!(client.run_chain("transfer", &transfer, Uuid::now_v7()).await.expect("done").status, "completed");
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    bank.embedded.kill_worker("p1").await.expect("killed");
    bank.embedded.start_worker("p1", &[]).await.expect("a worker again");
    bank.wait_until_serving("p1", term).await.expect("it serves from its copy");
    assert_eq!(client.run_chain("transfer", &transfer, Uuid::now_v7()).await.expect("done").status, "completed");
    // A router that starts now learns everything from the workers.
    bank.embedded.restart_router().await.expect("a router again");
    let client = bank.client().expect("a client");
    assert_eq!(client.run_chain("transfer", &transfer, Uuid::now_v7()).await.expect("done").status, "completed");
    bank.embedded.start_postgres("hub").await.expect("up again");
    bank.embedded.start_worker("hub", &[]).await.expect("a worker again");
    let currency = [("code", "CHF"), ("name", "franc"), ("minor_digits", "2")];
    client.settle("add_currency", &currency, Uuid::now_v7()).await.expect("reference data can be written again");
    bank.wait_for_reference("select count(*) from currency", 2).await.expect("copied");
    check_bank(&bank).await.expect("every promise is kept");
}

/// The bank's files with some of them changed.
pub async fn changed_bank(change: impl Fn(&str, String) -> String) -> Compiled {
    tests::compile_changed(exe(), "bank", change).await.unwrap_or_else(|findings| panic!("{findings:#}"))
}

pub fn version(text: String, version: u32) -> String {
    text.replace("version = 1", &format!("version = {version}"))
}

fn with_nickname(text: String) -> String {
    text.replace("owner      text not null,", "owner      text not null,\n  nickname   text,")
}

const RENAME: &str = "
-- name: nickname
-- root: account = :account_id
update account set nickname = :nickname where account_id = :account_id returning owner, nickname;  -- expect: one
";

#[tokio::test]
async fn a_new_version_comes_into_force_under_load_and_one_that_loses_data_does_not() {
    let bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p2", 1, 100).await.expect("opened")[0];
    let key = account.to_string();
    let topology = bank.embedded.topology().clone();
    let unknown = client.call("nickname", &[("account_id", &key), ("nickname", "x")], Uuid::now_v7()).await.expect_err("not yet");
    assert_eq!(unknown.code(), "RW2001", "{unknown}");

    let second = changed_bank(|name, text| match name {
        "rootward.toml" => version(text, 2),
        "tables.sql" => with_nickname(text),
        "transactions/accounts.sql" => text + RENAME,
        _ => text,
    })
    .await;
    // Something in a peer's way: the apply stops there, nothing is in force, and the same command goes on when it is gone.
    let reader = bank.reader();
    reader.run("p2", "alter table account add column nickname integer").await.expect("in the way");
    let stopped = deploy(&topology, &second.source, &second.schema).await.expect_err("a column of another type");
    assert!(matches!(&stopped, DeployError::Apply { node, .. } if node == "p2"), "{stopped}");
    assert_eq!(schema_version(&client).await, 1);
    client.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("version 1 goes on");
    reader.run("p2", "alter table account drop column nickname").await.expect("out of the way");

    let load = async {
        for _ in 0..40 {
            client.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("no error meanwhile");
        }
    };
    let apply = async { deploy(&topology, &second.source, &second.schema).await.expect("applied") };
    let ((), deployed) = tokio::join!(load, apply);
    assert_eq!((deployed.from_version, deployed.version), (Some(1), 2));
    let renamed = until("the new transaction is known", async || {
        client.call("nickname", &[("account_id", &key), ("nickname", "Al")], Uuid::now_v7()).await.ok()
    });
    let renamed = renamed.await.expect("in force");
    assert_eq!(renamed.rows[0].values.iter().map(tests::text_of).collect::<Vec<_>>(), ["test", "Al"]);
    assert_eq!(schema_version(&client).await, 2);
    // Once more is no error, an older or other one is.
    deploy(&topology, &second.source, &second.schema).await.expect("nothing to do");
    let first = changed_bank(|_, text| text).await;
    assert!(matches!(deploy(&topology, &first.source, &first.schema).await, Err(DeployError::OlderVersion(2, 1))));
    let other = changed_bank(|name, text| if name == "rootward.toml" { version(text, 2) } else { text }).await;
    assert!(matches!(deploy(&topology, &other.source, &other.schema).await, Err(DeployError::SameVersion(2))));

    let lossy = changed_bank(|name, text| if name == "rootward.toml" { version(text, 3) } else { text }).await;
    match deploy(&topology, &lossy.source, &lossy.schema).await {
        Err(DeployError::Apply { source: ApplyError::Lossy(changes), .. }) => {
            assert_eq!((changes[0].table.as_str(), changes[0].what.as_str()), ("account", "column `nickname` would be lost"));
        }
        ended => panic!("it must be refused by name: {ended:?}"),
    }
    assert_eq!(schema_version(&client).await, 2);
    client.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("version 2 goes on");
    assert_eq!(reader.balance(account).await.expect("read"), Some(14_200));
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_chain_keeps_the_plan_that_it_started_with() {
    let bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let from = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0].to_string();
    let to = bank.open_accounts(&client, "p2", 1, 0).await.expect("opened")[0].to_string();
    let input = [("from", from.as_str()), ("to", to.as_str()), ("amount", "1")];
    let (old, new) = (Uuid::now_v7(), Uuid::now_v7());
    client.settle("freeze", &[("account_id", &to)], Uuid::now_v7()).await.expect("frozen");
    assert_eq!(client.run_chain("transfer", &input, old).await.expect("it stops").status, "parked");
    // In the second version a transfer has a third step.
    let step =
        "on_failure = \"park\" },\n  { name = \"thaw\", call = \"unfreeze\", root = { account = \"$from\" }, on_failure = \"park\" },";
    let second = changed_bank(|name, text| match name {
        "rootward.toml" => version(text, 2).replace("on_failure = \"park\" },", step),
        _ => text,
    })
    .await;
    assert_eq!(second.schema.chains["transfer"].steps.len(), 3);
    deploy(bank.embedded.topology(), &second.source, &second.schema).await.expect("applied");
    until("version 2 is in force on every peer", async || {
        let peers = client.peers().await.ok()?;
        peers.iter().all(|peer| peer.status.as_ref().is_some_and(|status| status.schema_version == 2)).then_some(())
    })
    .await
    .expect("in force");
    client.settle("unfreeze", &[("account_id", &to)], Uuid::now_v7()).await.expect("unfrozen");
    assert_eq!(client.run_chain("transfer", &input, new).await.expect("done").status, "completed");
    client.replay(old).await.expect("it goes on");
    until("it completes", async || client.chain(old).await.ok().filter(|chain| chain.status == "completed")).await.expect("completed");
    let reader = bank.reader();
    assert_eq!(reader.outcomes(old).await.expect("read").len(), 2, "the plan of version 1");
    assert_eq!(reader.outcomes(new).await.expect("read").len(), 3, "the plan of version 2");
    check_bank(&bank).await.expect("every promise is kept");
}

async fn schema_version(client: &tests::Client) -> u32 {
    client.raw().get_schema(rootward_proto::v1::GetSchemaRequest {}).await.expect("a schema").into_inner().version
}
