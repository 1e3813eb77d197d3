//! The report as one HTML page that needs nothing else: curves as inline SVG, no scripts.

use std::fmt::Write as _;

use super::{Report, figures::Figures};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
/// Room for the axes' words: left, right, top, bottom.
const MARGIN: (f64, f64, f64, f64) = (70.0, 20.0, 16.0, 44.0);
/// One for each side; told apart by people who see few colours, too.
const COLOURS: &[&str] = &["#0072b2", "#d55e00", "#009e73", "#cc79a7"];
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}svg{width:100%;height:auto}svg text{font-size:12px;fill:#444}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.15rem .8rem .15rem 0;text-align:left}\
td.n{text-align:right}.grid{stroke:#ddd}dt{font-weight:600}dd{margin:0 0 .5rem 0}.warn{color:#b00}";

/// Curves over a number: of clients, or of peers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chart {
    title: &'static str,
    unit: &'static str,
    /// What is counted from left to right.
    axis: &'static str,
    counts: Vec<usize>,
    curves: Vec<Curve>,
}

#[derive(Debug, Clone, PartialEq)]
struct Curve {
    side: String,
    /// For each number of clients: low, median, high.
    points: Vec<(f64, f64, f64)>,
}

impl Chart {
    /// Of the figures whose names are one of these prefixes and a number of clients, divided by `scale`.
    pub(super) fn of(
        title: &'static str,
        unit: &'static str,
        figures: &Figures,
        clients: &[usize],
        sides: &[(&str, String)],
        scale: f64,
    ) -> Chart {
        let mut sorted = clients.to_vec();
        sorted.sort_unstable();
        let point = |prefix: &str, count: &usize| {
            figures
                .series(&format!("{prefix}{count}"))
                .map_or((0.0, 0.0, 0.0), |series| (series.low() / scale, series.median() / scale, series.high() / scale))
        };
        let curve = |(side, prefix): &(&str, String)| Curve {
            side: (*side).to_owned(),
            points: sorted.iter().map(|count| point(prefix, count)).collect(),
        };
        Chart { title, unit, curves: sides.iter().map(curve).collect(), counts: sorted, axis: "clients" }
    }

    /// The same over another number.
    pub(super) fn over(self, axis: &'static str) -> Chart {
        Chart { axis, ..self }
    }

    fn to_svg(&self) -> String {
        let (left, right, top, bottom) = MARGIN;
        let highest = self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.2).fold(0.0, f64::max);
        let ceiling = round_up(highest);
        let steps = (self.counts.len().max(2) - 1) as f64;
        let x = |place: usize| left + (WIDTH - left - right) * place as f64 / steps;
        let y = |value: f64| HEIGHT - bottom - (HEIGHT - top - bottom) * value / ceiling;
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", escaped(self.title));
        for line in 0..=4 {
            let value = ceiling * f64::from(line) / 4.0;
            let height = y(value);
            let _ = writeln!(svg, "<line class=\"grid\" x1=\"{left}\" x2=\"{}\" y1=\"{height:.1}\" y2=\"{height:.1}\"/>", WIDTH - right);
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", left - 8.0, height + 4.0, number(value));
        }
        for (place, count) in self.counts.iter().enumerate() {
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{count}</text>", x(place), HEIGHT - bottom + 18.0);
        }
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", WIDTH - right, HEIGHT - 6.0, self.axis);
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<String> =
                curve.points.iter().enumerate().map(|(place, point)| format!("{:.1},{:.1}", x(place), y(point.1))).collect();
            let _ = writeln!(svg, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>", points.join(" "));
            for ((low, median, high), (place, count)) in curve.points.iter().zip(self.counts.iter().enumerate()) {
                let (across, side) = (x(place), escaped(&curve.side));
                let _ = writeln!(
                    svg,
                    "<line x1=\"{across:.1}\" x2=\"{across:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>\
                     <circle cx=\"{across:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{side}, {count} {}: {} {}</title></circle>",
                    y(*low),
                    y(*high),
                    y(*median),
                    self.axis,
                    number(*median),
                    escaped(self.unit)
                );
            }
        }
        svg + "</svg>\n"
    }

    fn legend(&self) -> String {
        let entry = |(curve, colour): (&Curve, &&str)| format!("<b style=\"color:{colour}\">&#9632;</b> {}", escaped(&curve.side));
        self.curves.iter().zip(COLOURS.iter().cycle()).map(entry).collect::<Vec<_>>().join(" &nbsp; ")
    }
}

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let machine = &report.machine;
    let title = format!("rootward {}", report.title);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p>rootward {}, PostgreSQL {}; {} x {}, {} MB, \
         Linux {}; a page to the disk in {} us</p>\n",
        env!("CARGO_PKG_VERSION"),
        escaped(&machine.postgres_version),
        machine.cpu_count,
        escaped(&machine.cpu_model),
        machine.memory_mb,
        escaped(&machine.kernel),
        machine.fdatasync_us
    );
    if !machine.is_release_build {
        html += "<p class=\"warn\">A debug build: the figures mean nothing.</p>\n";
    }
    for chart in &report.charts {
        let _ = write!(html, "<h2>{}, {}</h2>\n<p>{}</p>\n{}", escaped(chart.title), escaped(chart.unit), chart.legend(), chart.to_svg());
    }
    html += "<h2>Figures</h2>\n<table>\n<tr><th>name</th><th>median</th><th>low</th><th>high</th><th>unit</th></tr>\n";
    for (name, unit, series) in report.figures.all() {
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escaped(name),
            number(series.median()),
            number(series.low()),
            number(series.high()),
            escaped(unit)
        );
    }
    html += "</table>\n<h2>How it was measured</h2>\n<dl>\n";
    for (name, text) in &report.settings {
        let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(text));
    }
    html += "</dl>\n<h2>Checked after the load</h2>\n<ul>\n";
    for check in &report.checks {
        let _ = writeln!(html, "<li>{}</li>", escaped(check));
    }
    html + "</ul>\n</body>\n</html>\n"
}

/// The next of 1, 2, 2.5, 5, 10 times a power of ten; 1 for nothing.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|step| step * power >= value * 0.999_999);
    step.unwrap_or(10.0) * power
}

fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 || value == 0.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{figures::Series, machine::Machine};

    fn report() -> Report {
        let mut figures = Figures::default();
        for (clients, value) in [(1, 900.0), (8, 4_100.0)] {
            let mut series = Series::default();
            [value, value * 1.1, value * 0.9].into_iter().for_each(|value| series.push(value));
            figures.add(format!("tps_{clients}"), "tx/s", series);
            figures.add(format!("statement_tps_{clients}"), "tx/s", value / 2.0);
        }
        let sides = [("rootward", "tps_".to_owned()), ("<statement>", "statement_tps_".to_owned())];
        let charts = vec![Chart::of("Throughput", "tx/s", &figures, &[8, 1], &sides, 1.0)];
        let machine = Machine {
            cpu_count: 2,
            cpu_model: "A & B".to_owned(),
            memory_mb: 1,
            postgres_version: "15.18".to_owned(),
            kernel: "6".to_owned(),
            fdatasync_us: 100,
            is_release_build: true,
        };
        Report {
            title: "bench bank".to_owned(),
            machine,
            settings: vec![("load", "a < b".to_owned())],
            figures,
            table: String::new(),
            checks: vec!["sum unchanged".to_owned()],
            charts,
            closing: None,
        }
    }

    /// The names of elements that are open at the end, or a mismatch.
    fn open_elements(html: &str) -> Vec<String> {
        let mut open: Vec<String> = Vec::new();
        for tag in html.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
            let name: String = tag.chars().take_while(|character| !character.is_whitespace()).collect();
            match name.strip_prefix('/') {
                Some(closed) => assert_eq!(open.pop().as_deref(), Some(closed), "{tag}"),
                None if tag.ends_with('/') || matches!(name.as_str(), "!doctype" | "meta") => {}
                None => open.push(name),
            }
        }
        open
    }

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let html = page(&report());
        assert_eq!(open_elements(&html), Vec::<String>::new());
        for outside in ["http", "<script", "src=", "url("] {
            assert!(!html.contains(outside), "{outside} in {html}");
        }
        assert!(html.contains("&lt;statement&gt;") && html.contains("A &amp; B") && html.contains("a &lt; b"));
        assert_eq!((html.matches("<polyline").count(), html.matches("<circle").count()), (2, 4));
        assert!(html.contains("rootward, 8 clients: 4100 tx/s"));
    }

    #[test]
    fn curves_lie_inside_the_chart_with_few_clients_first() {
        let report = report();
        let chart = &report.charts[0];
        assert_eq!(chart.counts, [1, 8]);
        assert_eq!(chart.curves[0].points[0], (810.0, 900.0, 990.0000000000001));
        let svg = chart.to_svg();
        for value in svg.split("y1=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse::<f64>().ok()) {
            assert!((0.0..=HEIGHT).contains(&value), "{value}");
        }
        assert_eq!((round_up(4_510.0), round_up(0.0), round_up(1000.0), round_up(0.21)), (5_000.0, 1.0, 1_000.0, 0.25));
    }

    #[test]
    fn one_number_of_clients_is_a_point() {
        let mut figures = Figures::default();
        figures.add("tps_4", "tx/s", 10.0);
        let svg = Chart::of("T", "u", &figures, &[4], &[("a", "tps_".to_owned())], 1.0).to_svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
