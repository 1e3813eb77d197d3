//! Whether what clients saw can have happened: lists at many roots that are only appended to, and reads of many lists at once.
//!
//! After Elle (Kingsbury and Alvaro, 2020): a list shows in which order it was appended to, so reads tell which append came before
//! which. Three kinds of "before" follow from that, and time is a fourth:
//! - an append is before the next one in the same list (ww);
//! - an append is before a read that sees it (wr);
//! - a read is before the first append that it does not see (rw);
//! - what was answered is before what was asked for later (time).
//!
//! If something is before itself, no order of all operations explains what was seen: the history is not strictly serializable.
//! Appends of one chain are operations of their own, for between them others may come; but a read sees all of them or none.

mod graph;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A list.
pub type Root = u64;
/// What is appended; once to each list at most.
pub type Value = u64;

/// What a client asked for.
#[derive(Debug, Clone)]
pub enum Operation {
    /// One value to one list, or to each of several lists by a chain.
    Append {
        /// The lists.
        roots: Vec<Root>,
        /// The value.
        value: Value,
    },
    /// Lists as they were at one snapshot.
    Read(BTreeMap<Root, Vec<Value>>),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With an effect that stays.
    Done,
    /// Surely without effect.
    Failed,
    /// Nobody told.
    Unknown,
}

/// One operation, with the time before it was sent and after it was answered, by one clock.
#[derive(Debug, Clone)]
pub struct Event {
    /// What was asked for; what it gave, if it was a read.
    pub operation: Operation,
    /// Before it was sent.
    pub began: u64,
    /// After it was answered, or given up.
    pub ended: u64,
    /// How it ended.
    pub end: End,
}

/// What can't have happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The fields are where it was found.
pub enum Anomaly {
    /// Acknowledged, and not in a list that was read later.
    Lost { root: Root, value: Value },
    /// In a list more than once.
    Duplicated { root: Root, value: Value },
    /// Seen, though it was refused.
    Aborted { root: Root, value: Value },
    /// Seen, though nobody appended it there.
    Invented { root: Root, value: Value },
    /// Two reads of which neither is the beginning of the other.
    Orders { root: Root },
    /// A read sees one append of a chain and not another one; the read by its place in the history.
    Torn { value: Value, read: usize },
    /// Each is before the next one, and the last before the first.
    Cycle(Vec<String>),
}

impl fmt::Display for Anomaly {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Anomaly::Lost { root, value } => write!(out, "{value} was appended to list {root} and is lost"),
            Anomaly::Duplicated { root, value } => write!(out, "{value} stands in list {root} more than once"),
            Anomaly::Aborted { root, value } => write!(out, "{value} was refused and stands in list {root}"),
            Anomaly::Invented { root, value } => write!(out, "{value} stands in list {root} and was never appended to it"),
            Anomaly::Orders { root } => write!(out, "list {root} was read in two orders"),
            Anomaly::Torn { value, read } => write!(out, "read {read} sees half of the chain that appends {value}"),
            Anomaly::Cycle(steps) => write!(out, "a circle: {}", steps.join(" ")),
        }
    }
}

/// Everything that can't have happened; nothing if there is an order that explains it all.
pub fn check(history: &[Event]) -> Vec<Anomaly> {
    let appends = Appends::of(history);
    let mut found: BTreeSet<Anomaly> = BTreeSet::new();
    let orders = orders(history, &appends, &mut found);
    for (at, event) in history.iter().enumerate() {
        match &event.operation {
            Operation::Read(lists) if event.end == End::Done => found.extend(torn(history, at, lists)),
            Operation::Append { roots, value } if event.end == End::Done => {
                let is_lost = |root: &&Root| is_lost(history, event, **root, *value, &orders);
                found.extend(roots.iter().filter(is_lost).map(|root| Anomaly::Lost { root: *root, value: *value }));
            }
            _ => {}
        }
    }
    // Lists that are wrong in themselves show no order, and what is lost is before itself, too.
    if found.is_empty() {
        found.extend(graph::cycle(history, &orders).map(Anomaly::Cycle));
    }
    found.into_iter().collect()
}

/// Which operation appended what to which list.
struct Appends(BTreeMap<(Root, Value), End>);

impl Appends {
    fn of(history: &[Event]) -> Appends {
        let mut appends = BTreeMap::new();
        for event in history {
            if let Operation::Append { roots, value } = &event.operation {
                for root in roots {
                    assert!(appends.insert((*root, *value), event.end).is_none(), "{value} is appended to list {root} twice");
                }
            }
        }
        Appends(appends)
    }
}

/// The longest that was read of each list, which is the order of its appends.
type Orders = BTreeMap<Root, Vec<Value>>;

fn orders(history: &[Event], appends: &Appends, found: &mut BTreeSet<Anomaly>) -> Orders {
    let mut orders = Orders::new();
    for event in history.iter().filter(|event| event.end == End::Done) {
        let Operation::Read(lists) = &event.operation else { continue };
        for (&root, list) in lists {
            let mut seen = BTreeSet::new();
            for &value in list {
                if !seen.insert(value) {
                    found.insert(Anomaly::Duplicated { root, value });
                }
                match appends.0.get(&(root, value)) {
                    None => drop(found.insert(Anomaly::Invented { root, value })),
                    Some(End::Failed) => drop(found.insert(Anomaly::Aborted { root, value })),
                    Some(End::Done | End::Unknown) => {}
                }
            }
            let order = orders.entry(root).or_default();
            let common = order.len().min(list.len());
            if order[..common] != list[..common] {
                found.insert(Anomaly::Orders { root });
            }
            if list.len() > order.len() {
                order.clone_from(list);
            }
        }
    }
    orders
}

/// Whether a list that was read after the append was answered lacks it, and so does every other.
fn is_lost(history: &[Event], append: &Event, root: Root, value: Value, orders: &Orders) -> bool {
    let is_seen = orders.get(&root).is_some_and(|order| order.contains(&value));
    let is_read_later = |event: &Event| {
        let reads_it = matches!(&event.operation, Operation::Read(lists) if lists.contains_key(&root));
        reads_it && event.end == End::Done && event.began > append.ended
    };
    !is_seen && history.iter().any(is_read_later)
}

/// Chains of which a read sees a part.
fn torn(history: &[Event], read: usize, lists: &BTreeMap<Root, Vec<Value>>) -> Vec<Anomaly> {
    let is_half = |event: &&Event| match &event.operation {
        Operation::Append { roots, value } => {
            let seen = roots.iter().filter_map(|root| lists.get(root)).map(|list| list.contains(value));
            let (seen, missing): (Vec<bool>, Vec<bool>) = seen.partition(|is_seen| *is_seen);
            !seen.is_empty() && !missing.is_empty()
        }
        Operation::Read(_) => false,
    };
    let value = |event: &Event| match &event.operation {
        Operation::Append { value, .. } => *value,
        Operation::Read(_) => 0,
    };
    history.iter().filter(is_half).map(|event| Anomaly::Torn { value: value(event), read }).collect()
}
