//! The bank: calls, a refusal, an attempt to leave the root, transfers while a peer is killed, a chain that parks.

use std::{sync::Arc, time::Duration};

use rand::RngExt as _;
use tokio::{task::JoinSet, time::Instant};

use super::Stage;
use crate::{
    bank::{OPENING_CLIENTS, Owners, open_accounts, wait_for_copies},
    load::{self, Tally},
};

const ACCOUNTS: u64 = 10_000;
const TRANSFER_CLIENTS: u64 = 16;
const BYSTANDERS: u64 = 4;
/// The account that is frozen, and the one that pays into it.
const FROZEN: &str = "7777";

pub(super) async fn play(stage: &mut Stage, load_seconds: u64) -> anyhow::Result<()> {
    accounts(stage).await?;
    calls(stage).await?;
    transfers_while_a_peer_dies(stage, load_seconds).await?;
    park_and_replay(stage).await?;
    stage.heading("everything is counted, with plain SQL on every peer");
    stage.type_and_check(&["verify"], 0, "OK").await?;
    stage.memory().await
}

async fn accounts(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("reference data is written on the hub and copied to every peer; accounts are spread over the peers");
    stage.type_and_check(&["call", "add_currency", "code=EUR", "name=Euro", "minor_digits=2"], 0, "").await?;
    wait_for_copies(stage.router()).await?;
    let began = Instant::now();
    let opened = open_accounts(stage.router(), ACCOUNTS).await?;
    let seconds = began.elapsed().as_secs_f64();
    stage.say(&format!("   {opened} accounts opened by {OPENING_CLIENTS} clients in {seconds:.1} s\n"));
    stage.check(opened == ACCOUNTS, format!("{ACCOUNTS} accounts are opened, not {opened}"));
    Ok(())
}

async fn calls(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("a transaction runs at the owner of its root, as one local commit");
    let id = uuid::Uuid::now_v7().to_string();
    let withdraw = ["call", "withdraw", "account_id=1007", "amount=250", "--request-id", &id];
    stage.type_and_check(&withdraw, 0, "750.00").await?;
    stage.heading("sent again with the same request id");
    stage.type_and_check(&withdraw, 0, "stored outcome").await?;
    stage.heading("refused by the business logic");
    stage.type_and_check(&["call", "withdraw", "account_id=1007", "amount=9999"], 4, "insufficient funds").await?;
    stage.heading("nothing leaves its root, whatever the SQL says");
    let escape = "update account set account_id = 2044";
    stage.type_and_check(&["query", "--root", "account=1007", escape], 4, "RW2004").await?;
    let others = "select count(*) as accounts_in_sight from account";
    stage.type_and_check(&["query", "--root", "account=1007", others], 0, "1").await?;
    stage.heading("work over two roots is a chain");
    stage.type_and_check(&["chain", "start", "transfer", "from=1007", "to=2001", "amount=100"], 0, "completed").await?;
    Ok(())
}

async fn transfers_while_a_peer_dies(stage: &mut Stage, load_seconds: u64) -> anyhow::Result<()> {
    stage.heading(&format!("{load_seconds} s of transfers by {TRANSFER_CLIENTS} clients; p3 dies in the middle"));
    let tally = Arc::new(Tally::default());
    let clients = start_transfers(stage, &tally).await?;
    let bystanders = Arc::new(Tally::default());
    let beside = start_deposits(stage, &bystanders).await?;
    let part = Duration::from_secs(load_seconds) / 4;
    tokio::time::sleep(part).await;
    let before = Tally::read(&tally.done);
    stage.say(&format!("   {before} transfers done"));
    stage.kill_peer("p3").await?;
    let deposited = Tally::read(&bystanders.done);
    tokio::time::sleep(part).await;
    let meanwhile = Tally::read(&bystanders.done) - deposited;
    stage.say(&format!("   p3 is away: {meanwhile} deposits at p1 and p2 meanwhile; transfers that touch p3 wait"));
    stage.check(meanwhile > 0, "peers that live go on while p3 is away");
    let took = stage.start_peer("p3").await?;
    stage.say(&format!("   p3 is started again: its worker serves {:.2} s after its PostgreSQL", took.as_secs_f64()));
    stage.check(took < Duration::from_secs(3), format!("p3 serves within 3 s of its start, not after {took:?}"));
    tokio::time::sleep(part * 2).await;
    tally.stop();
    bystanders.stop();
    clients.join_all().await;
    beside.join_all().await;
    let (done, refused, lost) = (Tally::read(&tally.done), Tally::read(&tally.refused), Tally::read(&tally.lost));
    let repeated = Tally::read(&tally.repeated);
    stage.say(&format!("   {done} transfers done, {refused} refused, {repeated} requests sent again with their id, {lost} lost\n"));
    stage.check(lost == 0 && done > before, "every transfer has an answer, and p3's go on after its return");
    wait_for_chains(stage).await
}

async fn start_transfers(stage: &Stage, tally: &Arc<Tally>) -> anyhow::Result<JoinSet<()>> {
    let client = load::connect(stage.router()).await?;
    let mut clients = JoinSet::new();
    for _ in 0..TRANSFER_CLIENTS {
        let (client, tally) = (client.clone(), tally.clone());
        clients.spawn(async move {
            while !tally.is_stopped() {
                let (from, to) = {
                    let mut random = rand::rng();
                    (random.random_range(1..=ACCOUNTS), random.random_range(1..=ACCOUNTS))
                };
                let input = [("from", from.to_string()), ("to", to.to_string()), ("amount", "1".to_owned())];
                load::run_chain(&client, &tally, "transfer", load::values(&input)).await;
            }
        });
    }
    Ok(clients)
}

/// Deposits by clients whose accounts live on p1 and p2 only.
async fn start_deposits(stage: &Stage, tally: &Arc<Tally>) -> anyhow::Result<JoinSet<()>> {
    let client = load::connect(stage.router()).await?;
    let owners = Owners::read(stage.router()).await?;
    let accounts: Arc<Vec<u64>> = Arc::new((1..=ACCOUNTS).filter(|account| owners.of(*account).is_some_and(|peer| peer != "p3")).collect());
    let mut clients = JoinSet::new();
    for _ in 0..BYSTANDERS {
        let (client, tally, accounts) = (client.clone(), tally.clone(), accounts.clone());
        clients.spawn(async move {
            while !tally.is_stopped() {
                let account = accounts[rand::rng().random_range(0..accounts.len())];
                let arguments = [("account_id", account.to_string()), ("amount", "1".to_owned())];
                load::run_call(&client, &tally, "deposit", load::values(&arguments)).await;
            }
        });
    }
    Ok(clients)
}

/// Chains that were under way when p3 died go on by themselves.
pub(super) async fn wait_for_chains(stage: &mut Stage) -> anyhow::Result<()> {
    let mut client = load::connect(stage.router()).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let running = client.list_chains(rootward_proto::v1::ListChainsRequest::default()).await?.into_inner().running;
        if running == 0 {
            break;
        }
        if Instant::now() >= deadline {
            stage.check(false, format!("all chains come to an end by themselves; {running} still run"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.heading("chains that were under way went on by themselves");
    stage.type_and_check(&["chain", "list", "--status", "running,compensating,parked,stuck"], 3, "").await?;
    Ok(())
}

async fn park_and_replay(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("chains that can't go on park; a person repairs the cause and replays them, all at once");
    let frozen = format!("account_id={FROZEN}");
    stage.type_and_check(&["call", "freeze", &frozen], 0, "").await?;
    let to = format!("to={FROZEN}");
    for from in ["from=1007", "from=1008", "from=1009"] {
        stage.type_and_check(&["chain", "start", "transfer", from, &to, "amount=50", "--label", "run=payday"], 4, "parked").await?;
    }
    stage.type_and_check(&["chain", "list", "--status", "parked", "--label", "run=payday"], 0, "account is frozen").await?;
    stage.type_and_check(&["call", "unfreeze", &frozen], 0, "").await?;
    let filter = ["--status", "parked", "--error", "%frozen%"];
    let dry_run = [["chain", "replay"].as_slice(), &filter, &["--dry-run"]].concat();
    stage.type_and_check(&dry_run, 0, "3 go on at step 2/2 `deposit`; 0 effects would be repeated").await?;
    let replay = [["chain", "replay"].as_slice(), &filter, &["--reason", "unfrozen", "--yes"]].concat();
    stage.type_and_check(&replay, 0, "3 matched  3 replayed  3 completed").await?;
    wait_for_chains(stage).await
}
