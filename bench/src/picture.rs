//! Bars: what each step costs per page.

use std::path::Path;

use anyhow::Result;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    measures::{Place, Unit},
    report::{Figure, Report},
};

const WIDTH: u32 = 960;
const ROW: i32 = 26;
const HEAD: i32 = 46;
/// Where bars begin, and how long the longest may be.
const LEFT: i32 = 350;
const LONGEST: f64 = 500.0;
/// Bars so long that they would leave nothing to see of the others; the table has them.
const TOO_LONG: [&str; 2] = ["portable", "running guest"];
const PAGES: RGBColor = RGBColor(0x2b, 0x6c, 0xb0);
const EVENTS: RGBColor = RGBColor(0x97, 0x5a, 0x16);

/// Writes the bars of pages from memory and, on a scale of their own, those of events that touch no page.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let rows = |unit| -> Vec<&Figure> {
        let short = |figure: &&Figure| !TOO_LONG.iter().any(|long| figure.name.contains(long));
        report
            .figures
            .iter()
            .filter(|figure| figure.unit == unit)
            .filter(short)
            .collect()
    };
    let panels = [
        ("Pages from memory", PAGES, rows(Unit::Page(Place::Cold))),
        ("What reads no page's content", EVENTS, rows(Unit::Event)),
    ];
    let height = panels
        .iter()
        .map(|(.., rows)| HEAD + ROW * rows.len() as i32)
        .sum::<i32>()
        + HEAD;
    let area = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let style = |size: i32, anchor| {
        ("sans-serif", size)
            .into_font()
            .color(&BLACK)
            .pos(Pos::new(anchor, VPos::Center))
    };
    let mut y = HEAD / 2;
    area.draw_text(&report.machine(), &style(14, HPos::Left), (10, y))?;
    for (title, colour, rows) in panels {
        y += HEAD;
        let title = format!("{title}: nanoseconds for each, median; the line spans the quartiles");
        area.draw_text(&title, &style(15, HPos::Left), (10, y - ROW / 2))?;
        let longest = rows.iter().map(|row| row.upper_quartile).fold(1.0, f64::max);
        let x = |time: f64| LEFT + (time.max(0.0) / longest * LONGEST) as i32;
        for row in rows {
            let middle = y + ROW / 2;
            area.draw_text(row.name, &style(13, HPos::Right), (LEFT - 8, middle))?;
            let bar = [(LEFT, y + 4), (x(row.median), y + ROW - 4)];
            area.draw(&Rectangle::new(bar, colour.filled()))?;
            let spread = [(x(row.lower_quartile), middle), (x(row.upper_quartile), middle)];
            area.draw(&PathElement::new(spread, BLACK.stroke_width(2)))?;
            let end = x(row.median.max(row.upper_quartile)) + 8;
            let digits = usize::from(row.median < 100.0);
            area.draw_text(
                &format!("{:.digits$}", row.median),
                &style(13, HPos::Left),
                (end, middle),
            )?;
            y += ROW;
        }
    }
    area.present()?;
    Ok(())
}
