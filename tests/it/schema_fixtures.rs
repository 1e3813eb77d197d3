//! Schema files: the examples compile, and each bad schema is refused, or warned of, in the words that stand beside it.

use std::path::{Path, PathBuf};

use rootward_cluster::{introspect, scratch_database};
use rootward_schema::{Column, Expression, OnExhausted, OnFailure, Retry, Schema, Source, Type, Wait, check, codes, render};
use tokio_postgres::{Client, NoTls};

const ROOTWARD: &str = env!("CARGO_BIN_EXE_rootward-test");
/// Set to anything to write down what the check says now; look at the difference before it is committed.
const ACCEPT: &str = "ROOTWARD_ACCEPT";

#[tokio::test]
async fn every_bad_schema_is_answered_in_the_words_beside_it() {
    let scratch = scratch_database(ROOTWARD).await.expect("a database");
    let mut client = connect(&scratch.conninfo()).await;
    let mut wrong = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for folder in folders("fixtures") {
        let source = Source::read(&folder);
        let facts = introspect(&mut client, &source).await.expect("the server answers");
        let findings = match check(&source, &facts) {
            Ok((_, findings)) | Err(findings) => findings,
        };
        assert!(!findings.is_empty(), "{}: nothing was found", folder.display());
        seen.extend(findings.iter().map(|finding| finding.code));
        let said = render(&findings, &source);
        let expected = folder.join("expected.txt");
        if std::env::var_os(ACCEPT).is_some() {
            std::fs::write(&expected, &said).expect("written");
        }
        if std::fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{}:\n{said}", folder.display()));
        }
    }
    assert!(wrong.is_empty(), "other words than expected; set {ACCEPT}=1 to accept them\n{}", wrong.join("\n"));
    let of_schema = codes::CATALOGUE.iter().filter(|entry| entry.code.starts_with("RW10"));
    let unseen: Vec<&str> = of_schema.map(|entry| entry.code).filter(|code| !seen.contains(code)).collect();
    assert!(unseen.is_empty(), "no fixture shows {unseen:?}");
}

#[tokio::test]
async fn the_examples_compile_without_a_warning() {
    let scratch = scratch_database(ROOTWARD).await.expect("a database");
    let mut client = connect(&scratch.conninfo()).await;
    for folder in folders("examples") {
        let schema = compile(&mut client, &folder).await;
        let stored = serde_json::to_string(&schema).expect("JSON");
        let read: Schema = serde_json::from_str(&stored).expect("a schema");
        assert_eq!(read, schema, "a schema survives being stored");
    }
}

#[tokio::test]
async fn the_shop_has_the_trees_of_its_description() {
    let scratch = scratch_database(ROOTWARD).await.expect("a database");
    let mut client = connect(&scratch.conninfo()).await;
    let schema = compile(&mut client, &schema_folder().join("examples/shop")).await;
    let tables = |entity: &str| -> Vec<&str> { schema.roots[entity].tables.iter().map(|table| table.name.as_str()).collect() };
    assert_eq!(tables("customer"), ["customer", "orders", "order_line"]);
    assert_eq!(tables("product"), ["product", "stock", "reservation"]);
    let (_, line) = schema.tree_table("order_line").expect("it is in a tree");
    assert_eq!((line.key_column.as_str(), line.parent.as_deref()), ("customer_id", Some("orders")));
    assert!(schema.reference.iter().all(|table| table.is_referred_to));
    let steps: Vec<(&str, bool)> = schema.chains["place_order"].steps.iter().map(|step| (step.name.as_str(), step.is_pivot)).collect();
    assert_eq!(steps, [("reserve", false), ("create_order", true), ("confirm", false)]);
}

#[tokio::test]
async fn the_workflow_compiles_to_what_it_says() {
    let scratch = scratch_database(ROOTWARD).await.expect("a database");
    let mut client = connect(&scratch.conninfo()).await;
    let schema = compile(&mut client, &schema_folder().join("examples/workflow")).await;
    let after = |chain: &str| -> Vec<Option<Vec<u32>>> { schema.chains[chain].steps.iter().map(|step| step.after.clone()).collect() };
    assert_eq!(after("side_by_side"), [None, Some(vec![0]), Some(vec![0]), Some(vec![1, 2]), None]);
    assert_eq!(schema.chains["side_by_side"].result["last"], Expression::Parameter("last".to_owned()));

    let [ask, approval, _] = schema.chains["approval"].steps.as_slice() else { panic!("three steps") };
    let payload = [("approved_by", Type::Text), ("amount", Type::Bigint)];
    let payload = payload.map(|(name, r#type)| Column { name: name.to_owned(), r#type }).to_vec();
    assert_eq!(approval.wait, Some(Wait::Signal { payload, timeout_ms: Some(8_000) }));
    assert_eq!((&approval.entity, &approval.root_key, approval.call.as_str()), (&ask.entity, &ask.root_key, ""));
    assert_eq!(schema.chains["delayed"].steps[1].wait, Some(Wait::Timer { after_ms: 1_000 }));
    assert_eq!(schema.chains["kept"].steps[1].on_failure, OnFailure::Keep);
    assert_eq!(schema.chains["impatient"].deadline_ms, Some(8_000));

    let second = &schema.chains["brittle"].steps[1];
    let retry = Retry { initial_ms: 50, max_ms: 1_000, attempts: 2, non_retryable: vec!["55P03".to_owned()], ..Retry::default() };
    assert_eq!((&second.retry, second.on_exhausted), (&retry, OnExhausted::Fail));
    assert_eq!(schema.chains["brittle"].steps[0].retry, Retry::default());
}

/// What stands between ```` ```LANGUAGE ```` and ```` ``` ```` on a page.
fn snippets<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("\n```{language}\n");
    page.split(opening.as_str()).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[tokio::test]
async fn the_snippets_about_chains_are_one_schema_without_a_warning() {
    let page = std::fs::read_to_string(schema_folder().join("../docs/chains.md")).expect("the page");
    let (tables, transactions): (Vec<&str>, Vec<&str>) = snippets(&page, "sql").into_iter().partition(|sql| sql.starts_with("create "));
    let settings = snippets(&page, "toml");
    assert!(settings.len() >= 4 && tables.len() == 1 && transactions.len() >= 6, "the page has its snippets");
    let (settings, tables, transactions) = (settings.join("\n"), tables.join("\n"), transactions.join("\n\n"));
    let files = [("rootward.toml", settings.as_str()), ("tables.sql", &tables), ("transactions/page.sql", &transactions)];

    let scratch = scratch_database(ROOTWARD).await.expect("a database");
    let mut client = connect(&scratch.conninfo()).await;
    let schema = compile_source(&mut client, &Source::from_texts(files), "docs/chains.md").await;
    let known: Vec<&str> = schema.chains.keys().map(String::as_str).collect();
    assert_eq!(known, ["order", "order_at_price", "transfer"]);
}

#[tokio::test]
async fn trying_a_schema_out_leaves_the_database_as_it_was() {
    let scratch = scratch_database(ROOTWARD).await.expect("a database");
    let mut client = connect(&scratch.conninfo()).await;
    compile(&mut client, &schema_folder().join("examples/bank")).await;
    let left = client
        .query_one(
            "select (select count(*) from pg_class where relnamespace = 'public'::regnamespace)
                  + (select count(*) from pg_roles where rolname like 'rootward_schema%')
                  + (select count(*) from pg_prepared_statements where name like 'rootward%')",
            &[],
        )
        .await
        .expect("a count");
    assert_eq!(left.get::<_, i64>(0), 0);

    client.batch_execute("create table account (account_id bigint)").await.expect("created");
    let source = Source::read(&schema_folder().join("examples/bank"));
    let error = introspect(&mut client, &source).await.expect_err("a name is taken");
    assert!(error.to_string().contains("`account`"), "{error}");
}

#[tokio::test]
async fn what_a_view_or_a_function_locked_is_not_laid_to_a_statement() {
    let scratch = scratch_database(ROOTWARD).await.expect("a database");
    let mut client = connect(&scratch.conninfo()).await;
    let source = Source::from_texts([
        ("rootward.toml", "name = \"t\"\n[root.a]\ntable = \"a\"\n[root.b]\ntable = \"b\"\n"),
        (
            "tables.sql",
            "create table a (id bigint primary key, v int); create table b (id bigint primary key, v int);
             create view v with (security_invoker = true) as select a.v from a, b;
             create function f() returns void language sql begin atomic insert into b values (1, 1); end;",
        ),
        ("transactions/t.sql", "-- name: t\n-- root: a = :id\nupdate a set v = 1 where id = :id;\n"),
    ]);
    let facts = introspect(&mut client, &source).await.expect("the server answers");
    let (schema, warnings) = check(&source, &facts).unwrap_or_else(|findings| panic!("{}", render(&findings, &source)));
    assert!(warnings.is_empty());
    assert!(!schema.transactions["t"].can_refuse, "nothing demands anything of column `v`");
}

async fn compile(client: &mut Client, folder: &Path) -> Schema {
    compile_source(client, &Source::read(folder), &folder.display().to_string()).await
}

async fn compile_source(client: &mut Client, source: &Source, what: &str) -> Schema {
    let facts = introspect(client, source).await.expect("the server answers");
    match check(source, &facts) {
        Ok((schema, warnings)) if warnings.is_empty() => schema,
        Ok((_, findings)) | Err(findings) => panic!("{what}:\n{}", render(&findings, source)),
    }
}

fn schema_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schema")
}

fn folders(of: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(schema_folder().join(of)).expect("a folder");
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

async fn connect(conninfo: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}
