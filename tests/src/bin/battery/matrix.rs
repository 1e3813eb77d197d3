//! Each kill point × each victim × a call, a chain of two steps, an order of three lines.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tests::{Cluster, KILL_POINTS, Shape, Victim, check_bank, check_everything, order_lines, while_killing};
use uuid::Uuid;

pub async fn run(exe: &Path) -> Result<()> {
    run_bank(exe).await?;
    run_shop(exe).await
}

async fn run_bank(exe: &Path) -> Result<()> {
    let mut bank = Cluster::bank(exe, Shape::own(2)).await?;
    let client = bank.client()?;
    let from = bank.open_accounts(&client, "p1", 1, 1000).await?[0];
    let to = bank.open_accounts(&client, "p2", 1, 0).await?[0];
    let (from_key, to_key) = (from.to_string(), to.to_string());
    let (mut paid_in, mut moved) = (0, 0);
    for point in KILL_POINTS {
        for victim in Victim::ALL {
            let case = format!("deposit, {victim:?} killed at {point}");
            let given = [("account_id", from_key.as_str()), ("amount", "1")];
            let call = client.settle("deposit", &given, Uuid::now_v7());
            while_killing(&mut bank, ("p1", victim), (point, "deposit"), call).await.context(case.clone())?.context(case.clone())?;
            paid_in += 100;
            for (peer, step) in [("p1", "transfer_out"), ("p2", "transfer_in")] {
                let case = format!("{step}, {victim:?} killed at {point}");
                let input = [("from", from_key.as_str()), ("to", to_key.as_str()), ("amount", "1")];
                let chain = client.run_chain("transfer", &input, Uuid::now_v7());
                let ended =
                    while_killing(&mut bank, (peer, victim), (point, step), chain).await.context(case.clone())?.context(case.clone())?;
                ensure!(ended.status == "completed", "{case}: {ended:?}");
                moved += 100;
            }
            let balances = (bank.reader().balance(from).await?, bank.reader().balance(to).await?);
            ensure!(balances == (Some(100_000 + paid_in - moved), Some(moved)), "{case} or a transfer: {balances:?}");
            eprintln!("kept: {case}, and both steps of a transfer");
        }
    }
    Ok(check_bank(&bank).await?)
}

async fn run_shop(exe: &Path) -> Result<()> {
    let mut shop = Cluster::shop(exe, Shape::own(2)).await?;
    let client = shop.client()?;
    let (products, customer) = shop.stock(&client, ["p1", "p2"], 1000).await?;
    let (customer, lines) = (customer.to_string(), order_lines(&products, &[1, 1, 1]));
    let input = [("customer_id", customer.as_str()), ("lines", lines.as_str())];
    let mut orders = 0;
    for point in KILL_POINTS {
        for victim in Victim::ALL {
            for (peer, step) in [("p1", "reserve"), ("p2", "reserve"), ("p2", "create_order"), ("p1", "confirm"), ("p2", "confirm")] {
                let case = format!("{step} on {peer}, {victim:?} killed at {point}");
                let chain = client.run_chain("place_order", &input, Uuid::now_v7());
                let ended =
                    while_killing(&mut shop, (peer, victim), (point, step), chain).await.context(case.clone())?.context(case.clone())?;
                ensure!(ended.status == "completed", "{case}: {ended:?}");
                orders += 1;
                let shelves = shop.reader().shelves(&products).await?;
                ensure!(shelves == vec![(1000 - orders, 0); 3], "{case}: {shelves:?}");
            }
            eprintln!("kept: an order, {victim:?} killed at {point} of each step");
        }
    }
    Ok(check_everything(&shop).await?)
}
