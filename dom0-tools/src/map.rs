//! Picture of a guest's memory: one dot a page.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use embedded_graphics::mono_font::{MonoTextStyle, ascii};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Baseline, Text};

/// What dom0 can learn from a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dot {
    /// No such page, or no content was sent.
    #[default]
    Absent,
    /// Looks random: ciphertext.
    Private,
    /// Page table.
    PageTable,
    /// Descriptor table, P2M, `start_info` or ring: read by the tools, not secret.
    Known,
    /// Zero bytes alone.
    Zero,
    /// Any other content in clear.
    Plain,
    /// Holds a needle.
    Needle,
}

impl Dot {
    /// Every kind, in the order of the legend.
    pub const ALL: [Self; 7] = [
        Self::Needle,
        Self::Plain,
        Self::Zero,
        Self::PageTable,
        Self::Known,
        Self::Private,
        Self::Absent,
    ];

    /// Text of the legend.
    pub const fn legend(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Private => "looks random (ciphertext)",
            Self::PageTable => "page table",
            Self::Known => "P2M, descriptors, start_info, rings",
            Self::Zero => "zero",
            Self::Plain => "other content in clear",
            Self::Needle => "contains a needle",
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Absent => 'a',
            Self::Private => 'r',
            Self::PageTable => 't',
            Self::Known => 'k',
            Self::Zero => 'z',
            Self::Plain => 'p',
            Self::Needle => 'n',
        }
    }

    const fn colour(self) -> Rgb888 {
        match self {
            Self::Absent => Rgb888::new(0x10, 0x10, 0x14),
            Self::Private => Rgb888::new(0x2f, 0x5d, 0x8c),
            Self::PageTable => Rgb888::new(0xf2, 0xb1, 0x34),
            Self::Known => Rgb888::new(0x2c, 0xb5, 0xa0),
            Self::Zero => Rgb888::new(0x4a, 0x4a, 0x50),
            Self::Plain => Rgb888::new(0xe4, 0xe0, 0xd8),
            Self::Needle => Rgb888::new(0xe8, 0x21, 0x2e),
        }
    }
}

/// One [`Dot`] for each page of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryMap(pub Vec<Dot>);

impl MemoryMap {
    /// How many pages are of this kind.
    pub fn count(&self, kind: Dot) -> usize {
        self.0.iter().filter(|&&dot| dot == kind).count()
    }

    /// Run-length code for JSON: `3t120r` is three page tables, then 120 random pages.
    pub fn to_runs(&self) -> String {
        let mut text = String::new();
        for run in self.0.chunk_by(|a, b| a == b) {
            let _ = write!(text, "{}{}", run.len(), run[0].letter());
        }
        text
    }

    /// Reads [`MemoryMap::to_runs`]; `None` if it is malformed or longer than `limit` pages.
    pub fn from_runs(text: &str, limit: usize) -> Option<Self> {
        let mut dots = Vec::new();
        for run in text.split_inclusive(|c: char| c.is_ascii_alphabetic()) {
            let (length, letter) = run.split_at_checked(run.len() - 1)?;
            let kind = Dot::ALL
                .into_iter()
                .find(|kind| letter.starts_with(kind.letter()))?;
            let length: usize = length.parse().ok()?;
            if length > limit - dots.len() {
                return None;
            }
            dots.resize(dots.len() + length, kind);
        }
        Some(Self(dots))
    }

    /// Columns of the picture: about square, but round enough for rows to mean something.
    fn columns(&self) -> usize {
        self.0.len().isqrt().next_multiple_of(64).max(64)
    }
}

/// Draws the maps side by side, each under its title, above one legend.
pub fn picture(maps: &[(&str, &MemoryMap)]) -> Picture {
    let columns = maps.iter().map(|(_, map)| map.columns()).max().unwrap_or(1);
    let rows = maps
        .iter()
        .map(|(_, map)| map.0.len().div_ceil(columns))
        .max()
        .unwrap_or(0);
    // Small guests get larger dots, so that the picture can be seen and the legend fits beneath.
    let scale = (SIDE / columns).max(1);
    let (width, height) = ((columns * scale).max(SIDE), rows * scale);

    let legend_top = MARGIN + LINE + height + MARGIN;
    let mut picture = Picture::new(
        MARGIN + maps.len().max(1) * (width + MARGIN),
        legend_top + (Dot::ALL.len() + 1) * LINE + MARGIN,
    );
    for (i, (title, map)) in maps.iter().enumerate() {
        let left = MARGIN + i * (width + MARGIN);
        picture.text(left, MARGIN, title);
        picture.rectangle(left, MARGIN + LINE, columns * scale, height, Dot::Absent.colour());
        for (n, dot) in map.0.iter().enumerate() {
            let (x, y) = (n % columns * scale, n / columns * scale);
            picture.rectangle(left + x, MARGIN + LINE + y, scale, scale, dot.colour());
        }
        for (line, kind) in Dot::ALL.into_iter().enumerate() {
            let top = legend_top + line * LINE;
            picture.rectangle(left, top + 3, SWATCH, SWATCH, kind.colour());
            picture.text(
                left + 2 * SWATCH,
                top,
                &format!("{:>9}  {}", map.count(kind), kind.legend()),
            );
        }
        let page = if scale == 1 {
            "one pixel a page"
        } else {
            "one dot a page"
        };
        picture.text(
            left,
            legend_top + Dot::ALL.len() * LINE,
            &format!("{page}, {columns} pages a row"),
        );
    }
    picture
}

/// Least width of one map: the legend has to fit.
const SIDE: usize = 512;
const MARGIN: usize = 16;
const LINE: usize = 24;
const SWATCH: usize = 14;
const PAPER: Rgb888 = Rgb888::new(0x1c, 0x1c, 0x22);
const INK: Rgb888 = Rgb888::new(0xf0, 0xf0, 0xf0);

/// An RGB picture in memory.
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Picture {
    fn new(width: usize, height: usize) -> Self {
        let rgb = [PAPER.r(), PAPER.g(), PAPER.b()].repeat(width * height);
        Self { width, height, rgb }
    }

    fn rectangle(&mut self, x: usize, y: usize, width: usize, height: usize, colour: Rgb888) {
        let area = Rectangle::new(point(x, y), Size::new(width as u32, height as u32));
        let Ok(()) = area.into_styled(PrimitiveStyle::with_fill(colour)).draw(self);
    }

    fn text(&mut self, x: usize, y: usize, text: &str) {
        let style = MonoTextStyle::new(&ascii::FONT_10X20, INK);
        let Ok(_) = Text::with_baseline(text, point(x, y), style, Baseline::Top).draw(self);
    }

    /// Width and height in pixels.
    pub const fn size_in_pixels(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Writes the picture as PNG.
    pub fn write_png(&self, file: &Path) -> io::Result<()> {
        let out = io::BufWriter::new(std::fs::File::create(file)?);
        let mut encoder = png::Encoder::new(out, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb)?;
        Ok(writer.finish()?)
    }
}

fn point(x: usize, y: usize) -> Point {
    Point::new(x as i32, y as i32)
}

impl OriginDimensions for Picture {
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl DrawTarget for Picture {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Self::Error> {
        for Pixel(Point { x, y }, colour) in pixels {
            let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
                continue;
            };
            if x < self.width && y < self.height {
                let at = 3 * (y * self.width + x);
                self.rgb[at..at + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> MemoryMap {
        MemoryMap((0..1000).map(|i| Dot::ALL[i / 7 % Dot::ALL.len()]).collect())
    }

    #[test]
    fn runs_round_trip_and_are_bounded() {
        assert_eq!(MemoryMap::from_runs(&map().to_runs(), 1000), Some(map()));
        assert_eq!(MemoryMap::from_runs(&map().to_runs(), 999), None);
        for bad in ["x", "5", "5q", "99999999999999999999r", "-1r", "é"] {
            assert_eq!(MemoryMap::from_runs(bad, 10), None, "{bad}");
        }
        assert_eq!(MemoryMap::from_runs("", 0), Some(MemoryMap::default()));
    }

    #[test]
    fn every_page_has_its_dot() {
        let picture = picture(&[("one", &map()), ("two", &MemoryMap(vec![Dot::Needle; 3]))]);
        // 1,000 pages: 64 columns, 8 pixels each.
        let at = |n: usize| {
            let (x, y) = (MARGIN + n % 64 * 8 + 4, MARGIN + LINE + n / 64 * 8 + 4);
            &picture.rgb[3 * (y * picture.width + x)..][..3]
        };
        for (n, dot) in map().0.iter().enumerate() {
            assert_eq!(
                at(n),
                [dot.colour().r(), dot.colour().g(), dot.colour().b()],
                "page {n}"
            );
        }
    }
}
