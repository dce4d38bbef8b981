//! The plots of a report, as SVG texts. Draws only figures that may stand side by side; a plot
//! without any says so.

use std::error::Error;

use plotters::coord::Shift;
use plotters::coord::combinators::BindKeyPoints;
use plotters::prelude::*;

use crate::compare::record::{Direction, Figures, Load, Point};
use crate::compare::summary::{Cell, Percentile, Summary};
use crate::compare::table::MEBIBYTE;
use crate::spread::digits;

/// What a plotting error is here: drawing into a text cannot fail for want of a device.
type Drawn<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Width and height, pixels; scaled by whoever shows it.
const SIZE: (u32, u32) = (920, 440);
/// How much of the width the axes have; the rest is the legend's.
const CHART_WIDTH: u32 = 690;
/// More labels than an axis ever gets.
const LABELS_MAX: usize = 40;
/// What no loss is drawn as, percent: a logarithmic axis has no zero.
const LOSS_FLOOR: f64 = 0.001;
/// Colours that differ for colour-blind readers too, in the subjects' order.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 90, 181),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(110, 110, 110),
    RGBColor(86, 180, 233),
    RGBColor(148, 103, 40),
    RGBColor(230, 159, 0),
];

/// A plot.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    /// The file's name without its ending.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) title: &'static str,
    /// How to read it.
    pub(crate) caption: &'static str,
    /// The picture.
    pub(crate) svg: String,
}

/// How a curve is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stroke {
    Solid,
    Dashed,
}

/// One line of a plot.
struct Curve {
    name: String,
    colour: RGBColor,
    stroke: Stroke,
    points: Vec<(f64, f64)>,
}

/// What a plot's axes are called.
struct Axes {
    x: &'static str,
    y: &'static str,
}

/// The plots of a comparison of these subjects.
///
/// # Errors
/// None that figures can cause.
pub(crate) fn plots(summary: &Summary<'_>, subjects: &[String]) -> Drawn<[Plot; 4]> {
    Ok([
        Plot {
            name: "throughput-loss",
            title: "Throughput against loss",
            caption: "One-way packets to the peer, by what was really offered, flat out \
                      included; medians over the rounds. Losses below 0.001 % are drawn there. \
                      The line at 0.1 % is what counts as none.",
            svg: draw(
                &Axes { x: "offered, packets/s", y: "lost, %" },
                &loss_curves(summary, subjects),
                Some(crate::compare::verdict::LOSS_PERCENT_MAX),
            )?,
        },
        Plot {
            name: "latency-load",
            title: "Latency percentiles against load",
            caption: "Round trips over an echo peer, from when each packet was due; solid: p50, \
                      dashed: p99. A curve ends where the load was not carried.",
            svg: draw(
                &Axes { x: "offered, round trips/s", y: "round trip, ms" },
                &latency_curves(summary, subjects),
                None,
            )?,
        },
        Plot {
            name: "cpu-per-packet",
            title: "Processor time for each relayed packet",
            caption: "All work of this machine during round trips, divided by the relayed packets \
                      (two for each round trip). Clients and peers are in it and the same for \
                      every subject: the differences are the relays'. Only where the load was \
                      carried.",
            svg: draw(
                &Axes { x: "offered, round trips/s", y: "ns of all cores" },
                &cpu_curves(summary, subjects),
                None,
            )?,
        },
        Plot {
            name: "memory-allocations",
            title: "Memory against allocations",
            caption: "Of the server while all allocations stand; solid: resident, dashed: kernel \
                      maps. The kernel's memory for sockets is in neither.",
            svg: draw(
                &Axes { x: "allocations", y: "MiB" },
                &memory_curves(summary, subjects),
                None,
            )?,
        },
    ])
}

fn curves(
    subjects: &[String],
    points: &[Point],
    strokes: &[(&str, Stroke)],
    y: impl Fn(&str, Point, usize) -> Option<f64>,
) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (subject, colour) in subjects.iter().zip(COLOURS.iter().cycle()) {
        for (which, (suffix, stroke)) in strokes.iter().enumerate() {
            let figures = points.iter().filter_map(|point| {
                let y = y(subject, *point, which).filter(|y| *y > 0.0)?;
                Some((x(*point)?, y))
            });
            let points: Vec<_> = figures.collect();
            if !points.is_empty() {
                let name = format!("{subject}{suffix}");
                curves.push(Curve { name, colour: *colour, stroke: *stroke, points });
            }
        }
    }
    curves
}

fn x(point: Point) -> Option<f64> {
    match point.load {
        Load::Throughput { rate, .. } => rate.map(f64::from),
        Load::Latency { rate } => Some(rate.into()),
        Load::Allocations { count } => Some(count.into()),
    }
}

const SOLID: [(&str, Stroke); 1] = [("", Stroke::Solid)];

fn to_peer(load: Load) -> bool {
    matches!(load, Load::Throughput { direction: Direction::ToPeer, .. })
}

fn echo(load: Load) -> bool {
    matches!(load, Load::Latency { .. })
}

/// The points of the first shape only: curves of different payloads do not share axes.
fn of_one_shape(mut points: Vec<Point>) -> Vec<Point> {
    let shape = points.first().map(Point::shape);
    points.retain(|point| Some(point.shape()) == shape);
    points
}

fn figure(cell: Cell) -> Option<f64> {
    cell.figure().map(|spread| spread.median)
}

fn loss_curves(summary: &Summary<'_>, subjects: &[String]) -> Vec<Curve> {
    let points = of_one_shape(summary.points(to_peer));
    let all = subjects.iter().zip(COLOURS.iter().cycle()).map(|(subject, colour)| {
        let mut points: Vec<_> = points
            .iter()
            .filter_map(|point| summary.offered_and_lost(subject, *point))
            .map(|(offered, lost)| (offered.max(1.0), lost.max(LOSS_FLOOR)))
            .collect();
        points.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Curve { name: subject.clone(), colour: *colour, stroke: Stroke::Solid, points }
    });
    all.filter(|curve| !curve.points.is_empty()).collect()
}

fn latency_curves(summary: &Summary<'_>, subjects: &[String]) -> Vec<Curve> {
    let points = of_one_shape(summary.points(echo));
    let percentiles = [Percentile::P50, Percentile::P99];
    let strokes = [(", p50", Stroke::Solid), (", p99", Stroke::Dashed)];
    curves(subjects, &points, &strokes, |subject, point, which| {
        figure(summary.latency(subject, point, percentiles[which]))
    })
}

fn cpu_curves(summary: &Summary<'_>, subjects: &[String]) -> Vec<Curve> {
    let points = of_one_shape(summary.points(echo));
    curves(subjects, &points, &SOLID, |subject, point, _| {
        figure(summary.machine_ns(subject, point))
    })
}

fn memory_curves(summary: &Summary<'_>, subjects: &[String]) -> Vec<Curve> {
    let points = summary.points(|load| matches!(load, Load::Allocations { .. }));
    let strokes = [(", RSS", Stroke::Solid), (", kernel maps", Stroke::Dashed)];
    curves(subjects, &points, &strokes, |subject, point, which| {
        let cell = summary.standing(subject, point, |figures| match figures {
            Figures::Allocations { rss_bytes, .. } if which == 0 => *rss_bytes,
            Figures::Allocations { map_bytes, .. } => *map_bytes,
            Figures::Throughput { .. } | Figures::Latency { .. } => None,
        });
        figure(cell).map(|bytes| bytes / MEBIBYTE)
    })
}

/// The smallest and the largest of some numbers, with room around them for a logarithmic axis.
fn range(numbers: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) =
        numbers.map(|x| (x, x)).reduce(|(low, high), (x, _)| (low.min(x), high.max(x)))?;
    Some((low / 1.5, high * 1.5))
}

/// Where a logarithmic axis has labels: at 1, 2 and 5 of each power of ten, or at the powers alone
/// when these are many.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let steps: &[f64] = if high / low > 5000.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let mut ticks = Vec::new();
    let mut power = 10f64.powf(low.log10().floor());
    while power <= high {
        ticks.extend(steps.iter().map(|step| step * power));
        power *= 10.0;
    }
    ticks.retain(|tick| (low..=high).contains(tick));
    ticks
}

/// A label of an axis.
fn label(x: f64) -> String {
    let text = digits(x);
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

fn draw(axes: &Axes, curves: &[Curve], line: Option<f64>) -> Drawn<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let all = || curves.iter().flat_map(|curve| curve.points.iter());
        match range(all().map(|(x, _)| *x)).zip(range(all().map(|(_, y)| *y).chain(line))) {
            Some((x, y)) if !curves.is_empty() => {
                let (left, right) = area.split_horizontally(CHART_WIDTH);
                chart(&left, axes, curves, (x, y), line)?;
                legend(&right, curves)?;
            }
            _ => {
                let style = ("sans-serif", 20).into_font().color(&BLACK);
                let text = "no comparable figures: see the tables for the reasons";
                area.draw(&Text::new(text, (180, 210), style))?;
            }
        }
        area.present()?;
    }
    Ok(svg)
}

type Ranges = ((f64, f64), (f64, f64));

fn chart(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    axes: &Axes,
    curves: &[Curve],
    (x, y): Ranges,
    line: Option<f64>,
) -> Drawn<()> {
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .x_label_area_size(46)
        .y_label_area_size(78)
        .build_cartesian_2d(
        (x.0..x.1).log_scale().with_key_points(ticks(x)),
        (y.0..y.1).log_scale().with_key_points(ticks(y)),
    )?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_labels(LABELS_MAX)
        .y_labels(LABELS_MAX)
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_label_formatter(&|x| label(*x))
        .y_label_formatter(&|y| label(*y))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 16))
        .draw()?;
    if let Some(height) = line {
        let grey = RGBColor(150, 150, 150);
        let ends = [(x.0, height), (x.1, height)];
        chart.draw_series(DashedLineSeries::new(ends, 3, 4, grey.into()))?;
    }
    // The first have the largest dots: they show behind others that lie on them.
    let radii: Vec<i32> = (3..).take(curves.len()).collect();
    for (Curve { colour, stroke, points, .. }, radius) in curves.iter().zip(radii.iter().rev()) {
        let style = colour.stroke_width(2);
        let points = || points.iter().copied();
        match stroke {
            Stroke::Solid => chart.draw_series(LineSeries::new(points(), style))?,
            Stroke::Dashed => chart.draw_series(DashedLineSeries::new(points(), 7, 5, style))?,
        };
        chart.draw_series(points().map(|point| Circle::new(point, *radius, colour.filled())))?;
    }
    Ok(())
}

/// Beside the chart, where it hides no curve.
fn legend(area: &DrawingArea<SVGBackend<'_>, Shift>, curves: &[Curve]) -> Drawn<()> {
    for (y, Curve { name, colour, stroke, .. }) in (30..).step_by(22).zip(curves) {
        let dashes: &[(i32, i32)] = match stroke {
            Stroke::Solid => &[(4, 28)],
            Stroke::Dashed => &[(4, 11), (16, 28)],
        };
        for (from, to) in dashes {
            let style = colour.stroke_width(2);
            area.draw(&PathElement::new([(*from, y), (*to, y)], style))?;
        }
        let style = ("sans-serif", 14).into_font().color(&BLACK);
        area.draw(&Text::new(name.as_str(), (36, y - 6), style))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_labels_however_narrow_or_wide_it_is() {
        assert_eq!(ticks((1066.0, 9600.0)), [2000.0, 5000.0]);
        assert_eq!(ticks((0.9, 60.0)), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(ticks((8.0, 300_000.0)), [10.0, 100.0, 1000.0, 10_000.0, 100_000.0]);
        assert_eq!([label(0.5), label(10.0), label(2000.0)], ["0.5", "10", "2\u{202f}000"]);
    }

    #[test]
    fn curves_have_the_colour_of_their_subject_even_when_others_have_no_figures() {
        let runs = [crate::compare::fixture::run(
            "b",
            1,
            crate::compare::fixture::echo(1000.0, 0.0, 0.2),
            0.1,
            0.1,
        )];
        let subjects = ["a".to_owned(), "b".to_owned()];
        let curves = latency_curves(&Summary::of(&runs), &subjects);
        let of = |curve: &Curve| (curve.name.clone(), curve.colour, curve.stroke);
        let expected = [
            ("b, p50".to_owned(), COLOURS[1], Stroke::Solid),
            ("b, p99".to_owned(), COLOURS[1], Stroke::Dashed),
        ];
        assert_eq!(curves.iter().map(of).collect::<Vec<_>>(), expected);
    }
}
