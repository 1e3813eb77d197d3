//! The order of a chain's steps: which one begins when which others are done.

use std::collections::BTreeSet;

use crate::chain_source::ChainSource;
use crate::codes;
use crate::finding::Finding;
use crate::nearest::did_you_mean;

/// For each step, by its place, the steps that are surely done when it begins.
pub(crate) struct Order {
    direct: Vec<BTreeSet<usize>>,
    before: Vec<BTreeSet<usize>>,
}

impl Order {
    /// The order as it is written. A step with a wrong `after` counts as behind all earlier ones: one finding is enough.
    pub fn of(chain: &ChainSource) -> Order {
        let mut order = Order { direct: Vec::new(), before: Vec::new() };
        for (at, step) in chain.steps.iter().enumerate() {
            let earlier = |name: &str| chain.steps.iter().take(at).position(|other| other.name.value == name);
            let direct: BTreeSet<usize> = match &step.after {
                None => at.checked_sub(1).into_iter().collect(),
                // The chain's row is committed with the first step, so nothing is before it.
                Some(names) if names.is_empty() => (at > 0).then_some(0).into_iter().collect(),
                Some(names) => {
                    let places: Option<BTreeSet<usize>> = names.iter().map(|name| earlier(&name.value)).collect();
                    places.unwrap_or_else(|| (0..at).collect())
                }
            };
            let mut before = direct.clone();
            for earlier in &direct {
                before.extend(order.before.get(*earlier).into_iter().flatten());
            }
            order.direct.push(direct);
            order.before.push(before);
        }
        order
    }

    /// The steps that are surely done when the one at this place begins.
    pub fn before(&self, at: usize) -> &BTreeSet<usize> {
        static NONE: BTreeSet<usize> = BTreeSet::new();
        self.before.get(at).unwrap_or(&NONE)
    }

    /// Whether one step is surely done when another begins.
    pub fn is_before(&self, earlier: usize, later: usize) -> bool {
        self.before(later).contains(&earlier)
    }

    /// Whether two steps may run at the same time.
    pub fn is_beside(&self, one: usize, other: usize) -> bool {
        one != other && !self.is_before(one, other) && !self.is_before(other, one)
    }

    /// The places that the step's `after` names, as the definition has them.
    pub fn after(&self, at: usize) -> Vec<u32> {
        self.direct.get(at).into_iter().flatten().filter_map(|place| u32::try_from(*place).ok()).collect()
    }
}

/// `after` names earlier steps.
pub(crate) fn check_after(chain: &ChainSource, findings: &mut Vec<Finding>) {
    for (at, step) in chain.steps.iter().enumerate() {
        let earlier: Vec<&str> = chain.steps.iter().take(at).map(|step| step.name.value.as_str()).collect();
        for name in step.after.iter().flatten().filter(|name| !earlier.contains(&name.value.as_str())) {
            let (message, help) = if name.value == step.name.value {
                (format!("step `{}` waits for itself", step.name.value), "leave it out of `after`".to_owned())
            } else if chain.steps.iter().any(|other| other.name.value == name.value) {
                let message = format!("step `{}` waits for `{}`, which stands behind it", step.name.value, name.value);
                (message, "`after` names earlier steps, so that there is no circle; move the step".to_owned())
            } else {
                let otherwise = if at == 0 { "the first step begins at once; leave `after` out" } else { "name an earlier step" };
                let message = format!("step `{}` waits for `{}`, which is no step", step.name.value, name.value);
                (message, did_you_mean(&name.value, earlier.iter().copied(), otherwise))
            };
            findings.push(Finding::error(codes::AFTER, &name.place, message).help(help));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    fn order(steps: &[(&str, Option<&[&str]>)]) -> Order {
        let step = |(name, after): &(&str, Option<&[&str]>)| {
            let after = after.map_or_else(String::new, |after| format!(", after = {after:?}"));
            format!("{{ name = \"{name}\", call = \"{name}\"{after} }}")
        };
        let steps: Vec<String> = steps.iter().map(step).collect();
        let text = format!("name = \"t\"\n[root.a]\ntable = \"a\"\n[chain.c]\nsteps = [{}]\n", steps.join(", "));
        Order::of(&Source::from_texts([("rootward.toml", text.as_str())]).manifest.chains[0])
    }

    #[test]
    fn without_after_a_step_waits_for_the_one_before_it() {
        let order = order(&[("a", None), ("b", None), ("c", None)]);
        assert!(order.is_before(0, 2) && order.is_before(1, 2) && !order.is_before(2, 0));
        assert_eq!((order.after(0), order.after(2)), (vec![], vec![1]));
    }

    #[test]
    fn steps_with_the_same_after_run_side_by_side() {
        let order = order(&[("a", None), ("b", Some(&["a"])), ("c", Some(&[])), ("d", Some(&["c", "b", "c"])), ("e", None)]);
        assert!(order.is_beside(1, 2) && !order.is_beside(1, 1) && !order.is_beside(1, 3));
        assert_eq!((order.after(2), order.after(3)), (vec![0], vec![1, 2]));
        assert!((0..4).all(|earlier| order.is_before(earlier, 4)));
    }

    #[test]
    fn a_wrong_after_counts_as_behind_everything() {
        let order = order(&[("a", Some(&["a"])), ("b", Some(&["c", "a"])), ("c", Some(&["x"]))]);
        assert!(order.before(0).is_empty() && order.is_before(0, 1) && order.is_before(1, 2));
    }
}
