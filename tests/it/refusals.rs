//! Refusals inside a batch: whoever is refused is told why, and nobody beside him notices.

use futures_util::future::join_all;
use rootward_proto::v1::RetryClass;
use tests::{Cluster, Shape, check_bank};
use uuid::Uuid;

use crate::shared::{exe, own_cluster};

/// How many innocents share the lane with the refused.
const INNOCENTS: usize = 170;

#[tokio::test]
async fn refused_transactions_harm_nobody_in_their_batch() {
    let bank = Cluster::bank(exe(), Shape { peers: 1, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let accounts = bank.roots_on("account", "p1", Some(0), 3);
    for account in &accounts {
        bank.open_account(&client, *account, 100).await.expect("opened");
    }
    let (good, poor, missing) =
        (accounts[0].to_string(), accounts[1].to_string(), bank.roots_on("account", "p1", Some(0), 1)[0].to_string());
    let before = bank.wait_until_serving("p1", 0).await.expect("it serves");
    let innocents =
        join_all((0..INNOCENTS).map(async |_| client.settle("deposit", &[("account_id", &good), ("amount", "1")], Uuid::now_v7()).await));
    let refused = async |transaction: &str, given: [(&str, &str); 2]| {
        let answers = join_all((0..10).map(|_| client.settle(transaction, &given, Uuid::now_v7()))).await;
        answers.into_iter().map(|answer| answer.expect_err("it is refused")).collect::<Vec<_>>()
    };
    let (innocents, expect, check, raise) = tokio::join!(
        innocents,
        refused("withdraw", [("account_id", &poor), ("amount", "1000")]),
        refused("deposit", [("account_id", &poor), ("amount", "-1")]),
        refused("close_month", [("account_id", &missing), ("rate", "1")]),
    );
    let innocents: Vec<_> = innocents.into_iter().map(|answer| answer.expect("an innocent is done")).collect();
    for (faults, sqlstate, message) in
        [(&expect, "P0001", "insufficient funds"), (&check, "23514", "entry_amount_has_right_sign"), (&raise, "P0001", "no such account")]
    {
        for fault in faults {
            assert_eq!((fault.code(), fault.retry_class(), fault.as_wire().sqlstate.as_str()), ("RW3101", RetryClass::Refused, sqlstate));
            assert!(fault.message().contains(message), "{fault}");
        }
    }
    // PostgreSQL leaves out the failing row where row security holds; the constraint is named all the same.
    assert!(check[0].help().contains("entry_amount_has_right_sign"), "{:?}", check[0].as_wire());
    assert!(expect[0].help().contains("transactions/withdraw.sql"), "the help names the place: {}", expect[0].help());
    let reader = bank.reader();
    let earned = i64::try_from(INNOCENTS).expect("few") * 100;
    assert_eq!(reader.balance(accounts[0]).await.expect("read"), Some(10_000 + earned));
    assert_eq!(reader.balance(accounts[1]).await.expect("read"), Some(10_000));
    let distinct: std::collections::BTreeSet<&str> = innocents.iter().map(|answer| answer.request_id.as_str()).collect();
    assert_eq!(distinct.len(), INNOCENTS);
    let after = bank.wait_until_serving("p1", 0).await.expect("it serves");
    let units = (after.committed + after.refused) - (before.committed + before.refused);
    assert!(after.batches - before.batches < units, "{} batches for {units} units", after.batches - before.batches);
    assert_eq!(after.refused - before.refused, 30);
    check_bank(&bank).await.expect("every promise is kept");
}

const MANIFEST: &str = "name = \"ledger\"\nversion = 1\npartitions = 16\n[root.book]\ntable = \"book\"\n";

/// A foreign key and a constraint trigger that wait for COMMIT, unless somebody asks before.
const TABLES: &str = "
create table book (book_id bigint primary key, total bigint not null default 0);
create table page (book_id bigint not null references book, page_no bigint not null, next_no bigint, primary key (book_id, page_no),
  foreign key (book_id, next_no) references page deferrable initially deferred);
create function total_is_even() returns trigger language plpgsql as $$
begin
  if (select count(*) from page where book_id = new.book_id) % 2 = 1 then
    raise exception 'pages come in pairs' using errcode = '23514', detail = 'one is alone';
  end if;
  return null;
end $$;
create constraint trigger pairs after insert on page deferrable initially deferred for each row execute function total_is_even();
";

const TRANSACTIONS: &str = "
-- name: open_book
-- root: book = :book_id
insert into book (book_id) values (:book_id);
-- name: add_pair
-- root: book = :book_id
insert into page values (:book_id, :first, :first::bigint + 1);
insert into page values (:book_id, :first::bigint + 1, null);
-- name: add_one
-- root: book = :book_id
insert into page values (:book_id, :first, null);
-- name: add_dangling
-- root: book = :book_id
insert into page values (:book_id, :first, 0);
insert into page values (:book_id, :first::bigint + 1, null);
";

#[tokio::test]
async fn a_constraint_that_waits_for_commit_refuses_its_own_transaction_only() {
    let files = [("rootward.toml", MANIFEST), ("tables.sql", TABLES), ("transactions/book.sql", TRANSACTIONS)];
    let cluster = own_cluster(&files, Shape { peers: 1, ..Shape::shared() }).await;
    let client = cluster.client().expect("a client");
    let books = cluster.roots_on("book", "p1", Some(0), 2);
    let (good, bad) = (books[0].to_string(), books[1].to_string());
    for book in [&good, &bad] {
        client.settle("open_book", &[("book_id", book)], Uuid::now_v7()).await.expect("opened");
    }
    let call = async |transaction: &str, book: &str, page: usize| {
        client.settle(transaction, &[("book_id", book), ("first", &(page * 2 + 10).to_string())], Uuid::now_v7()).await
    };
    let (innocents, alone, dangling) = tokio::join!(
        join_all((0..INNOCENTS).map(|page| call("add_pair", &good, page))),
        join_all((0..5).map(|page| call("add_one", &bad, page))),
        join_all((0..5).map(|page| call("add_dangling", &bad, page + 100))),
    );
    assert!(innocents.iter().all(Result::is_ok), "{:?}", innocents.iter().find_map(|ended| ended.as_ref().err()));
    for ended in alone {
        let fault = ended.expect_err("refused");
        assert_eq!((fault.code(), fault.as_wire().sqlstate.as_str(), fault.as_wire().detail.as_str()), ("RW3101", "23514", "one is alone"));
    }
    for ended in dangling {
        assert_eq!(ended.expect_err("refused").as_wire().sqlstate, "23503");
    }
    let pages = |book: &str| format!("select count(*) from page where book_id = {book}");
    assert_eq!(cluster.reader().sum(&pages(&good)).await.expect("read"), i64::try_from(INNOCENTS * 2).expect("few"));
    assert_eq!(cluster.reader().sum(&pages(&bad)).await.expect("read"), 0);
    tests::check_everything(&cluster).await.expect("every promise is kept");
}
