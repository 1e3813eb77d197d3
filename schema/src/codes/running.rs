//! Codes of everything but schema files: settings, routing, execution, chains, the cluster, our own faults.

use super::Code;

const fn code(code: &'static str, title: &'static str, explanation: &'static str) -> Code {
    Code { code, title, explanation }
}

/// In order of their numbers.
pub(super) const RUNNING: &[Code] = &[
    code(
        "RW1101",
        "a router's or worker's file of settings is wrong",
        "The process did not start, and nothing was changed. The message names the setting and the line. Unknown settings are refused, never ignored, since a misspelt one would silently have no effect. `docs/samples/router.toml` and `docs/samples/worker.toml` are complete files with every setting explained.",
    ),
    code(
        "RW1102",
        "the file of the cluster's databases is wrong",
        "`schema apply` did nothing. The file names the hub's database and at least one peer's, and the hub's `replication`, the connection string by which peers copy the reference tables. `docs/samples/cluster.toml` is a complete example.",
    ),
    code(
        "RW1103",
        "the new schema version would lose data",
        "A table or column is in the database and no longer in the schema files. `schema apply` never drops anything, because a mistake in a file must not cost data. Put it back into the files, or move the data elsewhere and drop it yourself on the hub and every peer, then apply again.",
    ),
    code(
        "RW1104",
        "the schema changed without a new version",
        "Routers and workers tell schemas apart by `version` in rootward.toml, so a changed schema needs a higher one, and an older one is never applied over a newer one. Raise `version` by one with every change, then apply again.",
    ),
    code(
        "RW1105",
        "the number of partitions differs from the cluster's",
        "The number of partitions decides which partition each root key belongs to, so it is fixed when a cluster is set up. Put the old number back into rootward.toml. Another number needs a new cluster, and the data loaded into it.",
    ),
    code(
        "RW1106",
        "an address of a router is wrong or missing",
        "Give one with `--router` or in the environment variable ROOTWARD_ROUTER, such as `http://127.0.0.1:7400`; several are separated by commas, and the next one is tried when one does not answer.",
    ),
    code(
        "RW1107",
        "a router or worker could not start",
        "Its settings could be read, but not used: the address of `listen` is taken or not this machine's, the file of certificates can't be read, or `report_file` can't be written. The message names what it was. Nothing was changed; set it right and start the process again.",
    ),
    code(
        "RW1108",
        "a script or its data can't be run by `bench pgbench`",
        "Nothing was measured. A script is a comment `-- root: ENTITY = :VARIABLE`, lines `\\set NAME EXPRESSION`, and the statements of one transaction between BEGIN and END, over tables of the schema; `docs/samples/tpcb.pgbench.sql` is one. What the benchmark does not understand is refused with file and line, because both sides must do the same.",
    ),
    code(
        "RW1109",
        "a benchmark can't be run as it was asked for",
        "Nothing was started. The message names the option and the value that don't fit, the help line what to write; `rootward bench WORKLOAD --help` lists all options with their ranges.",
    ),
    code(
        "RW1110",
        "the command line is wrong",
        "Nothing was started. The message names the word or value that is not understood, and the nearest right one where there is one; `--help` behind the command lists its options with their ranges.",
    ),
    code(
        "RW1111",
        "the schema places keys in another way than the cluster",
        "Where a key lies follows from the key, the number of partitions, the order of `regions` and the entity's `place_by`, so rows that are there would not be found any more. Regions can be added at the end of the list; the others, and `place_by` of an entity that is there, stay as they are. Another placement needs an entity of another name, and the data copied into it.",
    ),
    code(
        "RW1112",
        "a region has no peer",
        "The keys of a region live on peers of that region and nowhere else, and there is no active peer with a capacity above 0 in it. Nothing was moved or applied. Give a peer the region in the file of the cluster's databases (`region = \"eu\"`), or add one: `rootward peer add`.",
    ),
    code(
        "RW1120",
        "a rival of `bench xtm` is not there",
        "Nothing was measured. `--against` takes `fdw` and `fdw-one-message` (plain postgres_fdw) and `2pc` (two-phase commit); the first two need PostgreSQL's extension postgres_fdw, which is one of its contributed modules. The message says which is missing; leave it out or install it.",
    ),
    code(
        "RW1121",
        "numbers of `bench xtm` don't go together",
        "Nothing was started. Accounts are spread by the hash of their numbers, so there must be some for each shard, and kills are spread over the iterations of all writers. The message names the option, the help line what fits.",
    ),
    code(
        "RW1130",
        "a file of journal heads can't be read",
        "`rootward journal verify --heads FILE` takes what `rootward journal heads -o json` prints: an object with a list `heads`, each with `partition`, `sequence` and `hash`. Nothing was verified.",
    ),
    code(
        "RW2001",
        "there is no such transaction",
        "Clients call transactions by the names that the schema's files declare with `-- name:`. Nothing was executed. The help line proposes the nearest name; `rootward schema show DIR` lists all of them. If the name is new, `rootward schema apply` has not brought it to the cluster yet.",
    ),
    code(
        "RW2002",
        "an argument is missing, unknown or of the wrong type",
        "Nothing was executed. The help line shows the declared parameters with their types. On the command line an argument is written `name=value`, NULL is `name:=null`, and JSON is `name:='[…]'`; ids of requests and chains are UUIDs.",
    ),
    code(
        "RW2003",
        "the root is unknown, or its key is not usable",
        "A transaction runs at one root, which an entity of the schema and a key of the entity's type name. The key must not be NULL, since a root without a key has no place. Nothing was executed. On the command line a root is written `--root ENTITY=KEY`.",
    ),
    code(
        "RW2004",
        "a transaction reached outside its root",
        "A transaction sees the rows of one root's tree and the reference tables, and nothing else: the rest may lie in another database, so Rootward refuses it even where it happens to lie in the same one. PostgreSQL itself refused it by its rights and row security; everything the transaction did was rolled back. Use the root's own key, make shared data a reference table, or make a chain of several transactions, one for each root.",
    ),
    code(
        "RW2005",
        "the partition belongs to another peer",
        "The sender's copy of the map was old. Nothing was executed, and the router finds the owner and sends the request there by itself. If you see it for longer than a few seconds, compare `rootward partition list` with `rootward peer list`: the owner may not be serving.",
    ),
    code(
        "RW2006",
        "the schema version is another one",
        "The request was routed by one version of the schema and arrived at a worker that knows another one. Nothing was executed, and it is sent again by itself. It passes when `rootward schema apply` has reached every peer; run it again if it was interrupted, `rootward status` shows each peer's version.",
    ),
    code(
        "RW2007",
        "ad-hoc SQL is switched off",
        "`rootward query` runs SQL that no file declares. It holds its lane while it runs, so workers refuse it unless `allow_ad_hoc_sql = true` stands in their file of settings. Declare the statement as a transaction in the schema, or switch it on where people explore.",
    ),
    code(
        "RW2008",
        "a statement cannot be explained",
        "`rootward explain` has PostgreSQL prepare the statement without running it, and PostgreSQL refused it: it is not one SELECT, INSERT, UPDATE, DELETE, MERGE or VALUES, or it names what is not there. Its own message says which.",
    ),
    code(
        "RW2009",
        "a call waits for peers to show a write, and writes no reference data",
        "`wait = all` is for transactions with `-- reference: write`, whose effect every peer shows a moment later. A root's data lie on one peer, and are there when the answer comes. Nothing was executed; leave `--wait all` out.",
    ),
    code(
        "RW2010",
        "there is no such stage",
        "Stages are declared in rootward.toml as `[stage.NAME]`; each has a table `stage.NAME` on every node. The help line proposes the nearest name. Nothing was changed.",
    ),
    code(
        "RW2011",
        "the entity has no journal",
        "A subscription reads the journal of its entity's roots. Write `journal = true` below `[root.NAME]` in rootward.toml, raise the version, and apply it; the journal begins then.",
    ),
    code(
        "RW2020",
        "a statement over all peers can't be judged",
        "Nothing was run. Before a query goes to all peers, Rootward has to see how their results become one. It reads one SELECT, in PostgreSQL's plainer grammar, of a thousand words and signs at most. Write the statement in plainer words, or run it on each peer by itself with `--per-peer`, where PostgreSQL alone judges it.",
    ),
    code(
        "RW2021",
        "rows of different roots would have to meet",
        "Nothing was run. Every root lies on one peer, so a join of a tree's tables can be answered peer by peer only if it joins on the root key, and a subquery over a tree only if it compares the root key with that of the row outside. Different trees don't meet in one query: ask for each by a query of its own, on the same snapshot, or read the rows of each peer with `--per-peer`.",
    ),
    code(
        "RW2022",
        "the results of the peers can't be put together",
        "Nothing was run. Rows that are about one root each are put one behind the other, ordered rows are merged, and count, sum, min and max are put together if they stand plainly and alone in the select list. DISTINCT, GROUP BY, HAVING, windows, OFFSET, set operations, WITH over trees and other aggregates would need rows of several peers at once. Read the rows, or the totals of each peer with `--per-peer`, and do the rest yourself.",
    ),
    code(
        "RW2023",
        "rows can't be ordered as PostgreSQL would",
        "Rows of several peers are merged by comparing values of the result, so ORDER BY must name columns of the result, of a type with a plain order: numbers, booleans, dates and moments, UUIDs, bytes, and texts that are compared byte by byte. The order of other texts is a collation's, which differs from machine to machine: write `order by name collate \"C\"`. The same holds for min and max.",
    ),
    code(
        "RW2024",
        "a statement over all peers reads what is not known",
        "Nothing was run. It names a table that is not the schema's, or a function or view of the schema, which may read any table unseen: one peer's part could then be taken for the whole. Write out what it does over the schema's tables, or run it on each peer by itself with `--per-peer`.",
    ),
    code(
        "RW2025",
        "values of the peers can't be added up exactly",
        "A sum of `real` or `double precision` depends on the order in which it is made, and one of another type than numbers is not known; or a sum does not fit its type, as PostgreSQL itself would say. Cast what is summed to numeric, or read the totals of each peer with `--per-peer`.",
    ),
    code(
        "RW2040",
        "a read with a staleness would change rows",
        "With `--staleness` (`staleness` in the .proto) a transaction may run at a standby, which takes no changes, and it has no outcome under which it would be found again. Nothing was executed. Transactions of reference data are refused too: every peer has those anyway. Leave the staleness out, or declare a transaction of SELECTs.",
    ),
    code(
        "RW2041",
        "a read asks for a staleness and for a version of the reference data",
        "What a standby shows of the reference data is as old as the rest of what it shows, and no standby is waited for. Nothing was executed; leave one of both out.",
    ),
    code(
        "RW2042",
        "a query over all peers asks for a staleness",
        "`query --all` answers from one consistent cut: whole transactions, causes before effects, no half chain. Only the primaries can be brought to fix such a cut, since their workers hold the lanes for it; each standby replays by itself, so that two of them show two moments, and the sum of both shows a transfer once, twice or not at all, however little either lags. Nothing was run. Leave `--staleness` out; or read a root that may be a little old with `--root`. Whoever wants an old figure that need not be consistent asks the standbys themselves with `psql`.",
    ),
    code(
        "RW3001",
        "something is full",
        "A queue of the client, of the router or of a lane, or a limit on requests under way (`max_in_flight`, `max_in_flight_per_stream`), is reached; or the request would have to wait in its lane longer than the worker's `max_queue_ms` or its own deadline allow; or an eighth of the lane's room is taken by requests for the same root. Nothing was executed: work beyond what can be done is refused at once, so that the rest stays fast. Send it again after the pause that the refusal names (`retry_after_ms`), and less at once; a client that repeats at once makes it worse. The Rust client waits by itself, and adds a tenth of retries at most. `rootward peer list` shows which peer's queue is long. If it lasts, the peer's PostgreSQL is too slow for the load.",
    ),
    code(
        "RW3101",
        "the transaction was refused",
        "An `-- expect:` was not met, or PostgreSQL refused a statement: a constraint, a RAISE, a value that does not fit. Everything the transaction did was rolled back. The message has the reason, the help line the file and line. The refusal is stored: the same request id gets it again, so after repairing the cause send a new request.",
    ),
    code(
        "RW3102",
        "whether the transaction was executed is unknown",
        "A connection broke after the request was sent and before its answer came, and the deadline is over. It took effect once or not at all. Send it again with the same request id, which the help line names: it takes effect once, and you get its answer. A new id would be a new request, and might do it twice.",
    ),
    code(
        "RW3103",
        "the deadline was over before the transaction began",
        "It waited in a queue until its time was up. Nothing was executed. Allow more time (`--timeout`, or the deadline of the call), or send less at once; `rootward peer list` shows which peer's queue is long.",
    ),
    code(
        "RW3104",
        "a statement ran into its time limit",
        "PostgreSQL stopped it after `statement_timeout_ms` of the worker's settings, since a lane runs one transaction at a time and others wait behind it. Everything the transaction did was rolled back. Look for a missing index with EXPLAIN, touch fewer rows at once, or raise the limit.",
    ),
    code(
        "RW3105",
        "PostgreSQL did not execute the transaction",
        "A serialization failure, a deadlock, a lack of resources or an operator's intervention: it passes by itself. Nothing was executed and it may be sent again at once. If it lasts, the SQLSTATE says what PostgreSQL lacks: class 53 is memory, disk or connections.",
    ),
    code(
        "RW3106",
        "the request id was used for another request",
        "An id stands for one request, with its transaction and arguments, at its root. This id was used there before with others, so its stored answer is not an answer to this one. Nothing was executed. Make a new id for each new request, and repeat a request unchanged.",
    ),
    code(
        "RW3107",
        "the request is older than outcomes are kept",
        "A repeated request is recognized by its stored outcome. This one was issued longer ago than `retention_hours` of the worker's settings, so nobody could tell whether it was executed before, and it is refused. Look at the data to see whether it took effect; if not, send it with a new id. A client whose clock is hours behind gets this too.",
    ),
    code(
        "RW3108",
        "the answer is too large",
        "An answer is held in memory and kept as the outcome of its request, so it has a limit. Everything the transaction did was rolled back. Ask for less: fewer columns, LIMIT, or pages by key.",
    ),
    code(
        "RW3109",
        "the peer's copy of the reference data is too old for the transaction",
        "The transaction carries a version of the reference data that it must see at least (`min_reference_version`), and the root's peer did not show it before the deadline. It was not queued; nothing was executed. A chain's start is refused so for its first step; a later step is tried again by itself. `rootward peer list` shows how far each peer is behind. If a peer stays behind, its subscription is broken: `rootward reference repair PEER` makes it anew.",
    ),
    code(
        "RW4001",
        "there is no such chain",
        "All peers were asked and none has a chain of this id. `rootward chain list` shows what there is. A chain whose first step was refused was never made: its refusal was the answer to its start.",
    ),
    code(
        "RW4002",
        "a chain does not reach its end",
        "It was recovered again and again and its worker ended each time before it got further, so that it was parked: one chain must not keep a peer from serving. Look into the worker's log for what ends it, repair that, then `rootward chain replay ID`.",
    ),
    code(
        "RW4003",
        "the chain's state does not allow this",
        "Which commands a chain takes depends on its status: docs/chains.md has the table. The message says in which status it is and since when, or which pivot it has passed, after which nothing turns it back; the help names what is allowed. `rootward chain show ID` shows its steps.",
    ),
    code(
        "RW4004",
        "the chain is unknown, or its input does not fit",
        "Nothing was executed. Chains and their parameters are declared in rootward.toml under `[chain.NAME]`; a list is given as JSON, such as `lines:='[{\"product\": 1}]'`, and has at least one element. An id of a chain is a UUID.",
    ),
    code(
        "RW4005",
        "a step was called off before it came",
        "The chain went another way, so a mark at the step's root refuses the step for ever, should it still arrive. This is how a late message does no harm; there is nothing to do. `rootward chain show ID` shows where the chain went.",
    ),
    code(
        "RW4006",
        "a step cannot be made from the chain's definition",
        "A chain keeps the definition that it began with. The transaction that its next step calls, or a result that the step refers to, is no longer there, so the chain is parked. Bring the definition back with a new version of the schema, then `rootward chain replay ID`. A chain that goes back is stuck for the same reason if what undoes one of its steps is gone. What was done by hand instead is skipped: `rootward chain skip ID --step STEP --reason …`.",
    ),
    code(
        "RW4007",
        "the chain's deadline has passed",
        "A chain with a deadline that has not passed its pivot by then is called back: what may still be under way is called off, and what took effect is undone. Start it again, with more time if need be (`--deadline`, or `deadline` in its definition). A person's replay or resume lifts a deadline that has passed.",
    ),
    code(
        "RW4008",
        "a step came later than its driver promised",
        "Every message of a chain's driver is good for `retention_hours`, which the driver prolongs as long as it lives. This one is older: its sender was stopped for a long time, and the root may have forgotten the chain since. Nothing was executed. If the chain is still open, its home sends the step again by itself.",
    ),
    code(
        "RW4009",
        "there is a chain with this id already",
        "A chain of this id lies at the same root, with another input or a scheduled start. Nothing was executed. `rootward chain show ID` shows it; start another one with an id of its own.",
    ),
    code(
        "RW4010",
        "a signal did not come in time",
        "The step waited as long as its `timeout` says. Depending on its `on_failure` the chain is undone, kept as it is, or parked. A late signal is refused. A parked chain goes on when the signal is sent and the chain replayed.",
    ),
    code(
        "RW4011",
        "a clock makes it unsafe to forget now",
        "Outcomes and ended chains are forgotten by their age, which a clock that was set can't tell. Nothing was forgotten. The worker looks again later; if the machine's time is right now, restart its worker.",
    ),
    code(
        "RW5001",
        "PostgreSQL's server programs were not found",
        "`dev`, `demo`, `schema check` and the tests start PostgreSQL servers of their own, and need `initdb`, `postgres` and `pg_ctl` of version 15 or newer. Install them (`apt install postgresql` on Debian), or name their directory in the environment variable ROOTWARD_PG_BIN.",
    ),
    code(
        "RW5002",
        "a peer does not answer",
        "Its worker cannot be reached, or is not serving its database at the moment: it starts, ends, waits as a standby, or its PostgreSQL is away. Nothing was executed; other peers go on. `rootward peer list` shows which one it is. Chains wait for the peer and go on by themselves when it is back.",
    ),
    code(
        "RW5003",
        "the answer did not come",
        "The connection broke, or the time was over, after the request was sent. It took effect once or not at all. Send it again with the same request id: it takes effect once, and you get its answer.",
    ),
    code(
        "RW5004",
        "the catalog is not known yet",
        "This router or worker has not heard of peers, map and schema so far, so it cannot know where a root lies. Nothing was executed. It passes when one worker of the `workers` setting answers. If it lasts: is any worker up, can the hub's database be reached, and was `rootward schema apply` run?",
    ),
    code(
        "RW5005",
        "another worker has taken the peer over",
        "A peer is served by one worker at a time; a newer one took it over, and the database refuses the older one's writes. Nothing was executed, and the router finds the new worker by itself. If it goes back and forth, two workers with the same `peer` run and one of them keeps losing its connection.",
    ),
    code(
        "RW5006",
        "a database refused its set-up, or cannot be reached",
        "`schema apply` stopped at the database that the message names. What was done stays, and each database is changed whole or not at all; the same command goes on from there. Set-up needs a superuser's connection string in the file of databases, and `wal_level = logical` on the hub.",
    ),
    code(
        "RW5007",
        "there is no such peer",
        "`rootward peer list` shows the peers of the catalog. A peer that was added to the file of databases is known after `rootward schema apply`.",
    ),
    code(
        "RW5008",
        "something that must hold does not",
        "`rootward verify` counted on every peer and found rows where they do not belong, an invariant that is not met, a chain with a missing or doubled step, reference tables that differ, or a peer that did not answer. Each failed check lists up to ten examples. All peers are counted at one snapshot, so load does no harm. A chain that is parked, stuck, paused or waits has done some of its steps and not the others, so that an invariant over several roots may not hold until it ends (`rootward chain list --status waiting,paused,parked,stuck`).",
    ),
    code(
        "RW5009",
        "no router can be reached",
        "No connection to any of the named routers could be made, so nothing was sent and nothing was executed. Is the router running, and is the address right? Give it with `--router` or in the environment variable ROOTWARD_ROUTER; `rootward dev` prints the address of the cluster that it starts.",
    ),
    code(
        "RW5010",
        "a peer can't copy reference data from that node",
        "Reference data go from the hub to the peers, or to relays and from those to the peers of their region, and no further: so nothing can go round. Name `hub` or a peer that has `relay = true` in the file of databases; a relay copies from the hub only.",
    ),
    code(
        "RW5020",
        "a peer is missing for the snapshot",
        "A snapshot is one cut over all peers, and the peer that the message names did not answer, or is not served at the moment. No snapshot was taken, and nothing is held any more. `rootward peer list` shows what is the matter with it. `--partial` does without such peers and says which are missing: sums over what is left are not those of the whole.",
    ),
    code(
        "RW5021",
        "chains did not come to an end in time for the snapshot",
        "A snapshot holds no half chain but those that wait for a moment, a signal or a person, which it lists. The chains that the message names were still running when the time was over, perhaps because a step is retried again and again. No snapshot was taken, and nothing is held any more; new chains were held up to `snapshot_drain_ms` at a time. `rootward chain show ID` shows what one waits for. Allow more time (`--wait`), or pause or repair the chain.",
    ),
    code(
        "RW5022",
        "the snapshot was given up, for it might not have been consistent",
        "While a snapshot is taken, every peer's lanes are held until all of them have it, at most for `snapshot_hold_ms`. The peer that the message names let go earlier, lost its database or its term, or did not answer. What might have been torn was thrown away; no snapshot was taken, and nothing is held any more. Take it again. If it lasts: the page of metrics shows how long batches and their flushes take, and `snapshot_hold_ms` may be raised.",
    ),
    code(
        "RW5023",
        "there are too many snapshots",
        "Each snapshot keeps a session open in every database and keeps the database from cleaning up behind it, so a worker keeps at most `max_snapshots`. Release those that are done with (`rootward snapshot release ID`); others expire when they are not used.",
    ),
    code(
        "RW5024",
        "the snapshot is gone",
        "It was released, or not used for its lifetime, or the peer that the message names has begun a new term since, with which its part of the snapshot went. A snapshot can't be brought back. Take another one.",
    ),
    code(
        "RW5025",
        "the query on a snapshot was refused",
        "A snapshot runs one SELECT, VALUES or WITH over the tables of the schema, by a role that may only read those. Writes, several statements, Rootward's own tables and functions with side effects are refused by PostgreSQL, whose message is shown; so are statements with mistakes, and those that take longer than `snapshot_statement_timeout_ms`.",
    ),
    code("RW5026", "an id is no snapshot's", "`rootward snapshot take` prints the id of the snapshot that it took, a UUID."),
    code(
        "RW5027",
        "the rows of a query on a snapshot are too large",
        "Rows are sent in pages of up to 8 MiB, and a single row was larger; or a program wanted to hold more than a million rows at once. Ask for fewer or smaller columns, or read the rows page by page.",
    ),
    code(
        "RW5030",
        "processes of different builds have no version in common",
        "Routers and workers say in which versions of their messages they speak, and a worker refuses who has none in common with it. Nothing was executed, and other workers go on. The message names both ranges. Run builds side by side that have a version in common: when a release raises the version it still speaks the one before, so upgrade one release at a time; the order of routers and workers does not matter.",
    ),
    code(
        "RW5031",
        "acknowledged transactions were lost in a failover",
        "A standby was promoted that had not received the last transactions of its primary, as an asynchronous one may. The worker remembers the last 8192 that each lane acknowledged in ten minutes, looked for each, and names some that are missing; `rootward peer list` shows it until the worker is started anew, its log for good. What is older than it remembers was not looked for. Money that chains moved may now be missing on one side: `rootward verify` says where. Read the old primary's disk, if it can still be read, before it is rebuilt; repeat what is missing with its own request id. `durability = \"replicated\"` makes commits wait for a standby, so that this can't happen.",
    ),
    code(
        "RW5032",
        "whether a failover lost something is not known",
        "A standby was promoted, and the worker that serves it now has not served the peer before, or could not look, so it does not know what was acknowledged last. Compare with what clients know, or with the old primary's disk, and run `rootward verify`. `durability = \"replicated\"` makes the question needless.",
    ),
    code(
        "RW5040",
        "there is no such move",
        "`rootward partition moves` lists the moves of partitions that are under way, with `--all` those that have ended too.",
    ),
    code(
        "RW5041",
        "partitions can't be moved so",
        "The message says what is wrong with the request: a partition that doesn't exist or that another move has, a peer that takes none, a schema version that is just being applied. Nothing was begun. `rootward partition list` shows the partitions with their owners, `rootward peer list` the peers.",
    ),
    code(
        "RW5042",
        "a move of partitions does not go on at the moment",
        "One end of the move, or the hub, did not answer or refused a step; the message says which and why. Until the partitions have changed their owner the source serves them. Each step is tried again with growing pauses for as long as it takes, and nothing is lost. `rootward partition moves` shows the reason; `rootward partition cancel ID` gives the move up as long as that is possible.",
    ),
    code(
        "RW5043",
        "it is too late to cancel the move",
        "The hub's map names the target as the owner, and the target may have changed the data since. The move can only go forward, and its clean-up goes on. To have the partitions back, move them back.",
    ),
    code(
        "RW5044",
        "the two sides of a move differ",
        "Source and target fixed what they hold at one moment, counted and digested it, and a table differs. The source stayed the owner, the copy is taken away, and nothing is lost. Was the copy written to by hand? If not, this is a fault of Rootward or of PostgreSQL's replication: please report it with the logs of both databases. A move in stage `differing` found the same after the switch: docs/moving.md says what to do then.",
    ),
    code(
        "RW5045",
        "the peer can't be changed so",
        "A peer is removed only when it owns no partition and no move concerns it: drain it (`rootward peer drain ID`), let `rootward rebalance --run` move its partitions away, and see with `rootward partition list --peer ID` that none is left. The hub holds the catalog and can be neither drained nor removed; of the other peers, one at least stays active. A removed peer does not come back under its id.",
    ),
    code(
        "RW5046",
        "the move waits for nobody's word",
        "Only a move in stage `differing` can be accepted: after the switch its source and its target differed, and what the source had is kept until a person has looked. `rootward partition moves` shows the stages.",
    ),
    code(
        "RW5047",
        "the chain is on its way to another peer",
        "The partition of the chain's home is just given from one peer to another, and for some milliseconds nobody can say how the chain stands. It goes on, and nothing was changed. Clients try again by themselves.",
    ),
    code(
        "RW5048",
        "a partition does not leave its region",
        "Keys of entities that are placed by region lie in partitions of that region, which belong to its peers only. Nothing was begun. `rootward peer list -o json` shows each peer's region; move the partition to another peer of the same region.",
    ),
    code(
        "RW9001",
        "a fault of Rootward",
        "Something happened that must not happen. Please report it with the message, the version, and the log of the router and of the worker around that time. Whether a transaction took effect is told by sending it again with the same request id.",
    ),
];
