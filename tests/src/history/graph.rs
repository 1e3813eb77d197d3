//! What is before what, and whether that goes round in a circle.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{End, Event, Operation, Orders, Root, Value};

/// Why one operation is before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Ww,
    Wr,
    Rw,
    Time,
}

/// Operations and moments, and which is before which. An append to several lists is several operations.
#[derive(Default)]
struct Graph {
    /// What each is called; none for a moment.
    names: Vec<Option<String>>,
    after: Vec<Vec<(usize, Why)>>,
}

impl Graph {
    fn add(&mut self, name: Option<String>) -> usize {
        self.names.push(name);
        self.after.push(Vec::new());
        self.names.len() - 1
    }

    fn before(&mut self, first: usize, second: usize, why: Why) {
        // An operation is not before itself because it sees what it wrote.
        if first != second {
            self.after[first].push((second, why));
        }
    }
}

/// A circle of operations in words, a short one; none if there is none.
pub(super) fn cycle(history: &[Event], orders: &Orders) -> Option<Vec<String>> {
    let graph = build(history, orders);
    let start = one_in_a_circle(&graph)?;
    Some(described(&graph, &shortest_back(&graph, start)?))
}

fn build(history: &[Event], orders: &Orders) -> Graph {
    let mut graph = Graph::default();
    let mut appends: BTreeMap<(Root, Value), usize> = BTreeMap::new();
    // With when it began, and when it was answered if it was.
    let mut spans: Vec<(usize, u64, Option<u64>)> = Vec::new();
    let mut reads = Vec::new();
    for (at, event) in history.iter().enumerate() {
        let ended = (event.end == End::Done).then_some(event.ended);
        match &event.operation {
            Operation::Append { roots, value } => {
                for root in roots {
                    let is_seen = orders.get(root).is_some_and(|order| order.contains(value));
                    if event.end == End::Done || is_seen {
                        let node = graph.add(Some(format!("append {value} to {root}")));
                        appends.insert((*root, *value), node);
                        spans.push((node, event.began, ended));
                    }
                }
            }
            Operation::Read(lists) if event.end == End::Done => {
                let node = graph.add(Some(format!("read {at}")));
                spans.push((node, event.began, ended));
                reads.push((node, lists));
            }
            Operation::Read(_) => {}
        }
    }
    for (root, order) in orders {
        for pair in order.windows(2) {
            if let (Some(first), Some(second)) = (appends.get(&(*root, pair[0])), appends.get(&(*root, pair[1]))) {
                graph.before(*first, *second, Why::Ww);
            }
        }
    }
    for (node, lists) in reads {
        for (root, list) in lists {
            if let Some(seen) = list.last().and_then(|value| appends.get(&(*root, *value))) {
                graph.before(*seen, node, Why::Wr);
            }
            let order = orders.get(root).map(Vec::as_slice).unwrap_or_default();
            if let Some(next) = order.get(list.len()).and_then(|value| appends.get(&(*root, *value))) {
                graph.before(node, *next, Why::Rw);
            }
            // What no read has seen comes behind all of them.
            let unseen = appends.range((*root, 0)..=(*root, Value::MAX)).filter(|((_, value), _)| !order.contains(value));
            for append in unseen.map(|(_, append)| *append).collect::<Vec<_>>() {
                graph.before(node, append, Why::Rw);
            }
        }
    }
    add_time(&mut graph, &spans);
    graph
}

/// Whatever was answered is before whatever began later. The moments of answers stand in a row between them, so that this takes
/// some edges for each operation and not for each pair.
fn add_time(graph: &mut Graph, spans: &[(usize, u64, Option<u64>)]) {
    let mut ends: Vec<(u64, usize)> = spans.iter().filter_map(|(node, _, ended)| Some(((*ended)?, *node))).collect();
    ends.sort_unstable();
    let mut moments: Vec<(u64, usize)> = Vec::new();
    for (ended, node) in ends {
        let moment = graph.add(None);
        graph.before(node, moment, Why::Time);
        if let Some((_, before)) = moments.last() {
            graph.before(*before, moment, Why::Time);
        }
        moments.push((ended, moment));
    }
    for (node, began, _) in spans {
        let passed = moments.partition_point(|(ended, _)| ended < began);
        if let Some((_, moment)) = passed.checked_sub(1).and_then(|last| moments.get(last)) {
            graph.before(*moment, *node, Why::Time);
        }
    }
}

/// Takes away what nothing is before, again and again; what is left is in a circle or behind one.
fn one_in_a_circle(graph: &Graph) -> Option<usize> {
    let mut before = vec![0_usize; graph.names.len()];
    graph.after.iter().flatten().for_each(|(to, _)| before[*to] += 1);
    let mut free: Vec<usize> = (0..before.len()).filter(|node| before[*node] == 0).collect();
    while let Some(node) = free.pop() {
        for (to, _) in &graph.after[node] {
            before[*to] -= 1;
            if before[*to] == 0 {
                free.push(*to);
            }
        }
    }
    (0..before.len()).filter(|node| before[*node] > 0 && graph.names[*node].is_some()).find(|node| shortest_back(graph, *node).is_some())
}

/// The shortest way from an operation back to itself.
fn shortest_back(graph: &Graph, start: usize) -> Option<Vec<(usize, Why)>> {
    let mut came: HashMap<usize, (usize, Why)> = HashMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(node) = next.pop_front() {
        for (to, why) in &graph.after[node] {
            if came.contains_key(to) {
                continue;
            }
            came.insert(*to, (node, *why));
            if *to == start {
                let mut way = Vec::new();
                let mut at = start;
                loop {
                    let (from, why) = came[&at];
                    way.push((from, why));
                    at = from;
                    if at == start {
                        way.reverse();
                        return Some(way);
                    }
                }
            }
            next.push_back(*to);
        }
    }
    None
}

fn described(graph: &Graph, way: &[(usize, Why)]) -> Vec<String> {
    let mut steps = Vec::new();
    for (node, why) in way {
        // Moments are between what was answered and what began.
        if let Some(name) = &graph.names[*node] {
            steps.push(name.clone());
            steps.push(format!("<{}", format!("{why:?}").to_lowercase()));
        }
    }
    steps
}
