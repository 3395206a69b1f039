//! The generator: from a save image, every single-step change of it.
//!
//! What there is to change comes from the image itself: each part (headers, records) and each class of page meets each
//! operation that makes sense for it. Where in a part a bit is flipped is drawn from a seed, once for each field.

use crate::fields::{Field, fields, page_fields};
use crate::layout::{PageClass, Part, pages, parts, word};
use crate::stream::{Page, Stream, kind};
use anyhow::{Context, Result};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;

/// What is done to a part or page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// One bit is inverted.
    Flip,
    /// It is left out.
    Drop,
    /// Its content changes places with that of another of its kind.
    Swap,
    /// It is there twice.
    Duplicate,
    /// It is that of an earlier session of the same domain.
    Replay,
    /// It changes places with what follows it.
    Reorder,
    /// It, or everything from it on, is that of another image.
    Splice,
    /// It ends early, or the whole image does.
    Truncate,
    /// It goes on for eight more bytes.
    Extend,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 9] = [
        Operation::Flip,
        Operation::Drop,
        Operation::Swap,
        Operation::Duplicate,
        Operation::Replay,
        Operation::Reorder,
        Operation::Splice,
        Operation::Truncate,
        Operation::Extend,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{self:?}").to_lowercase())
    }
}

/// One change of an image.
#[derive(Clone, Debug)]
pub struct Change {
    /// Kind of part or page.
    pub class: String,
    /// What is done to it.
    pub operation: Operation,
    /// Where exactly, in words.
    pub place: String,
    /// Pieces of the image, in order, and what stands there instead.
    edits: Vec<(Range<usize>, Vec<u8>)>,
}

impl Change {
    /// The changed image.
    pub fn apply(&self, original: &[u8]) -> Vec<u8> {
        let mut changed = Vec::with_capacity(original.len() + 8192);
        let mut at = 0;
        for (range, bytes) in &self.edits {
            changed.extend(&original[at..range.start]);
            changed.extend(bytes);
            at = range.end;
        }
        changed.extend(&original[at..]);
        changed
    }

    /// Whether nothing would be changed.
    fn is_none(&self, original: &[u8]) -> bool {
        self.edits
            .iter()
            .all(|(range, bytes)| original[range.clone()] == bytes[..])
    }

    /// Whether what comes of it is another image as it was saved, which is a change of none.
    fn makes(&self, original: &[u8], other: &[u8]) -> bool {
        let [(range, bytes)] = &self.edits[..] else {
            return false;
        };
        // The beginning is short, and decides quickly.
        other.ends_with(bytes)
            && range.end == original.len()
            && original[..range.start] == other[..other.len() - bytes.len()]
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.class, self.operation, self.place)
    }
}

/// Images to take from: another session of the same domain, and another domain's.
pub struct Sources<'a> {
    /// An earlier session.
    pub older: &'a Stream,
    /// The other domain, set up in the same way.
    pub other: &'a Stream,
}

/// Every change. The same seed and images of the same structure give the same list, place by place.
pub fn every_change(stream: &Stream, sources: &Sources<'_>, seed: u64) -> Result<Vec<Change>> {
    let mut generator = Generator {
        stream,
        rng: Rng::with_seed(seed),
        changes: Vec::new(),
    };
    generator.of_parts(sources)?;
    generator.of_pages(sources)?;
    let whole = 0..stream.bytes.len();
    generator.add(
        "whole image",
        Operation::Replay,
        "of the earlier session",
        vec![(whole, sources.older.bytes.clone())],
    );
    let Generator { mut changes, .. } = generator;
    let last = changes.pop();
    let others = [&sources.older.bytes, &sources.other.bytes];
    changes.retain(|change| {
        !change.is_none(&stream.bytes) && !others.iter().any(|other| change.makes(&stream.bytes, other))
    });
    changes.extend(last);
    Ok(changes)
}

/// One change of each class and operation, drawn from a seed; the others of the list are as good.
pub fn sample(changes: &[Change], seed: u64) -> Vec<usize> {
    let mut groups: BTreeMap<(&str, Operation), Vec<usize>> = BTreeMap::new();
    for (i, change) in changes.iter().enumerate() {
        groups
            .entry((&change.class, change.operation))
            .or_default()
            .push(i);
    }
    let mut rng = Rng::with_seed(seed);
    let drawn: BTreeSet<usize> = groups
        .values()
        .map(|group| group[rng.usize(..group.len())])
        .collect();
    let mut drawn: Vec<usize> = drawn.into_iter().collect();
    rng.shuffle(&mut drawn);
    drawn
}

struct Generator<'a> {
    stream: &'a Stream,
    rng: Rng,
    changes: Vec<Change>,
}

impl Generator<'_> {
    fn add(
        &mut self,
        class: impl Into<String>,
        operation: Operation,
        place: impl Into<String>,
        edits: Vec<(Range<usize>, Vec<u8>)>,
    ) {
        let (class, place) = (class.into(), place.into());
        self.changes.push(Change {
            class,
            operation,
            place,
            edits,
        });
    }

    /// Flips one bit of a field.
    fn flip(&mut self, class: &str, start: usize, field: &Field) {
        let at = start + field.at + self.rng.usize(..field.length);
        let bit = field.bit.unwrap_or_else(|| self.rng.u8(..8));
        let at = if field.bit.is_some() { start + field.at } else { at };
        let byte = self.stream.bytes[at] ^ 1 << bit;
        let place = format!("{}, byte {:#x}, bit {bit}", field.name, at - start);
        self.add(class, Operation::Flip, place, vec![(at..at + 1, vec![byte])]);
    }

    fn bytes(&self, range: &Range<usize>) -> Vec<u8> {
        self.stream.bytes[range.clone()].to_vec()
    }

    // --- Parts ---

    fn of_parts(&mut self, sources: &Sources<'_>) -> Result<()> {
        let all = parts(self.stream)?;
        let (older, other) = (parts(sources.older)?, parts(sources.other)?);
        for (i, part) in all.iter().enumerate() {
            let nth = all[..i]
                .iter()
                .filter(|before| before.class == part.class)
                .count();
            let like = |list: &[Part]| {
                list.iter()
                    .filter(|one| one.class == part.class)
                    .nth(nth)
                    .cloned()
            };
            let begin = self.changes.len();
            self.flips_of_part(part);
            let rest = self.stream.bytes.len();
            let Part {
                class, whole, body, ..
            } = part;
            let content = self.bytes(whole);
            self.add(
                class,
                Operation::Drop,
                format!("number {nth}"),
                vec![(whole.clone(), Vec::new())],
            );
            self.add(
                class,
                Operation::Duplicate,
                format!("number {nth}"),
                vec![(whole.end..whole.end, content.clone())],
            );
            if let Some(next) = all.get(i + 1) {
                let by = [self.bytes(&next.whole), content.clone()].concat();
                self.add(
                    class,
                    Operation::Reorder,
                    format!("with {}", next.class),
                    vec![(whole.start..next.whole.end, by)],
                );
            }
            if let Some(twin) = all[i + 1..].iter().find(|twin| kin(&twin.class) == kin(class)) {
                // The vCPU's number stays: what changes places is what is said of it.
                let skip = if class.starts_with("vCPU") || class == "sealed record" {
                    8
                } else {
                    0
                };
                let (a, b) = (body.start + skip..body.end, twin.body.start + skip..twin.body.end);
                if part.record && a.len() == b.len() {
                    let (first, second) = (self.bytes(&a), self.bytes(&b));
                    self.add(
                        class,
                        Operation::Swap,
                        format!("with {}", twin.class),
                        vec![(a, second), (b, first)],
                    );
                }
            }
            for (operation, source, list) in [
                (Operation::Replay, sources.older, &older),
                (Operation::Splice, sources.other, &other),
            ] {
                if let Some(like) = like(list) {
                    let by = source.bytes[like.whole.clone()].to_vec();
                    self.add(
                        class,
                        operation,
                        format!("number {nth}"),
                        vec![(whole.clone(), by)],
                    );
                    let tail = source.bytes[like.whole.start..].to_vec();
                    self.add(
                        class,
                        operation,
                        format!("number {nth} and all that follows"),
                        vec![(whole.start..rest, tail)],
                    );
                }
            }
            self.add(
                class,
                Operation::Truncate,
                "image ends before it",
                vec![(whole.start..rest, Vec::new())],
            );
            let middle = whole.start + whole.len() / 2;
            self.add(
                class,
                Operation::Truncate,
                "image ends within it",
                vec![(middle..rest, Vec::new())],
            );
            if part.record {
                if body.len() >= 8 {
                    let shorter = Stream::encode(self.word(whole.start)?, &content[8..body.len()]);
                    self.add(
                        class,
                        Operation::Truncate,
                        "eight bytes less",
                        vec![(whole.clone(), shorter)],
                    );
                }
                let longer = [&content[8..8 + body.len()], &[0; 8]].concat();
                let longer = Stream::encode(self.word(whole.start)?, &longer);
                self.add(
                    class,
                    Operation::Extend,
                    "eight bytes more",
                    vec![(whole.clone(), longer)],
                );
            } else {
                self.add(
                    class,
                    Operation::Extend,
                    "eight bytes more",
                    vec![(whole.end..whole.end, vec![0; 8])],
                );
            }
            if nth > 0 {
                let more = self.changes[begin..].iter_mut();
                more.for_each(|change| change.place += &format!(", of number {nth}"));
            }
        }
        let end = self.stream.bytes.len();
        self.add(
            "end of the image",
            Operation::Extend,
            "eight bytes more",
            vec![(end..end, vec![0; 8])],
        );
        let again = self.stream.bytes.clone();
        self.add(
            "end of the image",
            Operation::Extend,
            "the image once more",
            vec![(end..end, again)],
        );
        Ok(())
    }

    fn flips_of_part(&mut self, part: &Part) {
        if part.record {
            for (name, at, bit) in [
                ("type", 0, 0),
                ("type, optional", 3, 7),
                ("length", 4, 3),
                ("length, far too long", 7, 6),
            ] {
                self.flip(&part.class, part.whole.start, &Field::bit(name, at, bit));
            }
            let padding = part.whole.end - part.body.end;
            if padding > 0 {
                let field = Field::new("padding", part.body.end - part.whole.start, padding);
                self.flip(&part.class, part.whole.start, &field);
            }
        }
        for field in fields(&part.class, part.body.len()) {
            self.flip(&part.class, part.body.start, &field);
        }
    }

    // --- Pages ---

    fn of_pages(&mut self, sources: &Sources<'_>) -> Result<()> {
        /// Pages of each class, if there are so many.
        const EACH: usize = 2;
        let all = pages(self.stream)?;
        let find = |stream| {
            Ok::<_, anyhow::Error>(
                pages(stream)?
                    .into_iter()
                    .map(|(_, page)| (page.pfn, page))
                    .collect(),
            )
        };
        let (older, other): (HashMap<u64, Page>, HashMap<u64, Page>) =
            (find(sources.older)?, find(sources.other)?);
        let private: Vec<Page> = all
            .iter()
            .filter(|(class, _)| *class == PageClass::Private)
            .map(|(_, page)| *page)
            .collect();
        for class in PageClass::ALL {
            let of_class: Vec<Page> = all
                .iter()
                .filter(|(one, _)| *one == class)
                .map(|(_, page)| *page)
                .collect();
            let mut picked = of_class.clone();
            self.rng.shuffle(&mut picked);
            // Tables with something in them say more.
            picked.sort_by_key(|page| self.stream.content(*page).iter().all(|byte| *byte == 0));
            for (i, page) in picked.iter().take(EACH).enumerate() {
                let twin = picked
                    .get(i + 1)
                    .or(private.get(self.rng.usize(..private.len())))
                    .copied();
                self.of_page(class, *page, twin.filter(|twin| twin.pfn != page.pfn));
                for (operation, source, list) in [
                    (Operation::Replay, sources.older, &older),
                    (Operation::Splice, sources.other, &other),
                ] {
                    let Some(like) = list.get(&page.pfn) else { continue };
                    let by = source.content(*like).to_vec();
                    self.add(
                        class.name(),
                        operation,
                        format!("PFN {:#x}", page.pfn),
                        vec![(page.at..page.at + PAGE, by)],
                    );
                }
            }
        }
        Ok(())
    }

    fn of_page(&mut self, class: PageClass, page: Page, twin: Option<Page>) {
        let name = class.name();
        let pfn = format!("PFN {:#x}", page.pfn);
        let content = page.at..page.at + PAGE;
        for mut field in page_fields(class, self.stream.content(page)) {
            field.name = format!("{pfn}: {}", field.name);
            self.flip(&name, page.at, &field);
        }
        for (field, at, bit) in [
            ("its PFN", 0, 0),
            ("its PFN, beyond the end", 5, 2),
            ("its type, level", 7, 4),
            ("its type, pinned", 7, 7),
            ("reserved bits beside its PFN", 6, 6),
        ] {
            self.flip(&name, page.entry, &Field::bit(format!("{pfn}: {field}"), at, bit));
        }
        if let Some(twin) = twin {
            let (first, second) = (self.bytes(&content), self.stream.content(twin).to_vec());
            let swap = vec![(content.clone(), second), (twin.at..twin.at + PAGE, first)];
            self.add(
                &name,
                Operation::Swap,
                format!("{pfn} with PFN {:#x}", twin.pfn),
                sorted(swap),
            );
        }
        let Some(batch) = self.batch_of(page) else { return };
        let (count, entry) = (batch.start + 8, page.entry..page.entry + 8);
        let head = |count: u32, length: usize| {
            [kind::PAGE_DATA, length as u32, count]
                .map(u32::to_le_bytes)
                .concat()
        };
        let length = word(&self.stream.bytes, batch.start + 4).unwrap_or(0) as usize;
        let pages = word(&self.stream.bytes, count).unwrap_or(0);
        let header = batch.start..batch.start + 12;
        self.add(
            &name,
            Operation::Drop,
            &pfn,
            vec![
                (header.clone(), head(pages - 1, length - 8 - PAGE)),
                (entry.clone(), Vec::new()),
                (content.clone(), Vec::new()),
            ],
        );
        let twice = |range: &Range<usize>| (range.end..range.end, self.bytes(range));
        let edits = vec![
            (header.clone(), head(pages + 1, length + 8 + PAGE)),
            twice(&entry),
            twice(&content),
        ];
        self.add(&name, Operation::Duplicate, &pfn, edits);
        // With the page after it, or before it, if that is content, too.
        let neighbour = |place: usize, at: usize| {
            let all = self.stream.pages().ok()?;
            all.into_iter()
                .find(|other| other.entry == place && other.at == at)
        };
        let next = neighbour(entry.end, content.end)
            .or_else(|| neighbour(entry.start - 8, content.start.checked_sub(PAGE)?));
        if let Some(next) = next {
            let (first, second) = if next.at > page.at {
                (page, next)
            } else {
                (next, page)
            };
            let (a, b) = (first.entry..first.entry + 8, second.entry..second.entry + 8);
            let (c, d) = (first.at..first.at + PAGE, second.at..second.at + PAGE);
            let edits = vec![
                (a.start..b.end, [self.bytes(&b), self.bytes(&a)].concat()),
                (c.start..d.end, [self.bytes(&d), self.bytes(&c)].concat()),
            ];
            self.add(
                &name,
                Operation::Reorder,
                format!("{pfn} with PFN {:#x}", next.pfn),
                edits,
            );
        }
        self.add(
            &name,
            Operation::Truncate,
            format!("{pfn}, eight bytes less"),
            vec![
                (header.clone(), head(pages, length - 8)),
                (content.end - 8..content.end, Vec::new()),
            ],
        );
        self.add(
            &name,
            Operation::Extend,
            format!("{pfn}, eight bytes more"),
            vec![
                (header, head(pages, length + 8)),
                (content.end..content.end, vec![0; 8]),
            ],
        );
    }

    fn batch_of(&self, page: Page) -> Option<Range<usize>> {
        let mut batches = self.stream.of_kind(kind::PAGE_DATA);
        batches
            .find(|batch| batch.body.contains(&page.at))
            .map(|batch| batch.whole.clone())
    }

    fn word(&self, at: usize) -> Result<u32> {
        word(&self.stream.bytes, at).context("a part without a header")
    }
}

const PAGE: usize = 4096;

/// Records whose contents could stand for each other.
fn kin(class: &str) -> &str {
    match class {
        "sealed record" => "XSAVE",
        _ => class
            .strip_prefix("vCPU ")
            .and_then(|rest| rest.split_once(' '))
            .map_or(class, |(_, kind)| kind),
    }
}

fn sorted(mut edits: Vec<(Range<usize>, Vec<u8>)>) -> Vec<(Range<usize>, Vec<u8>)> {
    edits.sort_by_key(|(range, _)| range.start);
    edits
}
