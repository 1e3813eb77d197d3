//! A broken copy of the reference data is made anew by a command, while it is read.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tests::{Cluster, Shape, check_bank, until};
use uuid::Uuid;

use crate::shared::{exe, own_bank};

/// Types the command, with a file that names the cluster's databases.
async fn repair(bank: &Cluster, peer: &str) -> (Option<i32>, String) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), toml::to_string(bank.embedded.topology()).expect("TOML")).expect("written");
    let mut command = Command::new(exe());
    command.args(["reference", "repair", peer, "--cluster"]).arg(file.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

async fn add_currencies(bank: &Cluster, names: impl Iterator<Item = String>) {
    let client = bank.client().expect("a client");
    for code in names {
        client.settle("add_currency", &[("code", &code), ("name", "money"), ("minor_digits", "2")], Uuid::now_v7()).await.expect("added");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_copy_is_made_anew_while_it_is_read_and_written_and_nobody_sees_it_empty() {
    let bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    let reader = bank.reader();
    let account = bank.open_accounts(&client, "p1", 1, 10).await.expect("opened")[0].to_string();
    add_currencies(&bank, (10..40).map(|number| format!("A{number}"))).await;
    bank.wait_for_reference("select count(*) from currency", 31).await.expect("copied");
    // The slot is gone, and somebody has changed the copy: a row is missing, one is wrong, one is too many.
    reader.run("p1", "alter subscription rootward_reference disable").await.expect("stopped");
    let slot = "select slot_name::text from pg_replication_slots where slot_name like 'rootward_p1%'";
    let slot: String = reader.rows("hub", slot, &[]).await.expect("read")[0].get(0);
    let drop = format!("select pg_drop_replication_slot('{slot}')");
    until("the slot is dropped", async || reader.run("hub", &drop).await.ok()).await.expect("dropped");
    let drift = "set session_replication_role = replica; delete from currency where code = 'A11'; update currency set name = 'wrong' where code = 'A12'; \
                 insert into currency (code, name, minor_digits) values ('ZZZ', 'too many', 2)";
    reader.run("p1", drift).await.expect("a superuser may");
    add_currencies(&bank, ["B10".to_owned()].into_iter()).await;
    // Readers and a writer go on while it is repaired.
    let is_over = Arc::new(AtomicBool::new(false));
    let fewest = tokio::spawn({
        let (is_over, reader) = (is_over.clone(), reader.clone());
        async move {
            let (mut fewest, mut looks) = (i64::MAX, 0);
            while !is_over.load(Ordering::Acquire) || looks == 0 {
                fewest = fewest.min(reader.rows("p1", "select count(*) from currency", &[]).await.expect("read")[0].get(0));
                looks += 1;
            }
            fewest
        }
    });
    let writer = add_currencies(&bank, (10..60).map(|number| format!("C{number}")));
    let ((code, said), ()) = tokio::join!(repair(&bank, "p1"), writer);
    is_over.store(true, Ordering::Release);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("p1: version ") && said.contains("rows of `currency` differed"), "{said}");
    assert!(fewest.await.expect("no panic") >= 31, "a reader saw rows missing that were there");
    client.settle("balance", &[("account_id", &account)], Uuid::now_v7()).await.expect("the peer serves");
    bank.wait_for_reference("select count(*) from currency", 82).await.expect("what was written meanwhile is there");
    check_bank(&bank).await.expect("the copies are equal");
    // Once more, with nothing to repair.
    let (code, said) = repair(&bank, "p1").await;
    assert!(code == Some(0) && said.contains("every row was right"), "{said}");
    add_currencies(&bank, ["D10".to_owned()].into_iter()).await;
    bank.wait_for_reference("select count(*) from currency", 83).await.expect("the new subscription brings it");
    let (code, said) = repair(&bank, "p9").await;
    assert!(code == Some(3) && said.contains("RW5007") && said.contains("p1, p2"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_with_more_reference_data_reaches_every_peer_and_what_was_there_stays() {
    let bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    let changed = tests::compile_changed(exe(), "bank", |file, text| match file {
        "rootward.toml" => {
            text.replacen("version = 1", "version = 2", 1).replace("tables = [\"currency\"]", "tables = [\"currency\", \"region\"]")
        }
        "tables.sql" => text.replacen(
            "create table currency (",
            "create table region (code text primary key);\ncreate table currency (\n  symbol text,",
            1,
        ),
        "transactions/currencies.sql" => {
            text + "\n-- name: add_region\n-- reference: write\ninsert into region (code) values (:code);\n\n\
                    -- name: set_symbol\n-- reference: write\nupdate currency set symbol = :symbol where code = :code;  -- expect: one\n"
        }
        _ => text,
    });
    let changed = changed.await.expect("it compiles");
    rootward_cluster::deploy(bank.embedded.topology(), &changed.source, &changed.schema).await.expect("applied");
    let id = Uuid::now_v7();
    until("the new version is served", async || client.settle("add_region", &[("code", "eu")], id).await.ok()).await.expect("added");
    client.settle("set_symbol", &[("code", "EUR"), ("symbol", "€")], Uuid::now_v7()).await.expect("set");
    let wanted = "select count(*) from currency, region where currency.symbol = '€' and currency.name = 'euro' and region.code = 'eu'";
    bank.wait_for_reference(wanted, 1).await.expect("both peers have both");
}

#[tokio::test]
async fn a_cluster_in_one_server_is_repaired_too() {
    let bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("it starts");
    bank.reader().run("p2", "update currency set name = 'wrong'").await.expect("a superuser may");
    let (code, said) = repair(&bank, "p2").await;
    assert!(code == Some(0) && said.contains("1 rows of `currency` differed"), "{said}");
    add_currencies(&bank, ["CHF".to_owned()].into_iter()).await;
    bank.wait_for_reference("select count(*) from currency where name in ('euro', 'money')", 2).await.expect("it goes on");
}
