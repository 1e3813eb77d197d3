//! The partition of a key is what PostgreSQL computes: 10,000 keys of each type, by the same expression that `verify` uses.

use rootward_schema::{RootEntity, Schema, Type, partition_of, sql_partition_expression};

use crate::shared::bank;

const PARTITIONS: u32 = 1024;

/// Types with SQL that makes 10,000 keys: the edges, and pseudo-random ones that are the same in every run.
const KEYS: &[(&str, &str)] = &[
    (
        "bigint",
        "select (('x' || substr(md5(n::text), 1, 16))::bit(64)::bigint) from generate_series(1, 10000) n union all values (0), (-1), (9223372036854775807), (-9223372036854775808)",
    ),
    (
        "integer",
        "select (('x' || substr(md5(n::text), 1, 8))::bit(32)::integer) from generate_series(1, 10000) n union all values (0), (-1), (2147483647), (-2147483648)",
    ),
    ("smallint", "select n::smallint from generate_series(-5000, 5000) n union all values (32767), (-32768)"),
    (
        "text",
        "select repeat(md5(n::text), n % 5) || chr(33 + n % 5000) from generate_series(1, 10000) n union all values (''), ('ä'), ('zwölf Zeichen')",
    ),
    ("varchar", "select (substr(md5(n::text), 1, n % 33) || 'é')::varchar from generate_series(1, 10000) n"),
    ("uuid", "select md5(n::text)::uuid from generate_series(1, 10000) n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_partition_is_the_one_that_postgresql_computes() {
    let reader = bank().await.reader();
    for (name, keys) in KEYS {
        let key_type = Type::from_name(name);
        let partition = sql_partition_expression(&key_type, "key", PARTITIONS);
        let sql = format!("select key::text, ({partition})::integer from ({keys}) as made(key)");
        let rows = reader.rows("p1", &sql, &[]).await.expect("a superuser may");
        assert!(rows.len() >= 10_000, "{name}: {}", rows.len());
        for row in rows {
            let (key, wanted): (String, i32) = (row.get(0), row.get(1));
            let ours = partition_of(&key_type, &key, PARTITIONS).expect("a key of its type");
            assert_eq!(i32::try_from(ours), Ok(wanted), "{name} `{key}`");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_that_of_a_key_which_is_placed_by_region() {
    let bank = bank().await;
    let schema = Schema { regions: ["eu", "us-east", "x"].map(str::to_owned).to_vec(), ..bank.schema.clone() };
    let root = RootEntity { key_type: Type::Text, is_placed_by_region: true, ..bank.schema.roots["account"].clone() };
    let partition = schema.partition_expression(&root, "key");
    let keys = "select (array['eu', 'us-east', 'x', 'xx', 'EU', ''])[1 + n % 6] || (array[':', '', '::', ':a:'])[1 + n % 4] || md5(n::text) from generate_series(1, 10000) n \
                union all values ('eu'), (':'), ('x:'), ('us-east:ä:é')";
    let rows =
        bank.reader().rows("p1", &format!("select key::text, {partition} from ({keys}) as made(key)"), &[]).await.expect("a superuser may");
    let mut placed = 0;
    for row in rows {
        let (key, wanted): (String, Option<i32>) = (row.get(0), row.get(1));
        let ours = schema.partition_of(&root, &key).ok();
        assert_eq!(ours.map(i64::from), wanted.map(i64::from), "`{key}`");
        placed += usize::from(ours.is_some());
    }
    assert!(placed > 3_000, "{placed}");
}
