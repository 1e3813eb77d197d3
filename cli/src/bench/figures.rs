//! Numbers with names: medians over rounds, percentiles, and the form in which programs read them.

use serde_json::{Value as Json, json};

/// What each round gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle; of an even number the mean of both middles. 0 of none.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        match sorted.len() {
            0 => 0.0,
            count if count % 2 == 1 => sorted[half],
            _ => f64::midpoint(sorted[half - 1], sorted[half]),
        }
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn low(&self) -> f64 {
        self.0.iter().copied().reduce(f64::min).unwrap_or_default()
    }

    pub(crate) fn high(&self) -> f64 {
        self.0.iter().copied().reduce(f64::max).unwrap_or_default()
    }
}

impl From<f64> for Series {
    fn from(value: f64) -> Series {
        Series(vec![value])
    }
}

/// The value that this share of all is not above (nearest rank); 0 of none.
pub(crate) fn percentile(sorted: &[u64], share: f64) -> u64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

/// One number with its name.
#[derive(Debug, Clone, PartialEq)]
struct Figure {
    name: String,
    unit: &'static str,
    series: Series,
}

/// All numbers of a run, in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &'static str, series: impl Into<Series>) {
        self.0.push(Figure { name: name.into(), unit, series: series.into() });
    }

    /// The median of the figure of that name; 0 if there is none.
    pub(crate) fn median(&self, name: &str) -> f64 {
        self.series(name).map(Series::median).unwrap_or_default()
    }

    pub(crate) fn series(&self, name: &str) -> Option<&Series> {
        self.0.iter().find(|figure| figure.name == name).map(|figure| &figure.series)
    }

    /// Name, unit and values of each.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str, &Series)> {
        self.0.iter().map(|figure| (figure.name.as_str(), figure.unit, &figure.series))
    }

    /// The form is a promise: figures are added, never renamed. `low` and `high` are there where more than one round counts.
    pub(crate) fn to_json(&self) -> Json {
        let one = |figure: &Figure| {
            let mut object = json!({ "name": figure.name, "value": rounded(figure.series.median()), "unit": figure.unit });
            if figure.series.0.len() > 1 {
                object["low"] = json!(rounded(figure.series.low()));
                object["high"] = json!(rounded(figure.series.high()));
            }
            object
        };
        Json::Array(self.0.iter().map(one).collect())
    }
}

/// Three digits behind the point are more than any run repeats.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |values: &[f64]| Series(values.to_vec()).median();
        assert_eq!((of(&[]), of(&[3.0]), of(&[9.0, 1.0, 2.0]), of(&[4.0, 1.0])), (0.0, 3.0, 2.0, 2.5));
        let series = Series(vec![2.0, 9.0, 1.0]);
        assert_eq!((series.low(), series.high()), (1.0, 9.0));
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 0.5), percentile(&hundred, 0.99), percentile(&hundred, 1.0)), (50, 99, 100));
        assert_eq!((percentile(&[7], 0.5), percentile(&[7], 0.99), percentile(&[], 0.5)), (7, 7, 0));
        assert_eq!(percentile(&[1, 2, 3], 0.0), 1);
    }

    #[test]
    fn figures_for_programs_keep_their_form() {
        let mut figures = Figures::default();
        figures.add("latency_ratio_1", "x", 1.23456);
        figures.add("chains_per_s_16", "chains/s", Series(vec![10.0, 30.0, 20.0]));
        let wanted = r#"[{"name":"latency_ratio_1","unit":"x","value":1.235},{"high":30.0,"low":10.0,"name":"chains_per_s_16","unit":"chains/s","value":20.0}]"#;
        assert_eq!(figures.to_json().to_string(), wanted);
        assert_eq!((figures.median("chains_per_s_16"), figures.median("nothing")), (20.0, 0.0));
    }
}
