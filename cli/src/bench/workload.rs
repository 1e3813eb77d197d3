//! What is measured: a schema, what it is filled with, and one transaction at one root.

use std::borrow::Cow;

use rand::{Rng, RngExt as _};
use rootward_client::Arguments;
use rootward_schema::Source;

use crate::bank;

/// A transaction that is called over and over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub transaction: &'static str,
    /// Its arguments, and how each is chosen.
    pub draws: &'static [(&'static str, Draw)],
}

/// How an argument is chosen, for us and for pgbench alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Draw {
    /// One of the roots, all of them alike.
    Root,
    /// Always the same.
    Fixed(&'static str),
    /// Between these two, both included.
    Between(i64, i64),
}

/// One benchmark's data and transactions.
#[derive(Debug)]
pub(crate) struct Workload {
    pub name: &'static str,
    files: Vec<(&'static str, Cow<'static, str>)>,
    /// How many roots there are; their keys count from 1.
    pub roots: u64,
    /// Written on the hub before anything else, one after the other.
    pub reference: Vec<Request>,
    /// What makes one root.
    pub fill: Vec<fn(u64) -> Request>,
    pub main: Shape,
    /// A transaction like `main` that lanes can't run set-wise.
    pub by_rows: Option<Shape>,
    /// What must stay the same whatever happens, on each node, as a number of type bigint.
    pub total_sql: &'static str,
    /// What grows by one with each transaction that was done, on each node.
    pub count_sql: &'static str,
}

/// A transaction with its arguments.
pub(crate) type Request = (&'static str, Vec<(&'static str, String)>);

impl Workload {
    /// The example bank; a deposit.
    pub(crate) fn bank() -> Workload {
        let currency = [("code", "EUR"), ("name", "Euro"), ("minor_digits", "2")].map(|(name, value)| (name, value.to_owned()));
        let account = |number: u64| {
            let arguments = [("account_id", number.to_string()), ("owner", format!("owner {number}")), ("amount", "1000".to_owned())];
            ("open_account", arguments.to_vec())
        };
        Workload {
            name: "bank",
            files: extended(bank::FILES, include_str!("workload/bank_rows_tables.sql"), include_str!("workload/bank_rows.sql")),
            roots: 10_000,
            reference: vec![("add_currency", currency.to_vec())],
            fill: vec![account],
            main: Shape { transaction: "deposit", draws: DEPOSIT },
            by_rows: Some(Shape { transaction: "deposit_by_rows", draws: DEPOSIT }),
            // What was paid in is taken off, so that a deposit that was half done shows, in either half.
            total_sql: "select (((select coalesce(sum(balance), 0) from account) \
                        - (select coalesce(sum(amount), 0) from entry where kind = 'deposit')) * 100)::bigint",
            count_sql: "select count(*) from entry where kind = 'deposit'",
        }
    }

    /// The example shop; goods come in.
    pub(crate) fn shop() -> Workload {
        const PRODUCTS: u64 = 1_000;
        let warehouses = ["north", "south"].map(|name| ("add_warehouse", vec![("warehouse", name.to_owned())]));
        let item = |number: u64| {
            let arguments = [("product_id", number.to_string()), ("name", format!("product {number}")), ("price", "9.99".to_owned())];
            ("add_catalogue_item", arguments.to_vec())
        };
        let stock = |number: u64| {
            let arguments = [("product_id", number.to_string()), ("warehouse", "north".to_owned()), ("quantity", "100".to_owned())];
            ("add_stock", arguments.to_vec())
        };
        Workload {
            name: "shop",
            files: extended(SHOP, "", include_str!("workload/shop_restock.sql")),
            roots: PRODUCTS,
            reference: warehouses.into_iter().chain((1..=PRODUCTS).map(item)).collect(),
            fill: vec![|number| ("add_product", vec![("product_id", number.to_string())]), stock],
            main: Shape {
                transaction: "restock",
                draws: &[("product_id", Draw::Root), ("warehouse", Draw::Fixed("south")), ("quantity", Draw::Fixed("1"))],
            },
            by_rows: None,
            total_sql: "select coalesce(sum(initial - on_hand), 0)::bigint from stock",
            count_sql: "select coalesce(sum(initial), 0)::bigint from stock",
        }
    }

    /// pgbench's TPC-B; every account with its branch and tellers is a root.
    pub(crate) fn tpcb() -> Workload {
        Workload {
            name: "tpcb",
            files: vec![
                ("rootward.toml", include_str!("workload/tpcb.toml").into()),
                ("tables.sql", include_str!("workload/tpcb_tables.sql").into()),
                ("transactions/tpcb.sql", include_str!("workload/tpcb_transactions.sql").into()),
            ],
            roots: 10_000,
            reference: Vec::new(),
            fill: vec![|number| ("open_account", vec![("account_id", number.to_string())])],
            main: Shape {
                transaction: "tpcb",
                draws: &[("account_id", Draw::Root), ("teller_id", Draw::Between(1, 10)), ("delta", Draw::Between(-5_000, 5_000))],
            },
            by_rows: None,
            total_sql: "select ((select coalesce(sum(balance), 0) from account) \
                        - (select coalesce(sum(delta), 0) from history))::bigint",
            count_sql: "select count(*) from history",
        }
    }

    /// The schema's files, as the compiler reads them.
    pub(super) fn source(&self) -> Source {
        Source::from_texts(self.files.iter().map(|(path, text)| (*path, text.as_ref())))
    }
}

impl Shape {
    /// Arguments of one call.
    pub(super) fn arguments(&self, roots: u64, random: &mut impl Rng) -> Arguments {
        self.draws.iter().fold(Arguments::new(), |arguments, (name, draw)| match draw {
            Draw::Root => arguments.with(name, random.random_range(1..=roots)),
            Draw::Fixed(text) => arguments.with(name, text),
            Draw::Between(low, high) => arguments.with(name, random.random_range(*low..=*high)),
        })
    }
}

const DEPOSIT: &[(&str, Draw)] = &[("account_id", Draw::Root), ("amount", Draw::Fixed("1"))];

/// The example shop's files, by their path in its folder.
const SHOP: &[(&str, &str)] = &[
    ("rootward.toml", include_str!("../../../schema/examples/shop/rootward.toml")),
    ("tables.sql", include_str!("../../../schema/examples/shop/tables.sql")),
    ("transactions/catalogue.sql", include_str!("../../../schema/examples/shop/transactions/catalogue.sql")),
    ("transactions/customers.sql", include_str!("../../../schema/examples/shop/transactions/customers.sql")),
    ("transactions/place_order.sql", include_str!("../../../schema/examples/shop/transactions/place_order.sql")),
    ("transactions/products.sql", include_str!("../../../schema/examples/shop/transactions/products.sql")),
];

/// An example with more tables or functions, and more transactions.
fn extended(example: &[(&'static str, &'static str)], tables: &str, transactions: &'static str) -> Vec<(&'static str, Cow<'static, str>)> {
    let file = |(path, text): &(&'static str, &'static str)| match *path {
        "tables.sql" => (*path, Cow::from(format!("{text}{tables}"))),
        _ => (*path, Cow::from(*text)),
    };
    example.iter().map(file).chain([("transactions/bench.sql", transactions.into())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_drawn_from_where_they_may_be() {
        let shape = Shape { transaction: "t", draws: &[("a", Draw::Root), ("b", Draw::Fixed("x")), ("c", Draw::Between(-1, 1))] };
        let mut random = rand::rng();
        let allowed: Vec<Arguments> = (1..=2)
            .flat_map(|root| (-1..=1).map(move |number| Arguments::new().with("a", root).with("b", "x").with("c", number)))
            .collect();
        for _ in 0..100 {
            let drawn = shape.arguments(2, &mut random);
            assert!(allowed.contains(&drawn), "{drawn:?}");
        }
    }
}
