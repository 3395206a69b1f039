//! The page tables that a PV guest starts with: `count_pgtables()` and `setup_pgtables_pv()` of `xg_dom_x86.c`.

use super::Error;

/// Part of a mapping in one level of page tables, or the mapped pages themselves.
#[derive(Clone, Copy, Default)]
struct Level {
    from: u64,
    /// The last address, not the one behind it.
    to: u64,
    /// PFN of the first table, or page.
    pfn: u64,
    tables: u64,
}

/// A range of virtual addresses.
#[derive(Clone, Copy, Default)]
struct Mapping {
    area: Level,
    levels: [Level; LEVELS],
}

/// All mappings of a guest. At most two: kernel, and P2M.
#[derive(Default)]
pub struct Mappings {
    all: Vec<Mapping>,
}

const LEVELS: usize = 4;
const ADDRESS: u64 = (1 << 48) - 1;

impl Mappings {
    /// Works out how many tables a mapping of `from` to `to` would need, the tables beginning at `first`.
    fn plan(&self, from: u64, to: u64, pages: u64, pfn: u64, first: u64) -> Result<Mapping, Error> {
        let end = pfn + ((to - from) >> 12);
        if end >= pages {
            return Err(Error::Build(format!(
                "the guest's memory is too small: its first mapping alone takes {} MiB",
                end >> 8
            )));
        }
        if self
            .all
            .iter()
            .any(|other| from < other.area.to && to > other.area.from)
        {
            return Err(Error::Build(
                "the kernel wants its P2M where it lies itself".into(),
            ));
        }
        let mut new = Mapping::default();
        new.area.from = from & ADDRESS;
        new.area.to = to & ADDRESS;
        for level in (0..LEVELS).rev() {
            new.levels[level].pfn = first + new.area.tables;
            if level == LEVELS - 1 {
                // One for all mappings.
                if self.all.is_empty() {
                    new.levels[level] = Level {
                        from: 0,
                        to: ADDRESS,
                        tables: 1,
                        ..new.levels[level]
                    };
                    new.area.tables += 1;
                }
                continue;
            }
            let bits = 12 + (level as u32 + 1) * 9;
            let mask = (1 << bits) - 1;
            let part = &mut new.levels[level];
            part.from = new.area.from & !mask;
            part.to = new.area.to | mask;
            for other in self.all.iter().map(|other| other.levels[level]) {
                if other.from == other.to {
                    continue;
                }
                if part.from >= other.from && part.to <= other.to {
                    (part.from, part.to) = (0, 0);
                    break;
                }
                if part.from >= other.from && part.from <= other.to {
                    part.from = other.to + 1;
                }
                if part.to >= other.from && part.to <= other.to {
                    part.to = other.from - 1;
                }
            }
            if part.from < part.to {
                part.tables = ((part.to - part.from) >> bits) + 1;
            }
            new.area.tables += part.tables;
        }
        Ok(new)
    }

    /// Maps the guest's memory from PFN 0 on to `base`, up to at least 512 KiB behind `end`, where the tables will
    /// begin at PFN `first`: `alloc_pgtables_pv()`. Number of tables, and the end of the mapping.
    pub fn map_start(&mut self, base: u64, end: u64, pages: u64, first: u64) -> Result<(u64, u64), Error> {
        // Padding, and the boot stack.
        const EXTRA: u64 = (512 << 10 >> 12) + 1;
        let mut wanted = EXTRA;
        loop {
            let last = beyond(end, wanted)? | ((1 << 22) - 1);
            let mapping = self.plan(base, last, pages, 0, first)?;
            wanted = mapping.area.tables + EXTRA;
            if beyond(end, wanted)? - 1 <= last {
                let tables = mapping.area.tables;
                self.all.push(mapping);
                return Ok((tables, last + 1));
            }
        }
    }

    /// Maps a P2M of so many pages to an address of its own, pages and then tables from PFN `first` on:
    /// `alloc_p2m_list_x86_64()`. Number of tables.
    pub fn map_p2m(&mut self, address: u64, p2m_pages: u64, pages: u64, first: u64) -> Result<u64, Error> {
        let last = beyond(address, p2m_pages)? - 1;
        let mut mapping = self.plan(address, last, pages, first, first)?;
        mapping.area.pfn = first;
        for level in &mut mapping.levels {
            level.pfn += p2m_pages;
        }
        self.all.push(mapping);
        Ok(mapping.area.tables)
    }

    /// Fills the tables in, frames as PFNs, as they are once Xen has validated them.
    pub fn fill(&self, mut put: impl FnMut(u64, usize, u64)) {
        for level in (0..LEVELS).rev() {
            let shift = 12 + 9 * level as u32;
            for own in &self.all {
                let Level {
                    from, to, pfn: table, ..
                } = own.levels[level];
                for other in &self.all {
                    let below = if level > 0 {
                        other.levels[level - 1]
                    } else {
                        other.area
                    };
                    if (level > 0 && below.tables == 0) || below.from >= to || below.to <= from {
                        continue;
                    }
                    let start = from.max(below.from);
                    let first = (start - from) >> shift;
                    let last = (to.min(below.to) - from) >> shift;
                    let pfns = ((start - below.from) >> shift) + below.pfn..;
                    for (index, pfn) in (first..=last).zip(pfns) {
                        put(
                            table + index / 512,
                            (index % 512) as usize,
                            pfn << 12 | self.flags(level, pfn),
                        );
                    }
                }
            }
        }
    }

    /// Number of the level of a page table, from 1 on.
    pub fn level_of(&self, pfn: u64) -> Option<usize> {
        self.all.iter().find_map(|mapping| {
            let levels = mapping.levels.iter().zip(1..);
            let mut own = levels.filter(|(level, _)| (level.pfn..level.pfn + level.tables).contains(&pfn));
            own.next().map(|(_, number)| number)
        })
    }

    fn flags(&self, level: usize, pfn: u64) -> u64 {
        const PRESENT: u64 = 1;
        const WRITABLE: u64 = 1 << 1;
        const USER: u64 = 1 << 2;
        const ACCESSED: u64 = 1 << 5;
        const DIRTY: u64 = 1 << 6;
        /// Xen's mark of a kernel's page: `adjust_guest_l1e()`, `_PAGE_GUEST_KERNEL`.
        const GUEST_KERNEL: u64 = 1 << 52;
        match level {
            0 if self.level_of(pfn).is_some() => PRESENT | USER | ACCESSED | GUEST_KERNEL,
            0 => PRESENT | WRITABLE | USER | ACCESSED | GUEST_KERNEL,
            _ => PRESENT | WRITABLE | USER | ACCESSED | DIRTY,
        }
    }
}

/// The address so many pages behind another one, below the last 4 MiB that there are.
fn beyond(address: u64, pages: u64) -> Result<u64, Error> {
    let end = address
        .checked_add(pages << 12)
        .filter(|end| *end < u64::MAX << 22);
    end.ok_or_else(|| Error::Build("the kernel's mapping reaches the end of all addresses".into()))
}
