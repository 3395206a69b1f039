//! Pictures of figures: bars, and curves over memory.

use std::path::Path;

use anyhow::Result;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

const WIDTH: u32 = 960;
const ROW: i32 = 26;
const HEAD: i32 = 46;
/// Where bars begin, and how long the longest may be.
const LEFT: i32 = 350;
const LONGEST: f64 = 500.0;
const OURS: RGBColor = RGBColor(0x2b, 0x6c, 0xb0);
const OTHERS: RGBColor = RGBColor(0x97, 0x5a, 0x16);
/// Height of a picture of curves, and room for what is written at its edges.
const CURVES: u32 = 480;
const EDGE: u32 = 64;

/// Bars on one scale.
pub struct Bars {
    /// What their length means.
    pub title: String,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// One bar.
pub struct Row {
    /// What is written beside it.
    pub label: String,
    /// Its length.
    pub middle: f64,
    /// The quartiles, the smaller first: a thin line.
    pub spread: [f64; 2],
    /// Which of two colours it has.
    pub ours: bool,
}

/// Draws panels of bars, one below the other.
pub fn bars(heading: &str, panels: &[Bars], path: &Path) -> Result<()> {
    let rows: usize = panels.iter().map(|panel| panel.rows.len()).sum();
    let height = HEAD * (panels.len() as i32 + 1) + ROW * rows as i32;
    let area = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let style = |size: i32, anchor| {
        let font = ("sans-serif", size).into_font().color(&BLACK);
        font.pos(Pos::new(anchor, VPos::Center))
    };
    let mut y = HEAD / 2;
    area.draw_text(heading, &style(14, HPos::Left), (10, y))?;
    for Bars { title, rows } in panels {
        y += HEAD;
        let title = format!("{title}, median; the line spans the quartiles");
        area.draw_text(&title, &style(15, HPos::Left), (10, y - ROW / 2))?;
        let longest = rows
            .iter()
            .map(|row| row.spread[1])
            .fold(f64::MIN_POSITIVE, f64::max);
        let x = |length: f64| LEFT + (length.max(0.0) / longest * LONGEST) as i32;
        for row in rows {
            let middle = y + ROW / 2;
            area.draw_text(&row.label, &style(13, HPos::Right), (LEFT - 8, middle))?;
            let bar = [(LEFT, y + 4), (x(row.middle), y + ROW - 4)];
            let colour = if row.ours { OURS } else { OTHERS };
            area.draw(&Rectangle::new(bar, colour.filled()))?;
            let spread = row.spread.map(|end| (x(end), middle));
            area.draw(&PathElement::new(spread, BLACK.stroke_width(2)))?;
            let end = x(row.middle.max(row.spread[1])) + 8;
            let digits = match row.middle {
                0.0..10.0 => 2,
                10.0..100.0 => 1,
                _ => 0,
            };
            let number = format!("{:.digits$}", row.middle);
            area.draw_text(&number, &style(13, HPos::Left), (end, middle))?;
            y += ROW;
        }
    }
    area.present()?;
    Ok(())
}

/// A curve and its name.
pub struct Curve {
    /// What it is of.
    pub label: String,
    /// Memory in MiB, time in seconds.
    pub points: Vec<(f64, f64)>,
}

/// Draws seconds over memory, both in powers: a straight line rises with its power.
pub fn curves(heading: &str, curves: &[Curve], path: &Path) -> Result<()> {
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let range = |pick: fn((f64, f64)) -> f64| {
        let low = points().map(pick).fold(f64::INFINITY, f64::min);
        let high = points().map(pick).fold(f64::MIN_POSITIVE, f64::max);
        (low / 1.3..high * 1.3).log_scale()
    };
    let area = SVGBackend::new(path, (WIDTH, CURVES)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(heading, ("sans-serif", 14))
        .margin(12)
        .x_label_area_size(EDGE / 2)
        .y_label_area_size(EDGE)
        .build_cartesian_2d(range(|(x, _)| x), range(|(_, y)| y))?;
    chart
        .configure_mesh()
        .x_labels(6)
        .x_desc("memory, MiB")
        .y_desc("seconds")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y}"))
        .draw()?;
    for (number, curve) in curves.iter().enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)).point_size(4))?
            .label(&curve.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_have_names_and_axes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curves.svg");
        let curve = Curve {
            label: "of something".to_owned(),
            points: vec![(256.0, 0.5), (512.0, 1.0)],
        };
        curves("heading", &[curve], &path).unwrap();
        let picture = std::fs::read_to_string(path).unwrap();
        for text in ["heading", "of something", "memory, MiB", "seconds"] {
            assert!(picture.contains(text), "{text}");
        }
    }
}
