//! One request id, one effect, one answer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use rootward_proto::v1::{self, RetryClass};
use tests::{a_root_is_not_seen_from_another, arguments, check_bank, one_id_has_one_effect};
use uuid::{NoContext, Timestamp, Uuid};

use crate::shared::bank;

#[tokio::test]
async fn a_repeated_request_id_returns_the_first_outcome() {
    let bank = bank().await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let (key, id) = (account.to_string(), Uuid::now_v7());
    let given = [("account_id", key.as_str()), ("amount", "5")];
    let first = client.call("withdraw", &given, id).await.expect("done");
    assert!(!first.from_stored_outcome);
    for _ in 0..3 {
        let again = client.call("withdraw", &given, id).await.expect("the same");
        assert!(again.from_stored_outcome);
        assert_eq!((&again.rows, &again.columns, again.row_count), (&first.rows, &first.columns, first.row_count));
        assert_eq!((&again.request_id, &again.root_key, again.partition), (&first.request_id, &first.root_key, first.partition));
    }
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(9_500));
    assert_eq!(bank.reader().entries(account).await.expect("read"), 2);
    one_id_has_one_effect(bank, account).await.expect("without a key of its own, too");
}

#[tokio::test]
async fn fifty_copies_of_one_request_at_once_have_one_effect() {
    let bank = bank().await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p2", 1, 100).await.expect("opened")[0];
    let (key, id) = (account.to_string(), Uuid::now_v7());
    let given = [("account_id", key.as_str()), ("amount", "5")];
    let answers = join_all((0..50).map(|_| client.settle("deposit", &given, id))).await;
    let answers: Vec<v1::CallResponse> = answers.into_iter().map(|answer| answer.expect("every copy is answered")).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.from_stored_outcome).count(), 1, "one of them did it");
    assert!(answers.iter().all(|answer| answer.rows == answers[0].rows), "all have the same answer");
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(10_500));
    assert_eq!(bank.reader().outcomes(id).await.expect("read").len(), 1);
}

#[tokio::test]
async fn a_request_id_with_another_body_is_refused_and_spellings_of_one_number_are_no_other_body() {
    let bank = bank().await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p3", 1, 1000).await.expect("opened")[0];
    let (key, id) = (account.to_string(), Uuid::now_v7());
    client.call("withdraw", &[("account_id", &key), ("amount", "250")], id).await.expect("done");
    for spelling in ["250.00", "+0250", "2.5e2"] {
        let again = client.call("withdraw", &[("account_id", &key), ("amount", spelling)], id).await.expect("the same request");
        assert!(again.from_stored_outcome, "{spelling}");
    }
    for (transaction, amount) in [("withdraw", "251"), ("deposit", "250")] {
        let fault = client.call(transaction, &[("account_id", &key), ("amount", amount)], id).await.expect_err("another request");
        assert_eq!((fault.code(), fault.retry_class()), ("RW3106", RetryClass::Refused), "{fault}");
        assert!(fault.message().contains("withdraw"), "it names what the id was used for: {fault}");
    }
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(75_000));
    assert_eq!(bank.reader().entries(account).await.expect("read"), 2);
}

#[tokio::test]
async fn the_same_id_at_another_root_is_a_request_of_its_own() {
    let bank = bank().await;
    let client = bank.client().expect("a client");
    let mut accounts = bank.open_accounts(&client, "p1", 2, 10).await.expect("opened");
    accounts.extend(bank.open_accounts(&client, "p2", 1, 10).await.expect("opened"));
    let id = Uuid::now_v7();
    for account in &accounts {
        let answer = client.call("deposit", &[("account_id", &account.to_string()), ("amount", "1")], id).await.expect("done");
        assert!(!answer.from_stored_outcome);
        assert_eq!(bank.reader().balance(*account).await.expect("read"), Some(1_100));
    }
    assert_eq!(bank.reader().outcomes(id).await.expect("read").len(), 3);
}

#[tokio::test]
async fn a_refusal_is_the_answer_for_ever() {
    let bank = bank().await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 1).await.expect("opened")[0];
    let (key, id) = (account.to_string(), Uuid::now_v7());
    let given = [("account_id", key.as_str()), ("amount", "20")];
    let refused = client.call("withdraw", &given, id).await.expect_err("there is one euro");
    assert_eq!((refused.code(), refused.as_wire().from_stored_outcome), ("RW3101", false));
    client.call("deposit", &[("account_id", &key), ("amount", "100")], Uuid::now_v7()).await.expect("done");
    let again = client.call("withdraw", &given, id).await.expect_err("the cause is gone, the answer stays");
    assert!(again.as_wire().from_stored_outcome);
    assert_eq!((again.message(), again.help(), again.as_wire().sqlstate.as_str()), (refused.message(), refused.help(), "P0001"));
    client.call("withdraw", &given, Uuid::now_v7()).await.expect("a new request is judged anew");
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(8_100));
    let kinds: Vec<String> = bank.reader().outcomes(id).await.expect("read").into_iter().map(|row| row.kind).collect();
    assert_eq!(kinds, ["failed"]);
}

#[tokio::test]
async fn a_request_older_than_outcomes_are_kept_is_refused_and_has_no_effect() {
    let bank = bank().await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p2", 1, 10).await.expect("opened")[0];
    let two_days_ago = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") - Duration::from_secs(2 * 24 * 3600);
    let old_id = Uuid::new_v7(Timestamp::from_unix(NoContext, two_days_ago.as_secs(), 0));
    let long_ago = i64::try_from(two_days_ago.as_millis()).expect("small");
    // Both say when the request was born: what the sender claims, and an id of version 7 by itself.
    for (id, issued_at_ms) in [(Uuid::new_v4(), long_ago), (old_id, 0)] {
        let message = v1::CallRequest {
            transaction: "deposit".to_owned(),
            arguments: arguments(&[("account_id", &account.to_string()), ("amount", "1")]),
            request_id: id.to_string(),
            issued_at_ms,
            ..v1::CallRequest::default()
        };
        let fault = client.send(message).await.expect_err("too old");
        assert_eq!((fault.code(), fault.retry_class()), ("RW3107", RetryClass::Refused), "{fault}");
        assert!(bank.reader().outcomes(id).await.expect("read").is_empty());
    }
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(1_000));
}

#[tokio::test]
async fn the_shared_bank_keeps_every_promise() {
    let bank = bank().await;
    let client = bank.client().expect("a client");
    let accounts = bank.open_accounts(&client, "p1", 2, 10).await.expect("opened");
    a_root_is_not_seen_from_another(bank, accounts[0], accounts[1]).await.expect("contained");
    check_bank(bank).await.expect("every promise is kept");
}
