//! The report's plots, as SVG: one look for all of them.

use plotters::prelude::*;

use super::super::measure::{Bin, PoolNow, RISKS};
use super::Report;

/// Colours that can be told apart by most people, and in grey (Okabe and Ito).
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

const SIZE: (u32, u32) = (900, 320);

/// One line: its name and its points. Where there is no value there is a gap.
struct Line {
    name: String,
    points: Vec<Option<f64>>,
}

impl Line {
    fn of(name: impl Into<String>, series: &[Bin], value: impl Fn(&Bin) -> Option<f64>) -> Self {
        Self { name: name.into(), points: series.iter().map(value).collect() }
    }
}

/// A plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("plot {name}: {problem}")]
pub struct PlotError {
    name: String,
    problem: String,
}

/// All plots: names of files with their text.
///
/// # Errors
/// When the backend refuses.
#[expect(clippy::cast_precision_loss, reason = "for plots")]
pub fn draw(report: &Report) -> Result<Vec<(String, String)>, PlotError> {
    let (series, bin) = (&report.series[..], report.bin);
    let rate = |count: u64| Some(count as f64 / bin);
    let by_risk = |value: &dyn Fn(&Bin, usize) -> Option<f64>| -> Vec<Line> {
        RISKS.iter().enumerate().map(|(at, risk)| Line::of(risk.to_string(), series, |bin| value(bin, at))).collect()
    };
    let mut wanted: Vec<(String, String, Vec<Line>)> = vec![
        (
            "demand".to_owned(),
            "Requests a second".to_owned(),
            vec![
                Line::of("came", series, |bin| rate(bin.arrived)),
                Line::of("answered", series, |bin| rate(bin.answered)),
            ],
        ),
        (
            "escalation".to_owned(),
            "Part of judged answers that gates refused".to_owned(),
            vec![Line::of("refused", series, |bin| {
                let judged = bin.judged;
                (judged.judged > 0).then(|| judged.refused as f64 / judged.judged as f64)
            })],
        ),
        ("frontier".to_owned(), "Part of each account's tightest limit in use".to_owned(), accounts(report)),
        ("latency-p50".to_owned(), "Median latency, s".to_owned(), by_risk(&|bin, at| bin.p50[at])),
        ("latency-p99".to_owned(), "99th percentile of latency, s".to_owned(), by_risk(&|bin, at| bin.p99[at])),
        (
            "cost".to_owned(),
            format!("Cost of requests, {} an hour", report.currency),
            vec![Line::of("requests", series, |bin| Some(bin.cost / report.bin * 3_600.0))],
        ),
        (
            "shed".to_owned(),
            "429 and errors a second, by risk".to_owned(),
            by_risk(&|bin, at| rate(bin.shed[at] + bin.failed[at])),
        ),
    ];
    for (at, pool) in report.pools.iter().enumerate() {
        let line = |name, value: fn(&PoolNow) -> u32| {
            Line::of(name, series, |bin| bin.pools.get(at).map(|pool| f64::from(value(pool))))
        };
        wanted.push((
            format!("replicas-{pool}"),
            format!("Replicas of {pool}"),
            vec![
                line("ready", |pool| pool.ready),
                line("floor", |pool| pool.floor),
                line("ceiling", |pool| pool.ceiling),
            ],
        ));
    }
    let some =
        wanted.into_iter().filter(|(_, _, lines)| lines.iter().any(|line| line.points.iter().any(Option::is_some)));
    some.map(|(name, title, lines)| {
        let svg = plot(&title, bin, &lines).map_err(|problem| PlotError { name: name.clone(), problem })?;
        Ok((format!("{name}.svg"), svg))
    })
    .collect()
}

fn accounts(report: &Report) -> Vec<Line> {
    let line =
        |(at, name): (usize, &String)| Line::of(name.as_str(), &report.series, |bin| bin.accounts.get(at).copied());
    report.accounts.iter().enumerate().map(line).collect()
}

#[expect(clippy::cast_precision_loss, reason = "for plots")]
fn plot(title: &str, bin: f64, lines: &[Line]) -> Result<String, String> {
    let most = lines.iter().flat_map(|line| &line.points).flatten().copied().fold(0.0, f64::max);
    let bins = lines.iter().map(|line| line.points.len()).max().unwrap_or(1);
    let end = bins as f64 * bin;
    let (unit, name) = if end >= 3.0 * 3_600.0 { (3_600.0, "hours") } else { (60.0, "minutes") };
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(text)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end / unit, 0.0..if most > 0.0 { most * 1.05 } else { 1.0 })
        .map_err(text)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc(name).draw().map_err(text)?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        for (at, part) in parts(&line.points, bin / unit).into_iter().enumerate() {
            let drawn = chart.draw_series(LineSeries::new(part, colour.stroke_width(2))).map_err(text)?;
            if at == 0 {
                let key = |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2));
                drawn.label(&line.name).legend(key);
            }
        }
    }
    let mut legend = chart.configure_series_labels();
    legend.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.2)).draw().map_err(text)?;
    root.present().map_err(text)?;
    drop(chart);
    drop(root);
    Ok(svg)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The points of a line between its gaps, each in the middle of its bin.
#[expect(clippy::cast_precision_loss, reason = "for plots")]
fn parts(points: &[Option<f64>], bin: f64) -> Vec<Vec<(f64, f64)>> {
    let placed: Vec<_> = points.iter().enumerate().map(|(at, y)| y.map(|y| ((at as f64 + 0.5) * bin, y))).collect();
    let parts = placed.split(Option::is_none).filter(|part| !part.is_empty());
    parts.map(|part| part.iter().flatten().copied().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_part_a_line() {
        let found = parts(&[Some(1.0), None, None, Some(2.0), Some(3.0)], 2.0);
        assert_eq!(found, [vec![(1.0, 1.0)], vec![(7.0, 2.0), (9.0, 3.0)]]);
    }
}
