//! The catalogue of stable codes: what each means, and what to do.
//!
//! A number is never used twice, not even after its check is gone.

mod running;

/// One entry of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The stable code, such as `RW1004`.
    pub code: &'static str,
    /// One line.
    pub title: &'static str,
    /// A few sentences: why it is so, and what to do.
    pub explanation: &'static str,
}

/// The entry of a code; letters may be small.
pub fn find(code: &str) -> Option<&'static Code> {
    all().find(|entry| entry.code.eq_ignore_ascii_case(code))
}

/// All codes in order: those of schema files, then those of everything else.
pub fn all() -> impl Iterator<Item = &'static Code> {
    CATALOGUE.iter().chain(running::RUNNING)
}

macro_rules! catalogue {
    ($($name:ident = $code:literal, $title:literal, $explanation:literal;)*) => {
        $(#[doc = $title] pub const $name: &str = $code;)*
        /// The codes of schema files, in order.
        pub const CATALOGUE: &[Code] = &[$(Code { code: $code, title: $title, explanation: $explanation }),*];
    };
}

catalogue! {
    UNREADABLE = "RW1001", "a schema file is missing or cannot be read",
        "A schema is a folder with `rootward.toml`, `tables.sql` (or `tables/*.sql`) and `transactions/*.sql`, all in UTF-8. Check the path and the rights of the file.";
    TOML = "RW1002", "`rootward.toml` is no TOML",
        "The file could not be parsed, so nothing else in it was checked. Repair the place that is shown: most often a quote, a bracket or a comma is missing.";
    UNKNOWN_SETTING = "RW1003", "a setting is unknown",
        "Unknown settings are refused, never ignored, since a misspelt one would silently have no effect. Use the name that the help line proposes, or remove the setting.";
    TWO_ROOTS = "RW1004", "a table hangs under two roots",
        "Every row belongs to exactly one root, because the row lives where its root lives. A table whose foreign keys lead to two root entities has no such place. Keep one foreign key and store the other root's key as a plain value, make the table reference data, or split it in two.";
    SETTING = "RW1005", "a setting is missing, out of range or of the wrong type",
        "The value doesn't fit the setting. The label says what was found, the message what is wanted.";
    NAME = "RW1006", "a name is not allowed",
        "Names appear in SQL, in TOML, on the command line and in metrics, so they are plain identifiers: lower-case letters, digits and `_`, 40 characters at most. Names that begin with `rootward` are reserved for the system's own objects.";
    DUPLICATE = "RW1007", "a name is used twice",
        "Two things of one kind share a name, so that a call could mean either. Rename one of them.";
    PARTITIONS = "RW1008", "the number of partitions is no power of two",
        "A root key's partition is some bits of its hash, so their number must be a power of two, from 1 to 65536. It is fixed for the life of the cluster; 1024 suits most.";
    TABLE_SQL = "RW1010", "PostgreSQL refuses a statement of a table file",
        "The statement was tried in a scratch database and refused; the message is the server's own. Checks that need the table were skipped, so run the check again after the repair.";
    NOT_A_DEFINITION = "RW1011", "a statement has no place in a table file",
        "Table files are applied to every peer and may hold definitions only. Data is written by declared transactions; roles, rights and settings belong to the cluster, and a transaction's end would make a trial run real.";
    TABLE_KIND = "RW1012", "a kind of table that is not supported",
        "Tables are ordinary, logged, and neither inherited, partitioned nor foreign: a row must survive a crash, move with its root, and be seen through one table only. Rootward partitions by root key itself, so use a plain table.";
    NO_TREE = "RW1013", "a table is in no tree",
        "Every table belongs to one root entity's tree, reached along foreign keys from the root table, or is reference data. Add a foreign key with the root key to a table of the tree, declare a root entity for the table, or list it under `[reference]`.";
    ROOT_TABLE = "RW1014", "a root table is missing or has no usable primary key",
        "The primary key of the root table is the root key: one column of type smallint, integer, bigint, text, varchar or uuid, the types that PostgreSQL can hash for placement. Two root entities cannot share a table.";
    REFERENCE_TABLE = "RW1015", "a reference table is missing or has no primary key",
        "Reference tables are copied to every peer by logical replication, which finds rows by primary key. Give the table one, correct the name in `[reference]`, or keep it out of the trees.";
    PRIMARY_KEY = "RW1016", "a primary key lacks the root key",
        "Rows of a tree are found, moved and compared by root key, so the primary key of every table in it contains the root key's column. Put that column first into the primary key.";
    UNIQUE_KEY = "RW1017", "a unique key of a sub-entity lacks the root key",
        "Uniqueness can be held within one root only, since other roots live in other databases. Add the root key's column to the unique key; if it must be unique everywhere, make the value a root key of its own and reserve it in a chain.";
    GLOBAL_UNIQUE = "RW1018", "a root table asks for global uniqueness",
        "A unique column of a root table would have to be compared with roots in other databases, which one local commit cannot do. Make the value a root entity of its own and reserve it in a chain, or drop the constraint.";
    FOREIGN_KEY = "RW1019", "a foreign key lacks the root key",
        "A foreign key inside a tree must carry the root key, else the row could refer to one of another root, which may live in another database. Add the root key's column on both sides; to point at another root, store its key as a plain value.";
    FOREIGN_TREE = "RW1020", "a foreign key leads into another tree",
        "The other tree's rows may live in another database, where no foreign key reaches. Store the key as a plain value, make the other table reference data, or write both in a chain.";
    REFERENCE_TO_TREE = "RW1021", "a reference table refers to a tree",
        "Reference data is the same on every peer, a tree's row is on one peer only, so the reference would be broken on all the others. Store the key as a plain value, or move the table into the tree.";
    REFERENCE_ACTION = "RW1022", "a foreign key to reference data writes when its target changes",
        "Changes of reference data arrive by replication, which fires no ON DELETE or ON UPDATE action, so peers would differ from the hub. Use NO ACTION, and retire rows instead of deleting them.";
    SEQUENCE = "RW1023", "a key or a transaction draws from a sequence",
        "A sequence counts on one peer, so a row that moves can meet its own number at the new one. Use the built-in `:request_id`, which is unique everywhere and the same on a repetition, or count per root, for example with `select coalesce(max(line_no), 0) + 1`.";
    VIEW = "RW1024", "a view escapes row security",
        "A view runs with its owner's rights unless it says otherwise, and would show rows of other roots. Write `create view … with (security_invoker = true) as …`.";
    MATERIALIZED_VIEW = "RW1025", "a materialized view keeps rows outside their root",
        "A materialized view is a copy under no row security, of all roots of one peer, and does not move with them. Use a view with security_invoker, or keep the sum in a column of the root.";
    FUNCTION = "RW1026", "a function escapes row security",
        "A SECURITY DEFINER function, or one in a language other than SQL and PL/pgSQL, can see beyond its root. Write it in SQL or PL/pgSQL and leave SECURITY INVOKER, the default.";
    RULE = "RW1027", "a rule rewrites statements",
        "Rules change what a statement touches behind the check's back. Use a trigger.";
    STRAY = "RW1028", "an object outside namespace `public`",
        "All tables, views and functions of a schema live in namespace `public`, where they get their rights and are moved with their roots. Leave the namespace out of the name.";
    ANNOTATION = "RW1030", "an annotation is misspelt or out of place",
        "The annotations are `-- name:`, `-- root:`, `-- reference: write` and `-- expect:`. A misspelt one would be a comment without effect, so anything one slip away from them is refused.";
    NO_NAME = "RW1031", "a transaction has no name",
        "Every transaction begins with `-- name:`; several may stand in one file.";
    NO_ROOT = "RW1032", "a transaction doesn't say where it runs",
        "A transaction runs at one root, `-- root: account = :account_id`, or writes reference data on the hub, `-- reference: write`. The entity is one declared in `rootward.toml`.";
    EXPECT = "RW1033", "an `-- expect:` is wrong",
        "The form is `-- expect: one | some | none | <n>`, with `, else \"reason\"` if the standard reason is not enough. It stands after the statement's `;`, on the same line or the one below.";
    EMPTY = "RW1034", "a transaction has no statement",
        "A transaction without a statement would be a promise about nothing. Write its statements after the annotations, each ended by `;`.";
    STATEMENT_KIND = "RW1035", "a kind of statement that a transaction cannot hold",
        "Transactions hold SELECT, INSERT, UPDATE, DELETE, MERGE and VALUES. BEGIN and COMMIT are the worker's, definitions belong into table files, and a procedure can be rewritten as a function called by SELECT.";
    STATEMENT_SQL = "RW1036", "PostgreSQL refuses a statement of a transaction",
        "The statement was prepared against the scratch database and refused; the message is the server's own, the caret stands where the server says.";
    PARAMETER_TYPE = "RW1037", "the type of a parameter is not known",
        "PostgreSQL infers a parameter's type from where it stands, and there it could be several. Write a cast, for example `:amount::numeric`.";
    TWO_TYPES = "RW1038", "a parameter is used with two types",
        "One parameter has one type in the whole transaction. Cast it at one place, for example `:amount::numeric`, or use two parameters.";
    ROOT_PARAMETER = "RW1039", "the root's parameter is unused or of another type than the root key",
        "The parameter of `-- root:` carries the root key, so a statement must use it, with the key's own type. Built-in parameters cannot carry it.";
    NUMBERED_PARAMETER = "RW1040", "a parameter has a number instead of a name",
        "Parameters are given by name; the numbers are the compiler's. Write `:name`.";
    OTHER_TREE = "RW1041", "a transaction touches another tree",
        "A transaction runs at one root, in the database where that root lives, and sees no other tree. Make the shared table reference data, pass the value as a parameter, or split the work into the steps of a chain.";
    WRITES_REFERENCE = "RW1042", "a transaction of a root writes reference data",
        "Peers hold copies of reference tables and never write them. Write reference data in a transaction with `-- reference: write`, which runs on the hub.";
    REFERENCE_TOUCHES_TREE = "RW1043", "a reference write touches a tree",
        "Reference data is written on the hub, which holds no roots. Leave the tree's tables out, or split the work into two transactions.";
    ROOT_KEY_UPDATE = "RW1044", "a transaction updates a root key",
        "The root key decides where a row lives, so it never changes. Insert a new root and delete the old one, in a chain if they must agree.";
    UNTERMINATED = "RW1045", "something in the SQL never ends",
        "A string, a quoted name, a comment or a statement is not closed, so what follows could not be told apart from it. Close it at the place that is shown.";
    REFERENCE_DELETE = "RW1046", "a transaction deletes reference data that trees refer to",
        "A foreign key of a tree names the table, and peers apply a deletion without asking their foreign keys, so rows of the tree would refer to nothing. Retire rows instead, for example with a column `is_retired`.";
    REFERENCE_KEY_UPDATE = "RW1047", "a transaction updates a key of reference data that trees refer to",
        "A foreign key of a tree names the column, and peers apply an update without asking their foreign keys, so rows of the tree would refer to nothing. Insert another row, and retire this one.";
    INSERT_ONLY = "RW1048", "a transaction changes a table that only takes inserts",
        "The table stands under `[table.NAME]` with `insert_only = true`: the database refuses UPDATE, DELETE and TRUNCATE of it, whoever asks. Insert another row instead, which says what has changed.";
    TABLE_SETTING = "RW1049", "a `[table.NAME]` can't be used",
        "`[table.NAME]` says more about a table of the trees or about a reference table: `insert_only = true` if its rows are never changed, `key = { COLUMN = \"EXPRESSION\" }` if a column's value follows from the others'. The expression is SQL over the row's columns, or `sha256(column, …)`.";
    CALL = "RW1050", "a chain calls an unknown transaction",
        "A step, and what compensates it, calls a declared transaction of a root. Correct the name, or declare the transaction.";
    ARGUMENTS = "RW1051", "arguments of a step don't fit its transaction",
        "A step gives each parameter of its transaction exactly once; the root's parameter comes from `root`, the built-in ones from the system.";
    ARGUMENT_TYPE = "RW1052", "an argument has another type than the parameter",
        "The value would be refused when the step runs, perhaps after other steps took effect. Declare the chain's parameter with the type of the transaction's.";
    STEP_REFERENCE = "RW1053", "a `$` reference leads nowhere",
        "`$param` is a parameter of the chain, `$element` and `$element.field` the element of `for_each`, `$steps.STEP.COLUMN` a column that an earlier step answers with, or what its signal carried. A step knows the steps only that are surely done when it begins: those that its `after` leads to.";
    STEP_ROOT = "RW1054", "a step runs at the wrong root",
        "A step runs at one root, of the entity that its transaction names in `-- root:`. Its compensation runs at the same root.";
    CHAIN_SHAPE = "RW1055", "a chain has no steps, or two pivots",
        "A chain has at least one step. At most one of them is the pivot, after which it only goes forward.";
    REFUSED_AFTER_PIVOT = "RW1057", "a step after the pivot can be refused",
        "After the pivot there is no way back, so a refusal there, or attempts that are used up, would leave the chain half done. Move the step before the pivot and compensate it, take the cause of refusal out of its transaction, or let it wait for a person: `on_failure = \"park\"` and `on_exhausted = \"park\"`.";
    NOT_UNDONE = "RW1058", "a step cannot be undone though a later one can be refused",
        "When a step is refused, every step that is done by then is undone: those before it, and those beside it. This one writes and has nothing that undoes it. What turns a chain back is a refusal under `on_failure = \"compensate\"`, a signal whose `timeout` passes, and used-up attempts under `on_exhausted = \"fail\"`. Give the step `compensate`, make it the pivot, or let the others park.";
    COMPENSATION_REFUSES = "RW1059", "a compensation can be refused",
        "A compensation that is refused leaves its chain stuck until a person helps. Write a transaction for this purpose that expects nothing, changes by sums (`set balance = balance + :amount`) or to constants, and gives back no more than its step took. What the step could insert, its compensation can: that is not counted.";
    FAN_OUT = "RW1060", "a step cannot fan out over this",
        "`for_each` takes a parameter of type json or jsonb that holds a list.";
    INVARIANT = "RW1061", "an invariant cannot be counted",
        "An invariant is `sum`, one query with one numeric value, perhaps with `equals`, another one, or it is `none`, a query that must find no row.";
    AFTER = "RW1062", "`after` names no earlier step",
        "A step begins when all steps that its `after` names are done; without `after` that is the one before it in the list. It names earlier steps of the same chain, so that there is no circle. Steps with the same `after` run side by side.";
    BESIDE_PIVOT = "RW1063", "a step runs beside the pivot",
        "When the pivot is done, the chain only goes forward; until then it may have to go back. A step that runs beside it could be in either half. Let the pivot wait for the step, or the step for the pivot, with `after`.";
    WAIT = "RW1064", "a wait stands first, or has what only a transaction has",
        "A step does one of three things: `call` runs a transaction at a root, `wait` lets time pass, `signal` waits for somebody. A wait lies at the chain's home, takes effect nowhere and is never undone, so it has no root, arguments, compensation or attempts. A chain starts with a transaction, whose commit holds the chain's row; to start a chain later, give `--start-at`.";
    NOT_BUILT = "RW1065", "a setting that is not built yet",
        "The setting has a meaning in the design, but this version can't do it. `for_each` over an earlier step's result is one: fan out over a parameter of the chain, or let the transaction take the list apart in SQL.";
    CREDIT_FIRST = "RW1066", "a chain adds at one root before it subtracts at another",
        "Between two steps everybody sees what the first one did. What was added may be spent before the step that subtracts is refused, and then it can't be taken back. Put the step that subtracts first; or add to a column of its own, such as `reserved`, which a step behind the other one moves to where it can be spent.";
    LATE_UNDONE = "RW1067", "a deadline calls back what cannot be undone",
        "A chain whose deadline passes before its pivot is done goes back; this step writes and has nothing that undoes it, so its effect would stay. That is a warning, no error: a refusal is part of the business and will happen, a deadline passes when something else is wrong, and an effect that stays may be harmless then. Give the step `compensate`, or make it the pivot.";
    PLACE_BY = "RW1068", "a region, or a placement by region, can't be used",
        "A root entity with `place_by = \"region\"` says the region in its keys, which are texts such as `eu:1007`: what stands before the first colon is one of the schema's `regions`, and the root lives on peers of that region. Regions are listed once, above the first table, as the file of the cluster's databases has them; more can be added at the end later.";
    STAGE = "RW1070", "a `[stage.NAME]` can't be used",
        "`[stage.NAME]` makes a table `stage.NAME` on every node, whose rows are sent as transactions or as chains: `call` names which, and its parameters are the table's columns. Names that begin with `stage_` are for our own columns.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        let codes: Vec<&str> = all().map(|entry| entry.code).collect();
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "{codes:?}");
        assert_eq!(find("rw1004").map(|entry| entry.code), Some(TWO_ROOTS));
    }
}
