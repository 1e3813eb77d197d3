//! Facts about tables and what belongs to them, from PostgreSQL's catalogues.

use rootward_schema::facts::{
    Action, CheckFact, ColumnFact, Facts, ForeignKeyFact, FunctionFact, RuleFact, TableFact, TableKind, TriggerFact, UniqueFact, ViewFact,
};
use rootward_schema::{DeferrableConstraint, Type};
use tokio_postgres::{Error, Row, Transaction};

/// What was there before.
pub(crate) struct Existing {
    /// What namespace `public` held.
    pub names: Vec<String>,
    relations: Vec<u32>,
    functions: Vec<u32>,
}

pub(crate) async fn existing(transaction: &Transaction<'_>) -> Result<Existing, Error> {
    let relations = transaction.query("select oid, relname::text, relnamespace = 'public'::regnamespace from pg_class", &[]).await?;
    let functions = transaction.query("select oid, proname::text, pronamespace = 'public'::regnamespace from pg_proc", &[]).await?;
    Ok(Existing {
        names: relations.iter().chain(&functions).filter(|row| row.get(2)).map(|row| row.get(1)).collect(),
        relations: relations.iter().map(|row| row.get(0)).collect(),
        functions: functions.iter().map(|row| row.get(0)).collect(),
    })
}

/// Reads everything that was created since.
pub(crate) async fn read(transaction: &Transaction<'_>, before: &Existing) -> Result<Facts, Error> {
    let mut facts = Facts::default();
    let relations = transaction
        .query(
            "select oid, relname::text, relkind::text, relpersistence::text,
                    relispartition or exists (select from pg_inherits where inhrelid = pg_class.oid),
                    coalesce((select option_value::boolean from pg_options_to_table(reloptions) where option_name = 'security_invoker'), false)
             from pg_class
             where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'f', 'v', 'm') and oid <> all ($1)
             order by oid",
            &[&before.relations],
        )
        .await?;
    for row in &relations {
        let kind: String = row.get(2);
        if kind == "v" || kind == "m" {
            facts.views.push(ViewFact { name: row.get(1), is_materialized: kind == "m", is_security_invoker: row.get(5) });
        } else {
            facts.tables.push(table(transaction, row, &kind).await?);
        }
    }
    facts.functions = functions(transaction, before).await?;
    facts.rules = rules(transaction, before).await?;
    facts.strays = strays(transaction, before).await?;
    Ok(facts)
}

async fn table(transaction: &Transaction<'_>, row: &Row, kind: &str) -> Result<TableFact, Error> {
    let oid: u32 = row.get(0);
    let persistence: String = row.get(3);
    let mut table = TableFact {
        name: row.get(1),
        kind: match kind {
            "p" => TableKind::Partitioned,
            "f" => TableKind::Foreign,
            _ => TableKind::Ordinary,
        },
        is_unlogged: persistence == "u",
        is_inherited: row.get(4),
        columns: columns(transaction, oid).await?,
        unique: unique_indexes(transaction, oid).await?,
        triggers: triggers(transaction, oid).await?,
        calls_functions: calls_functions(transaction, oid).await?,
        ..TableFact::default()
    };
    constraints(transaction, oid, &mut table).await?;
    Ok(table)
}

async fn columns(transaction: &Transaction<'_>, oid: u32) -> Result<Vec<ColumnFact>, Error> {
    let rows = transaction
        .query(
            "select attname::text, format_type(atttypid, null), attnotnull, pg_get_expr(adbin, adrelid), attidentity <> '', attgenerated <> ''
             from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
             where attrelid = $1 and attnum > 0 and not attisdropped
             order by attnum",
            &[&oid],
        )
        .await?;
    let column = |row: &Row| ColumnFact {
        name: row.get(0),
        r#type: Type::from_name(row.get(1)),
        is_not_null: row.get(2),
        default: row.get(3),
        is_identity: row.get(4),
        is_generated: row.get(5),
    };
    Ok(rows.iter().map(column).collect())
}

/// Unique indexes, and those behind exclusion constraints, without the primary key's. An expression in one is no
/// column, so it is left out.
async fn unique_indexes(transaction: &Transaction<'_>, oid: u32) -> Result<Vec<UniqueFact>, Error> {
    let rows = transaction
        .query(
            "select relname::text,
                    array(select attname::text
                          from unnest(indkey::int2[]) with ordinality as key(attnum, at)
                               join pg_attribute on attrelid = indrelid and pg_attribute.attnum = key.attnum
                          where key.attnum > 0 and key.at <= indnkeyatts
                          order by key.at)
             from pg_index join pg_class on pg_class.oid = indexrelid
             where indrelid = $1 and (indisunique or indisexclusion) and not indisprimary
             order by indexrelid",
            &[&oid],
        )
        .await?;
    Ok(rows.iter().map(|row| UniqueFact { name: row.get(0), columns: row.get(1) }).collect())
}

/// PostgreSQL notes what a definition depends on, but for its own objects, which have the lower numbers.
async fn calls_functions(transaction: &Transaction<'_>, oid: u32) -> Result<bool, Error> {
    let sql = "select exists (
                 select from pg_depend
                 where refobjid >= 16384 and refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass)
                   and (classid = 'pg_constraint'::regclass and objid in (select oid from pg_constraint where conrelid = $1)
                     or classid = 'pg_attrdef'::regclass and objid in (select oid from pg_attrdef where adrelid = $1)
                     or classid = 'pg_class'::regclass and (objid = $1 or objid in (select indexrelid from pg_index where indrelid = $1))))";
    Ok(transaction.query_one(sql, &[&oid]).await?.get(0))
}

async fn triggers(transaction: &Transaction<'_>, oid: u32) -> Result<Vec<TriggerFact>, Error> {
    let rows =
        transaction.query("select tgname::text, proname::text from pg_trigger join pg_proc on pg_proc.oid = tgfoid where tgrelid = $1 and not tgisinternal order by tgname", &[&oid]).await?;
    Ok(rows.iter().map(|row| TriggerFact { name: row.get(0), function: row.get(1) }).collect())
}

async fn constraints(transaction: &Transaction<'_>, oid: u32, table: &mut TableFact) -> Result<(), Error> {
    let rows = transaction
        .query(
            "select conname::text, contype::text, condeferrable, condeferred, target.relname::text, confdeltype::text, confupdtype::text,
                    array(select attname::text from unnest(conkey) with ordinality as key(attnum, at)
                          join pg_attribute on attrelid = conrelid and pg_attribute.attnum = key.attnum order by key.at),
                    array(select attname::text from unnest(confkey) with ordinality as key(attnum, at)
                          join pg_attribute on attrelid = confrelid and pg_attribute.attnum = key.attnum order by key.at)
             from pg_constraint left join pg_class as target on target.oid = confrelid
             where conrelid = $1
             order by pg_constraint.oid",
            &[&oid],
        )
        .await?;
    for row in &rows {
        let name: String = row.get(0);
        let columns: Vec<String> = row.get(7);
        if row.get(2) {
            table.deferrable.push(DeferrableConstraint { name: name.clone(), is_initially_deferred: row.get(3) });
        }
        match row.get::<_, &str>(1) {
            "p" => table.primary_key = columns,
            "c" => table.checks.push(CheckFact { name, columns }),
            "f" => table.foreign_keys.push(ForeignKeyFact {
                name,
                columns,
                target: row.get::<_, Option<String>>(4).unwrap_or_default(),
                target_columns: row.get(8),
                on_delete: action(row.get(5)),
                on_update: action(row.get(6)),
            }),
            _ => {}
        }
    }
    Ok(())
}

fn action(letter: &str) -> Action {
    match letter {
        "r" => Action::Restrict,
        "c" => Action::Cascade,
        "n" => Action::SetNull,
        "d" => Action::SetDefault,
        _ => Action::NoAction,
    }
}

async fn functions(transaction: &Transaction<'_>, before: &Existing) -> Result<Vec<FunctionFact>, Error> {
    let rows = transaction
        .query(
            "select proname::text, lanname::text, prosecdef, provolatile::text, coalesce(pg_get_function_sqlbody(pg_proc.oid), prosrc)
             from pg_proc join pg_language on pg_language.oid = prolang
             where pronamespace = 'public'::regnamespace and pg_proc.oid <> all ($1) and prokind in ('f', 'p')
             order by pg_proc.oid",
            &[&before.functions],
        )
        .await?;
    let function = |row: &Row| FunctionFact {
        name: row.get(0),
        language: row.get(1),
        is_security_definer: row.get(2),
        volatility: row.get::<_, &str>(3).chars().next().unwrap_or('v'),
        body: row.get(4),
    };
    Ok(rows.iter().map(function).collect())
}

/// Rules, without those that make a view a view.
async fn rules(transaction: &Transaction<'_>, before: &Existing) -> Result<Vec<RuleFact>, Error> {
    let rows = transaction
        .query(
            "select rulename::text, relname::text
             from pg_rewrite join pg_class on pg_class.oid = ev_class
             where relnamespace = 'public'::regnamespace and rulename <> '_RETURN' and pg_class.oid <> all ($1)
             order by pg_rewrite.oid",
            &[&before.relations],
        )
        .await?;
    Ok(rows.iter().map(|row| RuleFact { name: row.get(0), table: row.get(1) }).collect())
}

/// What was created outside namespace `public`; a table's own toast and the row type of a composite are no strays.
async fn strays(transaction: &Transaction<'_>, before: &Existing) -> Result<Vec<(String, String)>, Error> {
    let rows = transaction
        .query(
            "select nspname::text, relname::text from pg_class join pg_namespace on pg_namespace.oid = relnamespace
             where nspname not in ('public', 'pg_toast') and relkind in ('r', 'p', 'f', 'v', 'm', 'S') and pg_class.oid <> all ($1)
             union
             select nspname::text, proname::text from pg_proc join pg_namespace on pg_namespace.oid = pronamespace
             where nspname <> 'public' and pg_proc.oid <> all ($2)
             order by 1, 2",
            &[&before.relations, &before.functions],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
