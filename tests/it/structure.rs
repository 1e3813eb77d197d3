//! The house: who depends on whom, and that no test file is forgotten.

use std::{collections::BTreeSet, path::PathBuf};

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The crates that a member depends on, tests of its own aside.
fn dependencies(member: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(workspace().join(member).join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = text.parse().expect("TOML");
    manifest.get("dependencies").and_then(toml::Value::as_table).map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

fn members() -> Vec<String> {
    let text = std::fs::read_to_string(workspace().join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = text.parse().expect("TOML");
    manifest["workspace"]["members"].as_array().expect("a list").iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

#[test]
fn only_worker_and_cluster_open_database_connections() {
    const DATABASE: [&str; 4] = ["tokio-postgres", "deadpool-postgres", "postgres-protocol", "tokio-postgres-rustls"];
    let openers: Vec<String> =
        members().into_iter().filter(|member| DATABASE.iter().any(|name| dependencies(member).contains(*name))).collect();
    assert_eq!(openers, ["worker", "cluster", "tests"]);
}

#[test]
fn the_schema_knows_neither_a_runtime_nor_the_wire() {
    for name in ["tokio", "tonic", "prost", "futures-util", "rootward-proto"] {
        assert!(!dependencies("schema").contains(name), "schema depends on {name}");
    }
}

#[test]
fn dependencies_point_one_way() {
    let ours =
        |member: &str| -> BTreeSet<String> { dependencies(member).into_iter().filter(|name| name.starts_with("rootward")).collect() };
    let allowed: [(&str, &[&str]); 8] = [
        ("schema", &[]),
        ("proto", &["rootward-schema"]),
        ("link", &["rootward-proto"]),
        ("client", &["rootward-schema", "rootward-proto", "rootward-link"]),
        ("metrics", &[]),
        ("router", &["rootward-schema", "rootward-proto", "rootward-link", "rootward-metrics"]),
        ("worker", &["rootward-schema", "rootward-proto", "rootward-router", "rootward-metrics"]),
        ("cluster", &["rootward-schema", "rootward-proto", "rootward-worker"]),
    ];
    for (member, allowed) in allowed {
        let strays: Vec<String> = ours(member).into_iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(strays.is_empty(), "{member} depends on {strays:?}");
    }
}

#[test]
fn every_file_of_this_folder_is_a_module_of_the_program() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("it");
    let main = std::fs::read_to_string(folder.join("main.rs")).expect("main.rs");
    let declared: BTreeSet<&str> = main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    let names = std::fs::read_dir(&folder)
        .expect("a folder")
        .flatten()
        .map(|entry| entry.path().file_stem().expect("a name").to_string_lossy().into_owned());
    let forgotten: Vec<String> = names.filter(|name| name != "main" && !declared.contains(name.as_str())).collect();
    assert!(forgotten.is_empty(), "main.rs doesn't name {forgotten:?}");
}

#[test]
fn no_test_is_ignored() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("it");
    let mark = ["#[", "ignore"].concat();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten().filter(|entry| entry.path().is_file()) {
        let text = std::fs::read_to_string(entry.path()).expect("a file");
        assert!(!text.contains(&mark), "{} ignores a test", entry.path().display());
    }
}
