//! Schema changes and moves keep out of each other's way.

use rootward_client::{Arguments, v1};
use rootward_cluster::{DeployError, deploy};
use tests::{Pause, check_bank, compile_changed};

use super::{begin, carry_out, client, nothing_is_left, partitions_of, wait_for};
use crate::shared::{exe, own_bank};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_schema_is_applied_during_a_move_and_no_move_begins_while_one_is_applied() {
    let mut bank = own_bank(2).await;
    let account = bank.open_accounts(&bank.client().expect("a client"), "p1", 1, 1_000).await.expect("opened")[0];
    let partitions = partitions_of(&bank, &[account]);
    let changed = compile_changed(exe(), "bank", |file, text| match file {
        "rootward.toml" => text.replace("version = 1", "version = 2"),
        "tables.sql" => {
            text + "\ncreate table note (account_id bigint not null references account, note_id uuid not null, words text not null, primary key (account_id, note_id));\n"
        }
        _ => text,
    });
    let changed = changed.await.expect("it compiles");
    let client = client(&bank);
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("hub", &[("ROOTWARD_FAIL_POINT", &pause.at("mover_copying", "mover"))]).await.expect("armed");
    let id = begin(&client, &partitions, "p2").await;
    pause.reached().await.expect("the move is under way");
    let refused = deploy(bank.embedded.topology(), &changed.source, &changed.schema).await.expect_err("a move is under way");
    assert!(matches!(&refused, DeployError::Moving(moving) if *moving == id), "{refused}");
    pause.release().expect("released");
    wait_for(&client, &id, &["done"]).await;
    // As it is in the middle of an apply, which may take its time.
    let reader = bank.reader();
    let applying = "insert into rootward_catalog.schema_version (version, definition, state) \
                    select 2, definition, 'applying' from rootward_catalog.schema_version where version = 1";
    reader.run("hub", applying).await.expect("written");
    let request =
        v1::MovePartitionsRequest { partitions: partitions.clone(), target: "p1".to_owned(), ..v1::MovePartitionsRequest::default() };
    let fault = client.move_partitions(request).await.expect_err("a version is being applied");
    assert_eq!(fault.code(), "RW5041", "{fault}");
    deploy(bank.embedded.topology(), &changed.source, &changed.schema).await.expect("it goes on from there");
    // With the new table, which moves too.
    carry_out(&client, &partitions, "p1").await;
    let tables = reader.sum("select count(*) from rootward_move.movable where name = 'note'").await.expect("read");
    assert_eq!(tables, 2, "one row on each peer");
    client.call("deposit", Arguments::new().with("account_id", account).with("amount", 1)).send().await.expect("deposited");
    nothing_is_left(&bank).await;
    check_bank(&bank).await.expect("every promise is kept");
}
