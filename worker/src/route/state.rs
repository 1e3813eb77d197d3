//! Which ways there are for reference data, and when a way is given up. Pure.

use std::time::Duration;

use rootward_schema::kilometres;
use tokio::time::Instant;

/// Where a node stands, in degrees north and east.
pub type Position = (f64, f64);

/// A node as the choice of a way sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its id.
    pub id: String,
    /// The region that it declares; empty if none.
    pub region: String,
    /// Whether it is the hub, where reference data are written.
    pub is_hub: bool,
    /// Whether it passes reference data on.
    pub is_relay: bool,
    /// Where it stands, if that is known.
    pub position: Option<Position>,
}

/// The node that the files say this one copies from: the nearest relay of its region; the hub if it has none, or is a relay itself.
///
/// So ways form a tree of depth two at most, and no change can come back to where it was.
pub fn declared_source<'a>(me: &Source, all: &'a [Source]) -> Option<&'a Source> {
    ways(me, all).into_iter().next().filter(|first| first.is_hub || is_home(me, first)).or_else(|| all.iter().find(|source| source.is_hub))
}

/// All ways that this node may take, the best one first: relays of its own region, then the hub and other relays, the nearest first.
pub(super) fn ways<'a>(me: &Source, all: &'a [Source]) -> Vec<&'a Source> {
    let mut ways: Vec<&Source> =
        all.iter().filter(|source| source.id != me.id && (source.is_hub || source.is_relay && !me.is_relay)).collect();
    ways.sort_by(|one, other| {
        let rank = |source: &Source| (!is_home(me, source), distance(me, source), !source.is_hub);
        let (one_rank, other_rank) = (rank(one), rank(other));
        one_rank
            .0
            .cmp(&other_rank.0)
            .then(one_rank.1.total_cmp(&other_rank.1))
            .then(one_rank.2.cmp(&other_rank.2))
            .then(one.id.cmp(&other.id))
    });
    ways
}

fn is_home(me: &Source, source: &Source) -> bool {
    source.is_relay && !me.region.is_empty() && source.region == me.region
}

/// Unknown places are farther than any known one.
fn distance(me: &Source, source: &Source) -> f64 {
    me.position.zip(source.position).map_or(f64::INFINITY, |(here, there)| kilometres(here, there))
}

/// What one look at the way that is taken has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The source does not answer.
    Silent,
    /// It answers, and has no slot for this peer, or one that has lost what it was to keep: nothing comes by this way any more.
    NoSlot,
    /// It answers.
    Alive {
        /// The version that this peer shows.
        own: i64,
        /// The version of the hub; none if that doesn't answer.
        hub: Option<i64>,
    },
}

/// Remembers what earlier looks have shown.
#[derive(Debug, Default)]
pub(super) struct Patience {
    bad_since: Option<Instant>,
    /// What this peer and the hub showed at the last look.
    previous: Option<(i64, Option<i64>)>,
}

/// Why a way is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Silent,
    NoSlot,
    Behind,
    /// A try to take another way ended before there was one.
    NoSubscription,
    /// The files say that it passes nothing on any more, or not to this peer.
    NoSource,
}

impl Reason {
    /// Whether it is the source itself, or the way to it, that failed.
    pub(super) fn is_dead(self) -> bool {
        matches!(self, Reason::Silent | Reason::Behind)
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Reason::Silent => "its source does not answer",
            Reason::NoSlot => "its source has no replication slot for it",
            Reason::Behind => "nothing comes by it, and the hub has more",
            Reason::NoSubscription => "there is no subscription",
            Reason::NoSource => "its source is no source for this peer any more",
        }
    }
}

impl Patience {
    /// Whether the way is to be given up. A way is good as long as this peer shows what the hub showed at the last look, or more than it
    /// showed itself: that is judged at its end and not at its parts, so a relay that is cut off from the hub counts as dead too.
    pub(super) fn judge(&mut self, look: Look, now: Instant, limit: Duration) -> Option<Reason> {
        let bad = match look {
            Look::NoSlot => return Some(Reason::NoSlot),
            Look::Silent => Some(Reason::Silent),
            Look::Alive { own, hub } => {
                let is_behind = self.previous.is_some_and(|(before, hub)| own <= before && hub.is_some_and(|hub| own < hub));
                self.previous = Some((own, hub));
                is_behind.then_some(Reason::Behind)
            }
        };
        let Some(bad) = bad else {
            self.bad_since = None;
            return None;
        };
        let since = *self.bad_since.get_or_insert(now);
        (now.duration_since(since) >= limit).then_some(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, region: &str, is_relay: bool, position: Option<Position>) -> Source {
        Source { id: id.into(), region: region.into(), is_hub: id == "hub", is_relay, position }
    }

    fn ids(ways: &[&Source]) -> Vec<String> {
        ways.iter().map(|way| way.id.clone()).collect()
    }

    #[test]
    fn a_member_goes_by_its_regions_relay_then_by_what_is_nearest() {
        let all = [
            node("hub", "", false, Some((0.0, 0.0))),
            node("r1", "east", true, Some((0.0, 50.0))),
            node("r2", "west", true, Some((0.0, -20.0))),
            node("r3", "east", true, Some((0.0, 40.0))),
            node("m", "east", false, Some((0.0, 39.0))),
        ];
        let way_of = |me: &Source| (declared_source(me, &all).expect("a hub").id.clone(), ids(&ways(me, &all)));
        assert_eq!(way_of(&all[4]), ("r3".into(), vec!["r3".into(), "r1".into(), "hub".into(), "r2".into()]));
        assert_eq!(way_of(&node("n", "north", false, Some((0.0, -19.0)))).0, "hub", "another region's relay is no declared way");
        assert_eq!(way_of(&node("n", "", false, None)).0, "hub", "who has no region has no relay");
        assert_eq!(way_of(&all[1]), ("hub".into(), vec!["hub".into()]), "a relay never copies from a relay");
    }

    #[test]
    fn a_way_is_given_up_when_it_is_bad_for_as_long_as_the_limit_says() {
        let limit = Duration::from_secs(5);
        let start = Instant::now();
        let second = |seconds: u64| start + Duration::from_secs(seconds);
        let alive = |own, hub| Look::Alive { own, hub: Some(hub) };
        let mut patience = Patience::default();
        assert_eq!(patience.judge(Look::Silent, second(0), limit), None);
        assert_eq!(patience.judge(Look::Silent, second(4), limit), None);
        assert_eq!(patience.judge(alive(7, 7), second(5), limit), None, "it answers again");
        assert_eq!(patience.judge(Look::Silent, second(6), limit), None, "and the time begins anew");
        assert_eq!(patience.judge(Look::Silent, second(11), limit), Some(Reason::Silent));
        assert_eq!(Patience::default().judge(Look::NoSlot, second(0), limit), Some(Reason::NoSlot), "nothing will come any more");
    }

    #[test]
    fn a_way_by_which_nothing_comes_is_as_bad_as_none() {
        let limit = Duration::from_secs(5);
        let start = Instant::now();
        let mut patience = Patience::default();
        let mut look =
            |second: u64, own: i64, hub: Option<i64>| patience.judge(Look::Alive { own, hub }, start + Duration::from_secs(second), limit);
        assert_eq!(look(0, 7, Some(9)), None, "the first look knows nothing of before");
        assert_eq!(look(1, 8, Some(20)), None, "it comes nearer");
        assert_eq!(look(2, 8, Some(20)), None);
        assert_eq!(look(3, 9, Some(20)), None, "slow is not dead");
        assert_eq!(look(4, 9, Some(20)), None);
        assert_eq!(look(9, 9, Some(20)), Some(Reason::Behind));
        assert_eq!(look(10, 20, Some(21)), None);
        assert_eq!(look(11, 20, None), None, "what the hub showed a moment ago is not here yet");
        assert_eq!(look(100, 20, None), None, "without the hub nobody knows of more");
    }
}
