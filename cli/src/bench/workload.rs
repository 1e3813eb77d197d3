//! What is measured: a schema, what it is filled with, and one transaction at one root.

use std::{borrow::Cow, path::Path, sync::Arc};

use rand::{Rng, RngExt as _};
use rootward_client::Arguments;
use rootward_schema::Source;

use super::file_script::{FileScript, TRANSACTION};
use crate::{bank, edge::Wrong};

/// A transaction that is called over and over.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub transaction: &'static str,
    pub draws: Draws,
}

/// The arguments of a transaction, and how each is chosen.
#[derive(Debug, Clone)]
pub(crate) enum Draws {
    Each(&'static [(&'static str, Draw)]),
    /// By a script for pgbench.
    Script(Arc<FileScript>),
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
    source: Source,
    /// How many roots there are; their keys count from 1.
    pub roots: u64,
    /// Written on the hub before anything else, one after the other.
    pub reference: Vec<Request>,
    /// What makes one root.
    pub fill: Vec<fn(u64) -> Request>,
    pub main: Shape,
    /// A transaction like `main` that lanes can't run set-wise.
    pub by_rows: Option<Shape>,
    /// What fills the tables instead.
    pub setup: Option<Setup>,
    /// What must stay the same whatever happens, on each node, as a number of type bigint; none if nobody knows.
    pub total_sql: Option<&'static str>,
    /// What grows by one with each transaction that was done, on each node.
    pub count_sql: &'static str,
    /// Whether a baseline's transactions are counted there, too.
    pub counts_baselines: bool,
}

/// SQL of the user's.
#[derive(Debug)]
pub(crate) struct Setup {
    /// For the reference tables, run on the hub.
    pub reference: Option<String>,
    /// For the trees, run on the only peer.
    pub trees: String,
}

/// The files that a user brings along.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    /// A folder.
    pub schema: &'a Path,
    pub setup: &'a Path,
    pub reference: Option<&'a Path>,
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
            source: extended(bank::FILES, include_str!("workload/bank_rows_tables.sql"), include_str!("workload/bank_rows.sql")),
            roots: 10_000,
            reference: vec![("add_currency", currency.to_vec())],
            fill: vec![account],
            main: Shape { transaction: "deposit", draws: Draws::Each(DEPOSIT) },
            by_rows: Some(Shape { transaction: "deposit_by_rows", draws: Draws::Each(DEPOSIT) }),
            // What was paid in is taken off, so that a deposit that was half done shows, in either half.
            setup: None,
            total_sql: Some(
                "select (((select coalesce(sum(balance), 0) from account) \
                        - (select coalesce(sum(amount), 0) from entry where kind = 'deposit')) * 100)::bigint",
            ),
            count_sql: "select count(*) from entry where kind = 'deposit'",
            counts_baselines: true,
        }
    }

    /// The same with a journal.
    pub(crate) fn bank_with_journal() -> Workload {
        let journaled = |text: &str| text.replacen("table = \"account\"", "table = \"account\"\njournal = true", 1);
        let files: Vec<(&str, String)> = bank::FILES
            .iter()
            .map(|(path, text)| (*path, if *path == "rootward.toml" { journaled(text) } else { (*text).to_owned() }))
            .collect();
        Workload { source: Source::from_texts(files.iter().map(|(path, text)| (*path, text.as_str()))), by_rows: None, ..Workload::bank() }
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
            source: extended(SHOP, "", include_str!("workload/shop_restock.sql")),
            roots: PRODUCTS,
            reference: warehouses.into_iter().chain((1..=PRODUCTS).map(item)).collect(),
            fill: vec![|number| ("add_product", vec![("product_id", number.to_string())]), stock],
            main: Shape {
                transaction: "restock",
                draws: Draws::Each(&[("product_id", Draw::Root), ("warehouse", Draw::Fixed("south")), ("quantity", Draw::Fixed("1"))]),
            },
            by_rows: None,
            setup: None,
            total_sql: Some("select coalesce(sum(initial - on_hand), 0)::bigint from stock"),
            count_sql: "select coalesce(sum(initial), 0)::bigint from stock",
            counts_baselines: true,
        }
    }

    /// pgbench's TPC-B; every account with its branch and tellers is a root.
    pub(crate) fn tpcb() -> Workload {
        Workload {
            name: "tpcb",
            source: Source::from_texts([
                ("rootward.toml", include_str!("workload/tpcb.toml")),
                ("tables.sql", concat!(include_str!("workload/tpcb_tables.sql"), include_str!("workload/tpcb_history.sql"))),
                ("transactions/open.sql", include_str!("workload/tpcb_open.sql")),
                ("transactions/tpcb.sql", include_str!("workload/tpcb_transactions.sql")),
            ]),
            roots: 10_000,
            reference: Vec::new(),
            fill: vec![|number| ("open_account", vec![("account_id", number.to_string())])],
            main: Shape {
                transaction: "tpcb",
                draws: Draws::Each(&[
                    ("account_id", Draw::Root),
                    ("teller_id", Draw::Between(1, 10)),
                    ("delta", Draw::Between(-5_000, 5_000)),
                ]),
            },
            by_rows: None,
            setup: None,
            total_sql: Some(
                "select ((select coalesce(sum(balance), 0) from account) \
                        - (select coalesce(sum(delta), 0) from history))::bigint",
            ),
            count_sql: "select count(*) from history",
            counts_baselines: true,
        }
    }

    /// The example xtm, with so many accounts.
    pub(crate) fn xtm(accounts: u64) -> Workload {
        Workload {
            name: "xtm",
            source: Source::from_texts(XTM.iter().copied()),
            roots: accounts,
            reference: Vec::new(),
            fill: vec![|number| ("open_account", vec![("u", number.to_string())])],
            main: Shape { transaction: "look", draws: Draws::Each(&[("u", Draw::Root)]) },
            by_rows: None,
            setup: None,
            total_sql: Some("select coalesce(sum(v), 0)::bigint from t"),
            count_sql: "select 0::bigint",
            counts_baselines: false,
        }
    }

    /// A script for pgbench, over the tables of `tpcb`, or over those of a folder and what a file of SQL puts into them.
    ///
    /// # Errors
    /// [`Wrong`], with file and line.
    pub(crate) fn pgbench(mut script: FileScript, given: Option<Given<'_>>) -> Result<Workload, Wrong> {
        let base = Workload::tpcb();
        let read = |path: &Path| {
            let wrong = |error| Wrong::new("RW1108", format!("the data {} can't be read: {error}", path.display()), "name a file of SQL");
            std::fs::read_to_string(path).map_err(wrong)
        };
        let (source, setup) = match given {
            Some(Given { schema, setup, reference }) => {
                let setup = Setup { trees: read(setup)?, reference: reference.map(read).transpose()? };
                (Source::read(schema), Some(setup))
            }
            None => (Source::from_texts(PGBENCH.iter().copied()), None),
        };
        let source = script.declare_in(source)?;
        Ok(Workload {
            name: "pgbench",
            source,
            roots: if setup.is_some() { 0 } else { base.roots * u64::from(script.scale) },
            setup,
            main: Shape { transaction: TRANSACTION, draws: Draws::Script(Arc::new(script)) },
            total_sql: None,
            count_sql: "select count(*) from rootward.outcome where transaction = 'pgbench_script' and kind = 'done'",
            counts_baselines: false,
            ..base
        })
    }

    /// The schema's files, as the compiler reads them.
    pub(super) fn source(&self) -> Source {
        self.source.clone()
    }
}

impl Shape {
    /// Arguments of one call.
    ///
    /// # Errors
    /// If a script's expression has no value.
    pub(super) fn arguments(&self, roots: u64, random: &mut impl Rng) -> anyhow::Result<Arguments> {
        let draws = match &self.draws {
            Draws::Script(script) => return script.arguments(random),
            Draws::Each(draws) => *draws,
        };
        Ok(draws.iter().fold(Arguments::new(), |arguments, (name, draw)| match draw {
            Draw::Root => arguments.with(name, random.random_range(1..=roots)),
            Draw::Fixed(text) => arguments.with(name, text),
            Draw::Between(low, high) => arguments.with(name, random.random_range(*low..=*high)),
        }))
    }
}

const DEPOSIT: &[(&str, Draw)] = &[("account_id", Draw::Root), ("amount", Draw::Fixed("1"))];

/// What a script for pgbench finds if it brings no schema: TPC-B's tables without its invariant, for it may change what it likes.
const PGBENCH: &[(&str, &str)] = &[
    ("rootward.toml", include_str!("workload/pgbench.toml")),
    ("tables.sql", concat!(include_str!("workload/tpcb_tables.sql"), include_str!("workload/pgbench_history.sql"))),
    ("transactions/open.sql", include_str!("workload/tpcb_open.sql")),
];

/// The example xtm's files, by their path in its folder.
const XTM: &[(&str, &str)] = &[
    ("rootward.toml", include_str!("../../../schema/examples/xtm/rootward.toml")),
    ("tables.sql", include_str!("../../../schema/examples/xtm/tables.sql")),
    ("transactions/transfer.sql", include_str!("../../../schema/examples/xtm/transactions/transfer.sql")),
];

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
fn extended(example: &[(&'static str, &'static str)], tables: &str, transactions: &'static str) -> Source {
    let file = |(path, text): &(&'static str, &'static str)| match *path {
        "tables.sql" => (*path, Cow::from(format!("{text}{tables}"))),
        _ => (*path, Cow::from(*text)),
    };
    let files: Vec<(&str, Cow<str>)> = example.iter().map(file).collect();
    let files = files.iter().map(|(path, text)| (*path, text.as_ref()));
    Source::from_texts(files.chain([("transactions/bench.sql", transactions)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_drawn_from_where_they_may_be() {
        let draws = Draws::Each(&[("a", Draw::Root), ("b", Draw::Fixed("x")), ("c", Draw::Between(-1, 1))]);
        let shape = Shape { transaction: "t", draws };
        let mut random = rand::rng();
        let allowed: Vec<Arguments> = (1..=2)
            .flat_map(|root| (-1..=1).map(move |number| Arguments::new().with("a", root).with("b", "x").with("c", number)))
            .collect();
        for _ in 0..100 {
            let drawn = shape.arguments(2, &mut random).expect("drawn");
            assert!(allowed.contains(&drawn), "{drawn:?}");
        }
    }
}
