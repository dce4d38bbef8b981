//! The tables of a report: what stands in which column, in words. Each table is of one load, one
//! payload and one number of flows. Renders neither Markdown nor HTML.

use std::collections::BTreeSet;

use crate::compare::record::{Direction, Figures, Load, Point, Shape};
use crate::compare::subject::{COTURN, REFLECTOR};
use crate::compare::summary::{Cell, Percentile, Summary};
use crate::compare::verdict::{Saturated, Unsound};
use crate::spread::{Spread, digits};

/// Bytes in a MiB.
pub(crate) const MEBIBYTE: f64 = 1_048_576.0;

/// A table, every cell a text.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub(crate) struct Table {
    /// What it is of.
    pub(crate) title: String,
    /// What a figure means, and when there is none.
    pub(crate) caption: String,
    /// One text for each column.
    pub(crate) header: Vec<String>,
    /// Rows of as many texts.
    pub(crate) rows: Vec<Vec<String>>,
}

/// All tables of a comparison of these subjects.
pub(crate) fn tables(summary: &Summary<'_>, subjects: &[String]) -> Vec<Table> {
    let mut tables = Vec::new();
    for way in [Direction::ToPeer, Direction::ToClient] {
        let is_this = |load| matches!(load, Load::Throughput { direction, .. } if direction == way);
        let shapes = shapes(&summary.points(is_this));
        for shape in shapes {
            tables.push(throughput(summary, subjects, way, shape));
            tables.extend(by_rate(summary, subjects, way, shape));
        }
    }
    for shape in shapes(&summary.points(is_echo)) {
        tables.extend(latency(summary, subjects, shape));
    }
    tables.extend(allocations(summary, subjects));
    tables
}

fn shapes(points: &[Point]) -> BTreeSet<Shape> {
    points.iter().map(Point::shape).collect()
}

const fn is_echo(load: Load) -> bool {
    matches!(load, Load::Latency { .. })
}

/// A cell as text.
pub(crate) fn text(cell: Cell) -> String {
    match cell {
        Cell::Figure(spread) => spread.to_string(),
        Cell::AtLeast(spread) => format!("≥ {spread}"),
        Cell::Withheld(why) => why.to_string(),
    }
}

/// One figure divided by another one, where both are of the same load and both stand.
fn ratio(cell: Cell, base: Cell) -> String {
    let divide = |a: Spread, b: Spread| digits(a.median / b.median);
    match (cell, base) {
        (Cell::Figure(a), Cell::Figure(b)) => divide(a, b),
        (Cell::AtLeast(a), Cell::Figure(b)) => format!("≥ {}", divide(a, b)),
        (Cell::Figure(a), Cell::AtLeast(b)) => format!("≤ {}", divide(a, b)),
        // Of two lower bounds nothing follows.
        (Cell::AtLeast(_), Cell::AtLeast(_)) | (Cell::Withheld(_), _) | (_, Cell::Withheld(_)) => {
            "–".to_owned()
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn throughput(summary: &Summary<'_>, subjects: &[String], way: Direction, shape: Shape) -> Table {
    let (flows, payload) = shape;
    let of = |subject: &str| summary.throughput(subject, way, shape);
    let rows = subjects.iter().map(|subject| {
        let cell = of(subject);
        let (delivered, lost, saturated) = summary.flat_out(subject, way, shape);
        vec![
            subject.clone(),
            text(cell),
            ratio(cell, of(COTURN)),
            ratio(cell, of(REFLECTOR)),
            text(delivered),
            text(lost),
            saturated_hosts(&saturated),
        ]
    });
    Table {
        title: format!("Throughput {}, {payload}-byte payloads, {flows} flows", way.name()),
        caption: "Packets a second, one way: median over the rounds (smallest–largest). The \
                  highest rate is the one with at most 0.1 % lost; ≥ where the load host or the \
                  links gave way before the relay did. Ratios are of the highest rates. Flat out \
                  is an overload: what arrives then is not a rate to plan with, and each subject \
                  was offered what the generator could make beside it."
            .to_owned(),
        header: words(&[
            "subject",
            "highest rate, ≤ 0.1 % lost",
            "÷ coturn",
            "÷ reflector",
            "flat out: arrives",
            "flat out: lost %",
            "flat out: saturated",
        ]),
        rows: rows.collect(),
    }
}

/// What the rounds say of the hosts: one word if they agree.
fn saturated_hosts(hosts: &[Saturated]) -> String {
    let mut words: Vec<_> = hosts.iter().map(Saturated::to_string).collect();
    words.dedup();
    if words.is_empty() { "–".to_owned() } else { words.join(", then ") }
}

/// Loss and processor time by rate.
fn by_rate(summary: &Summary<'_>, subjects: &[String], way: Direction, shape: Shape) -> Vec<Table> {
    let (flows, payload) = shape;
    let is_paced =
        |load| matches!(load, Load::Throughput { direction, rate: Some(_) } if direction == way);
    let mut points = summary.shared_points(is_paced);
    points.retain(|point| point.shape() == shape);
    let of_what = format!("{}, {payload}-byte payloads, {flows} flows", way.name());
    let loss = matrix(
        format!("Loss by offered rate, {of_what}"),
        "Percent of the sent packets that did not arrive. Rates that only one subject was \
         offered are in the JSON document.",
        &points,
        subjects,
        |subject, point| summary.loss(subject, point),
    );
    let mut tables: Vec<_> = loss.into_iter().collect();
    tables.extend(process(summary, subjects, &of_what, &points));
    tables
}

/// For round trips.
fn machine(
    summary: &Summary<'_>,
    subjects: &[String],
    of_what: &str,
    points: &[Point],
) -> Option<Table> {
    matrix(
        format!("Processor time for each relayed packet, {of_what}"),
        "Nanoseconds of all cores, from /proc/stat, divided by two packets for each round trip. \
         Clients and peers are in it and the same for every subject: the differences are the \
         relays'. Only where the load was carried.",
        points,
        subjects,
        |subject, point| summary.machine_ns(subject, point),
    )
}

fn process(
    summary: &Summary<'_>,
    subjects: &[String],
    of_what: &str,
    points: &[Point],
) -> Option<Table> {
    matrix(
        format!("The server's process for each relayed packet, {of_what}"),
        "Nanoseconds by the process's own account (utime + stime). What the kernel does for it \
         outside of its system calls is not in it, and that is all of what XDP does.",
        points,
        subjects,
        |subject, point| summary.process_ns(subject, point),
    )
}

fn latency(summary: &Summary<'_>, subjects: &[String], shape: Shape) -> Vec<Table> {
    let (flows, payload) = shape;
    let mut points = summary.shared_points(is_echo);
    points.retain(|point| point.shape() == shape);
    let of_what = format!("{payload}-byte payloads, {flows} flows, there and back");
    let percentiles = [Percentile::P50, Percentile::P99, Percentile::P99_9].map(|percentile| {
        matrix(
            format!("Round trip, {}, {of_what}", percentile.name()),
            "Milliseconds from when a packet was due; the rate is one way, the relay carries \
             twice as many. Only where at most 0.1 % was lost and the load host was not at its \
             limit.",
            &points,
            subjects,
            |subject, point| summary.latency(subject, point, percentile),
        )
    });
    let mut tables: Vec<_> = percentiles.into_iter().flatten().collect();
    tables.extend(machine(summary, subjects, &of_what, &points));
    tables.extend(process(summary, subjects, &of_what, &points));
    tables
}

/// A row for each point, a column for each subject; `None` without points or figures.
fn matrix(
    title: String,
    caption: &str,
    points: &[Point],
    subjects: &[String],
    cell: impl Fn(&str, Point) -> Cell,
) -> Option<Table> {
    // The bare rig has a column only where it was measured.
    let is_seen = |subject: &&String| {
        points.iter().any(|p| cell(subject, *p) != Cell::Withheld(Unsound::NotMeasured))
    };
    let columns: Vec<_> = subjects.iter().filter(is_seen).collect();
    let rows: Vec<_> = points
        .iter()
        .map(|point| {
            let cells = columns.iter().map(|subject| text(cell(subject, *point)));
            [rate(*point)].into_iter().chain(cells).collect()
        })
        .collect();
    let header = ["rate, packets/s".to_owned()].into_iter().chain(columns.iter().copied().cloned());
    let (header, caption) = (header.collect(), caption.to_owned());
    let compares = !rows.is_empty() && !columns.is_empty();
    compares.then_some(Table { title, caption, header, rows })
}

fn rate(point: Point) -> String {
    match point.load {
        Load::Throughput { rate: Some(rate), .. } | Load::Latency { rate } => {
            digits(f64::from(rate))
        }
        Load::Throughput { rate: None, .. } => "flat out".to_owned(),
        Load::Allocations { count } => digits(f64::from(count)),
    }
}

/// One table for each number of allocations.
fn allocations(summary: &Summary<'_>, subjects: &[String]) -> Vec<Table> {
    let points = summary.points(|load| matches!(load, Load::Allocations { .. }));
    let table = |point: &Point| {
        let servers = subjects.iter().filter(|subject| subject.as_str() != REFLECTOR);
        let rows = servers.map(|subject| {
            [subject.clone()].into_iter().chain(allocation_row(summary, subject, *point)).collect()
        });
        Table {
            title: format!("{} allocations, each with a permission and a channel", rate(*point)),
            caption: "Of a server that was started for this. Memory each is its growth until all \
                      of them stand, divided by them; maps that are made whole at start do not \
                      grow. The kernel's memory for sockets is in no column. Processor time is \
                      the process's own account. A client's first Allocate takes two round trips, \
                      the 401 included."
                .to_owned(),
            header: words(&[
                "subject",
                "Allocates/s",
                "Allocate p99, ms",
                "process, µs each",
                "RSS, bytes each",
                "kernel maps, bytes each",
                "RSS, MiB in all",
                "kernel maps, MiB in all",
            ]),
            rows: rows.collect(),
        }
    };
    points.iter().map(table).collect()
}

fn allocation_row(summary: &Summary<'_>, subject: &str, point: Point) -> Vec<String> {
    let of_allocates = |pick: fn(&Figures) -> Option<f64>| summary.allocate(subject, point, pick);
    let of_standing = |pick: fn(&Figures) -> Option<f64>| summary.standing(subject, point, pick);
    let cells = [
        of_allocates(|figures| match figures {
            Figures::Allocations { allocates_per_second, .. } => Some(*allocates_per_second),
            Figures::Throughput { .. } | Figures::Latency { .. } => None,
        }),
        of_allocates(|figures| match figures {
            Figures::Allocations { allocate_p99_ms, .. } => *allocate_p99_ms,
            Figures::Throughput { .. } | Figures::Latency { .. } => None,
        }),
        of_allocates(|figures| match figures {
            Figures::Allocations { allocate_cpu_secs, .. } => {
                allocate_cpu_secs.map(|secs| secs * 1e6)
            }
            Figures::Throughput { .. } | Figures::Latency { .. } => None,
        }),
        of_standing(|figures| match figures {
            Figures::Allocations { rss_bytes_each, .. } => *rss_bytes_each,
            Figures::Throughput { .. } | Figures::Latency { .. } => None,
        }),
        of_standing(|figures| match figures {
            Figures::Allocations { map_bytes_each, .. } => *map_bytes_each,
            Figures::Throughput { .. } | Figures::Latency { .. } => None,
        }),
        of_standing(|figures| match figures {
            Figures::Allocations { rss_bytes, .. } => rss_bytes.map(|bytes| bytes / MEBIBYTE),
            Figures::Throughput { .. } | Figures::Latency { .. } => None,
        }),
        of_standing(|figures| match figures {
            Figures::Allocations { map_bytes, .. } => map_bytes.map(|bytes| bytes / MEBIBYTE),
            Figures::Throughput { .. } | Figures::Latency { .. } => None,
        }),
    ];
    cells.map(text).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture::{echo, flood, run};

    fn spread(x: f64) -> Spread {
        Spread { median: x, min: x, max: x, rounds: 1 }
    }

    #[test]
    fn a_ratio_says_no_more_than_is_known() {
        let (figure, at_least) = (Cell::Figure, Cell::AtLeast);
        let (four, two) = (spread(4.0), spread(2.0));
        assert_eq!(ratio(figure(four), figure(two)), "2.00");
        assert_eq!(ratio(at_least(four), figure(two)), "≥ 2.00");
        assert_eq!(ratio(figure(four), at_least(two)), "≤ 2.00");
        assert_eq!(ratio(at_least(four), at_least(two)), "–");
        assert_eq!(ratio(figure(four), Cell::Withheld(Unsound::Failed)), "–");
    }

    #[test]
    fn a_saturated_subject_has_words_instead_of_a_latency() {
        let runs = [
            run("a", 1, echo(1000.0, 0.0, 0.2), 0.5, 0.5),
            run("b", 1, echo(1000.0, 7.0, 0.1), 1.0, 0.5),
        ];
        let subjects = ["a".to_owned(), "b".to_owned()];
        let tables = tables(&Summary::of(&runs), &subjects);
        let p99 = tables.iter().find(|table| table.title.contains("p99,")).unwrap();
        assert_eq!(p99.header, ["rate, packets/s", "a", "b"]);
        assert_eq!(p99.rows, [["1\u{202f}000", "0.400", "saturated (7.0 % lost)"]]);
    }

    #[test]
    fn one_way_and_round_trips_never_share_a_table() {
        let mut wide = run("b", 1, flood(1000.0, 0.0, false), 0.5, 0.5);
        wide.point.payload_bytes = 1200;
        let runs = [
            run("a", 1, flood(1000.0, 0.0, false), 0.5, 0.5),
            wide,
            run("a", 1, echo(1000.0, 0.0, 0.2), 0.5, 0.5),
            run("b", 1, echo(1000.0, 0.0, 0.2), 0.5, 0.5),
        ];
        let subjects = ["a".to_owned(), "b".to_owned()];
        let tables = tables(&Summary::of(&runs), &subjects);
        let titles = |words: [&str; 2]| {
            let fits = |table: &&Table| words.iter().all(|word| table.title.contains(word));
            tables.iter().filter(fits).count()
        };
        assert_eq!(titles(["Throughput", " 200-byte"]), 1);
        assert_eq!(titles(["Throughput", " 1200-byte"]), 1);
        assert_eq!(titles(["Round trip", "there and back"]), 3);
    }
}
