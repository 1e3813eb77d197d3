//! The journal: a row for each effect, none for anything else, without a gap; and whatever is changed behind its back is found.

use std::{collections::BTreeMap, process::Command};

use futures_util::future::join_all;
use rootward_proto::v1;
use tests::{Client, Cluster, Shape, eventually, until};
use uuid::Uuid;

use crate::shared::exe;

/// The bank with a journal.
pub async fn bank(shape: Shape) -> (Cluster, Client) {
    let changed = tests::compile_changed(exe(), "bank", |file, text| match file {
        "rootward.toml" => text.replacen("table = \"account\"", "table = \"account\"\njournal = true", 1),
        _ => text,
    });
    let cluster = Cluster::start(exe(), &changed.await.expect("it compiles"), shape).await.expect("it starts");
    let client = cluster.client().expect("a client");
    client.settle("add_currency", &[("code", "EUR"), ("name", "euro"), ("minor_digits", "2")], Uuid::now_v7()).await.expect("added");
    cluster.wait_for_reference("select count(*) from currency", 1).await.expect("copied");
    (cluster, client)
}

pub async fn verify(client: &Client, heads: Vec<v1::JournalHead>) -> v1::VerifyJournalResponse {
    client.raw().verify_journal(v1::VerifyJournalRequest { heads }).await.expect("it is verified").into_inner()
}

pub async fn heads(client: &Client) -> Vec<v1::JournalHead> {
    client.raw().list_journal_heads(v1::ListJournalHeadsRequest {}).await.expect("listed").into_inner().heads
}

/// Every outcome of an effect has its row, every row its outcome, and numbers have no gap: by plain SQL, as anybody could.
pub async fn check_books(cluster: &Cluster) -> anyhow::Result<i64> {
    let reader = cluster.reader();
    let key = "partition, entity, root_key, request_id, step, element, direction";
    let effects = format!(
        "select {key}, transaction from rootward.outcome where entity = 'account' and kind = 'done' and transaction <> 'balance' and step < 2147483647"
    );
    let rows = format!("select {key}, transaction from rootward.journal");
    for (what, one, other) in [("a row without an effect", &rows, &effects), ("an effect without a row", &effects, &rows)] {
        let strays = reader
            .all(&format!("select transaction || ' ' || request_id from (({one}) except all ({other})) as strays limit 3"), &[])
            .await?;
        let named: Vec<String> = strays.iter().map(|(peer, row)| format!("{peer}: {}", row.get::<_, String>(0))).collect();
        anyhow::ensure!(named.is_empty(), "{what}: {named:?}");
    }
    let gaps = "select count(*) from (select partition from rootward.journal group by partition having max(sequence) <> count(*) or min(sequence) <> 1) as gaps";
    anyhow::ensure!(reader.sum(gaps).await? == 0, "a journal has gaps");
    let wrong = "select count(*) from (select hash, sha256(coalesce(lag(hash) over (partition by partition order by sequence),                  decode(repeat('00', 32), 'hex')) || convert_to(rootward.journal_text(j), 'UTF8')) as wanted from rootward.journal j) as hashes where hash <> wanted";
    anyhow::ensure!(reader.sum(wrong).await? == 0, "a hash is not what SQL makes of its row");
    reader.sum("select count(*) from rootward.journal").await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_effect_has_one_row_in_its_commit_and_refusals_repetitions_and_reads_have_none() {
    let (cluster, client) = bank(Shape { peers: 2, ..Shape::shared() }).await;
    let mut accounts = cluster.open_accounts(&client, "p1", 8, 100).await.expect("opened");
    accounts.extend(cluster.open_accounts(&client, "p2", 8, 100).await.expect("opened"));
    // Set-wise and row by row, alone and in batches, with refusals among them, chains that turn back, and every request twice.
    let tasks = (0..300_usize).map(|number| {
        let (client, account) = (&client, accounts[number % accounts.len()].to_string());
        let other = accounts[(number * 7 + 1) % accounts.len()].to_string();
        async move {
            let id = Uuid::now_v7();
            let amount = if number % 5 == 0 { "1000000" } else { "1" };
            for _ in 0..2 {
                match number % 4 {
                    0 => drop(client.settle("withdraw", &[("account_id", &account), ("amount", amount)], id).await),
                    1 => drop(client.settle("deposit", &[("account_id", &account), ("amount", "1")], id).await),
                    2 => drop(client.run_chain("transfer", &[("from", &account), ("to", &other), ("amount", amount)], id).await),
                    _ => drop(client.settle("balance", &[("account_id", &account)], id).await),
                }
            }
            let sql = format!("update account set owner = 'b' where account_id = {account}");
            client.query("account", &account, &sql, Uuid::now_v7()).await.expect("ad-hoc SQL takes effect");
        }
    });
    join_all(tasks).await;
    let rows = check_books(&cluster).await.expect("the books agree");
    assert!(rows > 500, "{rows}");
    let verified = verify(&client, heads(&client).await).await;
    assert_eq!((verified.rows, verified.faults.as_slice()), (u64::try_from(rows).expect("positive"), &[][..]));
    let sql = "select arguments from rootward.journal where transaction = 'deposit' and in_chain = false limit 1";
    let arguments: String = cluster.reader().all(sql, &[]).await.expect("read")[0].1.get(0);
    let arguments: BTreeMap<String, String> = serde_json::from_str(&arguments).expect("JSON");
    assert_eq!(arguments.keys().collect::<Vec<_>>(), ["account_id", "amount"], "what was asked for, not what the worker gave");
}

/// In one trip to PostgreSQL the lane numbers units before it knows which are refused. One that was refused before has an outcome already,
/// which must not be taken for that of an effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_is_asked_for_again_has_no_row() {
    let (cluster, client) = bank(Shape { peers: 1, ..Shape::shared() }).await;
    let account = cluster.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0].to_string();
    let refused = Uuid::now_v7();
    for _ in 0..4 {
        let fault = client.settle("withdraw", &[("account_id", &account), ("amount", "1000000")], refused).await.expect_err("refused");
        assert_eq!(fault.retry_class(), v1::RetryClass::Refused, "{fault}");
        // Behind a refusal batches take two trips for a while.
        for _ in 0..21 {
            client.settle("deposit", &[("account_id", &account), ("amount", "1")], Uuid::now_v7()).await.expect("done");
        }
    }
    assert_eq!(check_books(&cluster).await.expect("the books agree"), 1 + 4 * 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_has_no_gap_when_workers_and_servers_are_killed() {
    let (mut cluster, client) = bank(Shape::own(1)).await;
    let accounts = cluster.open_accounts(&client, "p1", 12, 100).await.expect("opened");
    for round in 0..4 {
        let tasks = (0..60_usize).map(|number| {
            let (client, account) = (&client, accounts[number % accounts.len()].to_string());
            async move {
                let amount = if number % 6 == 0 { "1000000" } else { "1" };
                // What is refused or unknown at the end is as good.
                drop(client.settle("withdraw", &[("account_id", &account), ("amount", amount)], Uuid::now_v7()).await);
            }
        });
        let tasks = join_all(tasks);
        let before = cluster.reader().sum("select count(*) from rootward.journal").await.expect("counted");
        let kill = async {
            let count = async || cluster.reader().sum("select count(*) from rootward.journal").await.ok().filter(|count| *count > before);
            until("some of them are done", count).await.expect("they begin");
            if round % 2 == 0 {
                cluster.kill_lane_backends("p1").await.expect("killed");
            } else {
                cluster.embedded.kill_worker("p1").await.expect("killed");
                cluster.embedded.start_worker("p1", &[]).await.expect("started");
            }
        };
        tokio::join!(tasks, kill);
        eventually(async || check_books(&cluster).await.map(drop)).await.expect("the books agree");
    }
    let verified = verify(&client, Vec::new()).await;
    assert_eq!(verified.faults, [], "{verified:?}");
}

#[tokio::test]
async fn what_is_edited_deleted_or_cut_is_named_with_partition_and_sequence() {
    let (cluster, client) = bank(Shape { peers: 2, ..Shape::shared() }).await;
    let account = cluster.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    for _ in 0..5 {
        client.settle("deposit", &[("account_id", &account.to_string()), ("amount", "1")], Uuid::now_v7()).await.expect("done");
    }
    let partition = cluster.partition_of("account", account);
    let reader = cluster.reader();
    let mine = format!("partition = {partition}");
    let kept = heads(&client).await;
    assert_eq!(kept.iter().map(|head| (head.partition, head.sequence)).collect::<Vec<_>>(), [(partition, 6)]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let (code, said) = type_in(&cluster, &["journal", "heads", "-o", "json"]);
    assert_eq!(code, Some(0), "{said}");
    std::fs::write(file.path(), said).expect("written");
    // The guard holds for superusers too, until they switch it off.
    for harm in ["update rootward.journal set arguments = '{}'", "delete from rootward.journal", "truncate rootward.journal"] {
        let refused = reader.run("p1", harm).await.expect_err("refused");
        assert!(format!("{refused:?}").contains("a journal only grows"), "{refused:?}");
    }
    reader.run("p1", "create table kept as select * from rootward.journal").await.expect("a superuser may");
    let harms = [
        ("update rootward.journal set arguments = replace(arguments, '1', '9') where MINE and sequence = 3", 3, "was changed"),
        ("update rootward.journal set issued_at = issued_at + interval '1 us' where MINE and sequence = 4", 4, "was changed"),
        ("delete from rootward.journal where MINE and sequence = 2", 2, "is missing"),
        ("delete from rootward.journal where MINE and sequence < 3", 1, "2 rows are missing"),
        ("delete from rootward.journal where MINE and sequence > 4", 5, "was cut here"),
        ("delete from rootward.journal where MINE", 1, "was cut here"),
    ];
    for (harm, sequence, what) in harms {
        let harm = format!("set session_replication_role = replica; {}", harm.replace("MINE", &mine));
        reader.run("p1", &harm).await.expect("a superuser may");
        let found = verify(&client, kept.clone()).await;
        let named: Vec<(&str, i32, i64)> =
            found.faults.iter().map(|fault| (fault.peer.as_str(), fault.partition, fault.sequence)).collect();
        assert_eq!(named, [("p1", partition, sequence)], "{harm}: {found:?}");
        assert!(found.faults[0].what.contains(what), "{found:?}");
        let repair =
            "set session_replication_role = replica; delete from rootward.journal; insert into rootward.journal select * from kept";
        reader.run("p1", repair).await.expect("a superuser may");
        assert_eq!(verify(&client, kept.clone()).await.faults, [], "after the repair of `{harm}`");
    }
    // Without the file: the other peer was told.
    until("p2 was told", async || {
        let sql = format!("select count(*) from rootward.journal_witness where {mine} and sequence = 6 and told_by = 'p1'");
        (reader.rows("p2", &sql, &[]).await.ok()?[0].get::<_, i64>(0) == 1).then_some(())
    })
    .await
    .expect("told");
    reader
        .run("p1", &format!("set session_replication_role = replica; delete from rootward.journal where {mine} and sequence = 6"))
        .await
        .expect("cut");
    let found = verify(&client, Vec::new()).await;
    assert!(found.faults.len() == 1 && found.faults[0].sequence == 6 && found.faults[0].what.contains("was cut"), "{found:?}");
    // Whoever writes to both databases is given away by what was kept elsewhere.
    reader.run("p2", &format!("delete from rootward.journal_witness where {mine}")).await.expect("a superuser may");
    assert_eq!(verify(&client, Vec::new()).await.faults, [], "nobody else was told");
    let (code, said) = type_in(&cluster, &["journal", "verify", "--heads", &file.path().to_string_lossy()]);
    assert!(code == Some(4) && said.contains(&format!("partition {partition} sequence 6: ")) && said.contains("was cut"), "{said}");
}

fn type_in(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(exe()).args(args).env("ROOTWARD_ROUTER", cluster.embedded.router_address()).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}
