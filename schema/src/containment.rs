//! The privileges and row-security policies that keep a transaction inside its root's tree, as SQL.
//!
//! Every tree table is owned by a role that nobody logs in as and has FORCE row security: the lane's role sees and
//! writes the rows of one root, the one that the worker entered. The policy compares with `rootward.root_key`, which
//! reads a parameter that only the worker's own function can set.

use std::fmt::Write as _;

use crate::{
    definition::{Schema, TreeTable},
    guards::guards_sql,
    stage::stages_sql,
};

/// On which kind of node the tables lie; reference tables are written on the hub only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// The hub: the source of the reference tables.
    Hub,
    /// A peer: it holds trees and copies of the reference tables.
    Peer,
}

/// The SQL that gives a fresh or changed set of tables its owner, its policies and the lane's rights.
///
/// It can be run again at any time; each run makes the rights exactly what the schema says.
pub fn containment_sql(schema: &Schema, node: Node) -> String {
    let mut sql = String::new();
    sql.push_str("delete from rootward_move.movable where namespace = 'public';\n");
    for root in schema.roots.values() {
        for table in &root.tables {
            let policy = format!("{} = rootward.root_key('{}')::{}", quoted(&table.key_column), root.name, root.key_type.name());
            tree_table(&mut sql, table, &policy, schema.is_insert_only(&table.name));
            let partition = schema.partition_expression(root, &quoted(&table.key_column));
            movable_table(&mut sql, table, &partition);
        }
    }
    sql.push_str(READERS_ARE_BOUND);
    for table in &schema.reference {
        let name = quoted(&table.name);
        let rights = match (node, table.is_referred_to) {
            (Node::Peer, _) => "select",
            (Node::Hub, _) if schema.is_insert_only(&table.name) => "select, insert",
            // Rows that a tree may refer to are retired, never deleted: the apply worker on a peer checks no foreign keys.
            (Node::Hub, true) => "select, insert, update",
            (Node::Hub, false) => "select, insert, update, delete",
        };
        let _ = write!(
            sql,
            "alter table public.{name} owner to rootward_owner;\n\
             revoke all on public.{name} from public, rootward_lane, rootward_reader;\n\
             grant {rights} on public.{name} to rootward_lane;\n\
             grant select on public.{name} to rootward_system, rootward_reader;\n"
        );
    }
    guards_sql(&mut sql, schema, node);
    stages_sql(&mut sql, schema);
    for set_wise in schema.transactions.values().filter_map(|transaction| transaction.set_wise.as_ref()) {
        // Its arguments are the name's: another definition has another name. Only ours are in that namespace.
        let _ = writeln!(sql, "{};", set_wise.sql);
        let _ = writeln!(
            sql,
            "do $$ declare f regprocedure; begin select oid::regprocedure into f from pg_proc where proname = '{}' and pronamespace = 'rootward_set'::regnamespace; \
             execute format('alter function %s owner to rootward_set; revoke all on function %s from public; grant execute on function %s to rootward_lane', f, f, f); end $$;",
            set_wise.function.replace('\'', "''")
        );
    }
    sql
}

/// In older set-ups row security didn't bind the readers. Other databases of the server may be at it at the same moment.
const READERS_ARE_BOUND: &str = "do $$ begin
  if (select rolbypassrls from pg_roles where rolname = 'rootward_reader') then alter role rootward_reader nobypassrls; end if;
exception when others then
  if (select rolbypassrls from pg_roles where rolname = 'rootward_reader') then raise; end if;
end $$;
";

/// Says how a row tells its partition, and hides from readers what is on its way to another peer or from one: a row is seen at
/// its owner only. The list is read once a query, and is mostly empty.
fn movable_table(sql: &mut String, table: &TreeTable, partition: &str) {
    let name = quoted(&table.name);
    let _ = write!(
        sql,
        "drop policy if exists rootward_here on public.{name};\n\
         create policy rootward_here on public.{name} for select to rootward_reader using (\
         (select rootward_move.hidden()) = '{{}}'::integer[] or {partition} <> all ((select rootward_move.hidden())::integer[]));\n\
         insert into rootward_move.movable values ('public', '{}', '{}');\n",
        table.name.replace('\'', "''"),
        partition.replace('\'', "''"),
    );
}

fn tree_table(sql: &mut String, table: &TreeTable, policy: &str, is_insert_only: bool) {
    let name = quoted(&table.name);
    let updatable: Vec<String> =
        table.columns.iter().filter(|column| column.name != table.key_column).map(|column| quoted(&column.name)).collect();
    let rights = if is_insert_only { "select, insert" } else { "select, insert, delete" };
    let _ = write!(
        sql,
        "alter table public.{name} owner to rootward_owner;\n\
         alter table public.{name} enable row level security;\n\
         alter table public.{name} force row level security;\n\
         drop policy if exists rootward_root on public.{name};\n\
         create policy rootward_root on public.{name} for all to rootward_lane using ({policy}) with check ({policy});\n\
         revoke all on public.{name} from public, rootward_lane, rootward_reader;\n\
         grant {rights} on public.{name} to rootward_lane;\n\
         grant select on public.{name} to rootward_system, rootward_reader;\n\
         revoke all on public.{name} from rootward_set;\n\
         grant {rights} on public.{name} to rootward_set;\n"
    );
    // No right to update the root key: a row can't be handed to another root even by a statement that the check missed.
    if !updatable.is_empty() && !is_insert_only {
        let _ = writeln!(sql, "grant update ({}) on public.{name} to rootward_lane, rootward_set;", updatable.join(", "));
    }
}

/// A PostgreSQL identifier in quotes.
pub fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
