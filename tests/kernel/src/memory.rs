//! The domain's pages. PFN n is at `VIRT_BASE + 4096 n`: the builder maps the first 4 MiB so, this kernel the rest.

use core::arch::x86_64::_rdtsc;

use vmcrypt_kernel::{NEEDLE_AT, WORDS, filler, needle, splitmix};

use crate::entry::VIRT_BASE;
use crate::xen::{self, StartInfo};

/// What the builder maps at least, and then up to the next multiple: see `link.x` for how little this kernel needs.
const BUILT: u64 = (4 << 20) / 4096;
/// Present, writable, accessed, dirty.
const WRITABLE: u64 = 0x63;
const READ_ONLY: u64 = 0x61;
/// The same, and for user mode, as Xen wants entries that lead to tables.
const TABLE: u64 = 0x67;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

pub struct Memory {
    info: *mut StartInfo,
    pages: u64,
    /// The first page that nobody uses; those before it are never filled.
    free: u64,
}

impl Memory {
    pub fn new(info: *mut StartInfo) -> Memory {
        // SAFETY: the builder put it there, and nobody writes it while this domain runs.
        let (pages, tables_end) = unsafe { ((*info).pages, (*info).pt_base + 4096 * (*info).pt_frames) };
        // After the initial page tables comes the stack of the first instructions alone.
        Memory {
            info,
            pages,
            free: pfn(tables_end) + 1,
        }
    }

    pub fn info(&self) -> &StartInfo {
        // SAFETY: as in `new()`; this kernel holds no reference while it changes a field.
        unsafe { &*self.info }
    }

    pub fn info_mfn(&self) -> u64 {
        self.mfn(pfn(self.info as u64))
    }

    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The frame behind a PFN; others fill the table anew while the domain sleeps.
    pub fn mfn(&self, pfn: u64) -> u64 {
        // SAFETY: the builder made the table long enough for all pages.
        unsafe {
            (self.info().mfn_list as *const u64)
                .add(pfn as usize)
                .read_volatile()
        }
    }

    /// The root of the page tables, as a frame.
    pub fn root(&self) -> u64 {
        self.mfn(pfn(self.info().pt_base))
    }

    /// A page of zeros that is nobody else's, and its PFN.
    pub fn page(&mut self) -> (u64, &'static mut [u64; WORDS]) {
        let pfn = self.free;
        assert!(pfn < BUILT, "this kernel is to remain small");
        self.free += 1;
        // SAFETY: mapped, and given out once.
        let page = unsafe { &mut *(address(pfn) as *mut [u64; WORDS]) };
        page.fill(0);
        (pfn, page)
    }

    /// Takes away the right to write a page, as Xen demands of tables.
    pub fn protect(&self, pfn: u64) {
        assert!(map(address(pfn), self.mfn(pfn) << 12 | READ_ONLY));
    }

    /// Maps what the builder left unmapped, with page tables of our own.
    pub fn map_all(&mut self) {
        let mut first = BUILT;
        while first < self.pages {
            let (table, entries) = self.page();
            for (pfn, entry) in (first..self.pages).zip(entries.iter_mut()) {
                *entry = self.mfn(pfn) << 12 | WRITABLE;
            }
            self.protect(table);
            let (l2, place) = self.l2_entry(address(first));
            let update = [(l2 << 12) | (8 * place), self.mfn(table) << 12 | TABLE];
            // SAFETY: the entry was empty, and the table maps pages that nothing else uses.
            let result =
                unsafe { xen::call(xen::MMU_UPDATE, [update.as_ptr() as u64, 1, 0, xen::DOMID_SELF]) };
            assert!(result == 0);
            first += WORDS as u64;
        }
    }

    /// The frame of the L2 table for an address, and the place in it.
    fn l2_entry(&self, at: u64) -> (u64, u64) {
        let mut mfn = self.root();
        for shift in [39, 30] {
            // SAFETY: the initial page tables are mapped where all pages are.
            let table = unsafe { &*(address(pfn_of_frame(mfn)) as *const [u64; WORDS]) };
            mfn = (table[(at >> shift) as usize % WORDS] & FRAME) >> 12;
        }
        (mfn, (at >> 21) % WORDS as u64)
    }

    fn private(&self) -> impl Iterator<Item = u64> + use<> {
        self.free..self.pages
    }

    /// Writes pattern and needle to every free page. No more pages can be taken then.
    pub fn fill(&mut self, key: u64) {
        for pfn in self.private() {
            for word in 0..WORDS {
                // SAFETY: free pages are mapped writable, and nobody else's.
                unsafe {
                    (address(pfn) as *mut u64)
                        .add(word)
                        .write_volatile(expected(key, pfn, word))
                };
            }
        }
    }

    /// Compares every free page with what it must hold; a hash of it all.
    pub fn check(&self, key: u64) -> Result<u64, ()> {
        let (mut hash, mut differs) = (0u64, 0);
        for pfn in self.private() {
            for word in 0..WORDS {
                // SAFETY: as in `fill()`.
                let found = unsafe { (address(pfn) as *const u64).add(word).read_volatile() };
                differs |= found ^ expected(key, pfn, word);
                hash = (hash.rotate_left(5) ^ found).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
        }
        if differs == 0 { Ok(hash) } else { Err(()) }
    }

    /// Whether P2M and M2P say the same.
    pub fn p2m_agrees(&self) -> bool {
        (0..self.pages).all(|pfn| pfn_of_frame(self.mfn(pfn)) == pfn)
    }

    /// Whether page tables do what they are told: a page is unmapped, and another one shows in its place.
    pub fn remap_works(&self) -> bool {
        let (a, b) = (self.pages - 1, self.free);
        // SAFETY: both are mapped, and remain so.
        let read = |pfn| unsafe { (address(pfn) as *const u64).read_volatile() };
        let wanted = read(b);
        map(address(a), self.mfn(b) << 12 | READ_ONLY)
            && read(a) == wanted
            && map(address(a), self.mfn(a) << 12 | WRITABLE)
            && read(a) != wanted
    }

    /// Writes a number into an entry of a table of each level, where software may keep one, and behind start_info: so
    /// that a page of an earlier session differs from the one of this.
    pub fn mark(&mut self, number: u64) {
        const BITS: u64 = 7 << 9;
        // The last page: nobody uses its address but `remap_works()`.
        let at = address(self.pages - 1);
        let mut mfn = self.root();
        for shift in [39, 30, 21, 12] {
            let place = (at >> shift) % WORDS as u64;
            // SAFETY: tables are mapped where all pages are.
            let entry = unsafe {
                (address(pfn_of_frame(mfn)) as *const u64)
                    .add(place as usize)
                    .read_volatile()
            };
            let marked = entry & !BITS | number << 9 & BITS;
            let update = [(mfn << 12) | (8 * place), marked];
            // SAFETY: bits that mean nothing to the CPU.
            let result =
                unsafe { xen::call(xen::MMU_UPDATE, [update.as_ptr() as u64, 1, 0, xen::DOMID_SELF]) };
            assert!(result == 0);
            mfn = (entry & FRAME) >> 12;
        }
        // SAFETY: start_info takes the first half of its page.
        unsafe { (self.info as *mut u64).add(WORDS - 1).write_volatile(number) };
    }

    /// Writes the rings into start_info as libxc wants them in an image.
    pub fn rings_as_pfns(&mut self) {
        // SAFETY: no reference is held, and dom0 only reads it.
        let info = unsafe { &mut *self.info };
        info.store_mfn = pfn_of_frame(info.store_mfn);
        info.console_mfn = pfn_of_frame(info.console_mfn);
    }

    /// The other way round, if nobody else did it.
    pub fn rings_as_mfns(&mut self) {
        let (store, console) = (self.mfn(self.info().store_mfn), self.mfn(self.info().console_mfn));
        // SAFETY: as above.
        let info = unsafe { &mut *self.info };
        info.store_mfn = store;
        info.console_mfn = console;
    }
}

/// Makes an entry of the page tables; false if Xen refuses.
pub fn map(at: u64, entry: u64) -> bool {
    // SAFETY: callers replace an entry of theirs; Xen lets nothing else through.
    unsafe { xen::call(xen::UPDATE_VA_MAPPING, [at, entry, xen::INVLPG_ALL, 0]) == 0 }
}

/// Where a page is mapped.
pub fn address(pfn: u64) -> u64 {
    VIRT_BASE + 4096 * pfn
}

/// Which page is mapped there.
pub fn pfn(address: u64) -> u64 {
    (address - VIRT_BASE) / 4096
}

/// The page that lies in a frame, as Xen knows it.
pub fn pfn_of_frame(mfn: u64) -> u64 {
    // SAFETY: Xen shows the whole table to every guest; frames come from Xen.
    unsafe { xen::M2P.add(mfn as usize).read_volatile() }
}

/// A key that no other guest has: good enough to tell two apart.
pub fn random() -> u64 {
    // SAFETY: Xen lets guests read the counter, or emulates it.
    splitmix(unsafe { _rdtsc() })
}

fn expected(key: u64, pfn: u64, word: usize) -> u64 {
    match word.checked_sub(NEEDLE_AT) {
        Some(place @ 0..3) => needle()[place],
        _ => filler(key, pfn, word),
    }
}
