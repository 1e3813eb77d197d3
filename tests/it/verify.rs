//! `verify` finds what is wrong: each check is shown something to find, behind the system's back, and must name it.

use rootward_client::{Arguments, Client};
use uuid::Uuid;

use crate::shared::own_bank;

/// What to do to the database of p1, what to do to make it good again, and the check that must fail with a word of its finding.
const HARMS: &[(&str, &str, &str, &str)] = &[
    (
        "update account set balance = balance + 1 where account_id = 1",
        "update account set balance = balance - 1 where account_id = 1",
        "balance_is_sum_of_entries",
        "\"account_id\": 1",
    ),
    (
        "update entry set amount = amount + 1 where account_id = 1 and kind = 'transfer'",
        "update entry set amount = amount - 1 where account_id = 1 and kind = 'transfer'",
        "transfers_add_up_to_zero",
        "expected 0",
    ),
    (
        "update rootward.ownership set state = 'released' where partition = (select partition from rootward.outcome where entity = 'account' limit 1)",
        "update rootward.ownership set state = 'owned'",
        "placement",
        "partition",
    ),
    (
        "create table kept as select * from rootward.outcome where step = 1; delete from rootward.outcome where step = 1",
        "insert into rootward.outcome select * from kept; drop table kept",
        "chains",
        "is missing",
    ),
    (
        "alter subscription rootward_reference disable; update currency set name = 'Yen'",
        "update currency set name = 'Euro'; alter subscription rootward_reference enable",
        "reference",
        "`currency` differs",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_and_names_what_was_changed_behind_the_systems_back() {
    let cluster = own_bank(1).await;
    let reader = cluster.reader();
    let client = Client::new([cluster.embedded.router_address()]).expect("an address");
    for account in [1, 2] {
        let open = Arguments::new().with("account_id", account).with("owner", "a").with("amount", 10);
        client.call("open_account", open).send().await.expect("it is opened");
    }
    let transfer = Arguments::new().with("from", 1).with("to", 2).with("amount", 3);
    let chain = client.start_chain("transfer", transfer).with_id(Uuid::now_v7()).send().await.expect("it runs").chain.expect("a chain");
    assert_eq!(chain.status, "completed");
    client.list_chains(Default::default(), 1).await.expect("its end is noted");
    reader.run("p1", "update currency set name = 'Euro'").await.expect("the copy says what the repair will say");
    reader.run("hub", "update currency set name = 'Euro'").await.expect("and so does the source");
    for (harm, repair, check, word) in HARMS {
        let sound = client.verify().await.expect("it counts");
        assert!(sound.is_ok, "before `{harm}`: {:?}", sound.checks);
        reader.run("p1", harm).await.expect("a superuser may");
        let counted = client.verify().await.expect("it counts");
        reader.run("p1", repair).await.expect("a superuser may");
        let found = counted.checks.iter().find(|found| found.name == *check).expect("the check is made");
        assert!(!counted.is_ok && !found.is_ok, "`{harm}` went unnoticed: {:?}", counted.checks);
        assert!(found.examples.iter().any(|example| example.contains(word)), "{check} names it: {:?}", found.examples);
    }
}
