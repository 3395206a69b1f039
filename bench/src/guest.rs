//! A guest as Xen sees it: drives the exported functions of `vmcrypt-ffi` in the order in which the C bodies in
//! `xen-patches/overlay/xen/arch/x86/vmcrypt` call them.

#![allow(unsafe_code, reason = "it is the C side of a C boundary")]

use std::{
    ptr::read_volatile,
    sync::atomic::{AtomicU32, Ordering, fence},
};

use anyhow::{Context, Result, bail, ensure};
use vmcrypt_core::{State, cipher::PageTag, ids::SessionId};
use vmcrypt_ffi::{
    domain::{VmcDomain, vmc_domain_size},
    door,
    host::{VMC_BACKEND_AESNI, VMC_BACKEND_AVX2, VMC_BACKEND_AVX512, VMC_BACKEND_PORTABLE, vmc_host_init},
    page::{
        VMC_FRAME_CHANGING, VMC_FRAME_ORDINARY, VMC_HELD_IDLE, VMC_HELD_NOTHING, VMC_VIEW_CIPHER,
        VMC_VIEW_SNAPSHOT, VmcTicket,
    },
    record::{VmcFacts, vmc_record_capacity},
};

use crate::{
    backend::Kind,
    model::{Frame, Mapped, Pool, Registers, SpinLock, VectorState, copy_page, resident},
};

/// Class of the pages that become plain here: page tables.
const CLASS: u32 = 2;
/// A private page, `enum page_kind` of `private.h`.
pub const PRIVATE: u64 = 0;
/// A page table of the lowest level.
pub const TABLE: u64 = 1;
/// Of a page table entry: Xen's `PADDR_MASK & PAGE_MASK`.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Saved states in a record: the domain's own and one for each vCPU.
const STATE_COUNT: u32 = 5;
/// Bytes of one state: about what a vCPU's context and the XSAVE area of a CPU with AVX2 take.
const STATE_SIZE: u32 = 6144;

/// The exported functions, none of them inlined: inside Xen each is called from C.
mod calls {
    use vmcrypt_core::{
        cipher::{Page, PageTag},
        ids::SessionId,
    };
    use vmcrypt_ffi::{domain, page, plain, record};

    use super::{VmcDomain, VmcFacts, VmcTicket};

    macro_rules! calls {
        ($($module:ident :: $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)?;)*) => {$(
            /// # Safety
            /// That of the function of the same name.
            #[inline(never)]
            pub unsafe fn $name($($arg: $type),*) $(-> $out)? {
                // SAFETY: by the caller's promise.
                unsafe { $module::$name($($arg),*) }
            }
        )*};
    }

    calls! {
        domain::vmc_domain_init(domain: *mut VmcDomain);
        domain::vmc_domain_attach(domain: *mut VmcDomain, plain: *mut u64, exported: *mut u64, fresh: *mut u64, tags: *mut u8, pfns: u64);
        domain::vmc_domain_wipe(domain: *mut VmcDomain);
        domain::vmc_domain_state(domain: *mut VmcDomain) -> u32;
        domain::vmc_domain_enter(domain: *mut VmcDomain, state: u32) -> bool;
        plain::vmc_plain_has(domain: *mut VmcDomain, pfn: u64) -> bool;
        plain::vmc_plain_gain(domain: *mut VmcDomain, pfn: u64, class: u32) -> bool;
        plain::vmc_plain_lose(domain: *mut VmcDomain, pfn: u64, class: u32);
        page::vmc_map_judge(domain: *mut VmcDomain, frame: u32, writable: bool, write_back: bool, view: *mut u32) -> u32;
        page::vmc_page_begin(domain: *mut VmcDomain, pfn: u64, pages: u64, held: u32, ticket: *mut VmcTicket, again: *mut bool) -> u32;
        page::vmc_page_encrypt_from(domain: *mut VmcDomain, ticket: *mut VmcTicket, from: *const Page, page: *mut Page);
        page::vmc_page_encrypt(domain: *mut VmcDomain, ticket: *mut VmcTicket, kind: u64, page: *mut Page);
        page::vmc_page_end(domain: *mut VmcDomain, ticket: *mut VmcTicket) -> u32;
        page::vmc_page_abandon(domain: *mut VmcDomain, ticket: *mut VmcTicket);
        page::vmc_page_unnoticed(domain: *mut VmcDomain, ticket: *mut VmcTicket);
        page::vmc_page_forget(domain: *mut VmcDomain, pfn: u64);
        page::vmc_page_restore(domain: *mut VmcDomain, session: *const SessionId, pfn: u64, kind: u64, page: *mut Page, tag: *mut PageTag);
        page::vmc_page_restored(domain: *mut VmcDomain, kind: u64, tag: *mut PageTag);
        record::vmc_record_seal(domain: *mut VmcDomain, facts: *mut VmcFacts, buffer: *mut u8, capacity: usize, size: *mut usize) -> u32;
        record::vmc_record_open(domain: *mut VmcDomain, uuid: *const [u8; 16], buffer: *mut u8, len: usize, facts: *mut VmcFacts) -> u32;
        record::vmc_record_verify(domain: *mut VmcDomain, buffer: *const u8, len: usize) -> u32;
    }
}

/// Draws a host key and chooses a backend. Open sessions keep their keys; a record is opened under the host key that
/// it was sealed under.
pub fn boot(backend: Kind) -> Result<()> {
    // SAFETY: one thread alone boots, and no call is under way.
    let verdict = unsafe { vmc_host_init(backend.number, [].as_ptr(), 0) };
    ensure!(verdict == 0, "no entropy for a host key");
    BACKEND.store(backend.number, Ordering::Relaxed);
    Ok(())
}

/// `vmcrypt_backend`.
static BACKEND: AtomicU32 = AtomicU32::new(VMC_BACKEND_PORTABLE);

impl Registers {
    /// Those that the backend in use borrows.
    pub fn borrowed() -> Self {
        match BACKEND.load(Ordering::Relaxed) {
            VMC_BACKEND_AVX512 => Self::Zmm,
            VMC_BACKEND_AVX2 if Self::LowZmm.there() => Self::LowZmm,
            VMC_BACKEND_AVX2 => Self::Ymm,
            VMC_BACKEND_AESNI => Self::Xmm,
            _ => Self::None,
        }
    }
}

/// The Rust part of `vmcrypt_host_denies()`.
#[inline(never)]
pub fn host_denies(family: u32, operation: u64) -> bool {
    door::vmc_door_denies(family, operation, 0)
}

/// What a map of one page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// A copy in clear.
    Snapshot,
    /// An encrypted copy.
    Cipher,
}

/// What belongs to a physical CPU and to dom0.
pub struct Cpu {
    /// The page that guest data is copied to, judged and encrypted in.
    pub scratch: Frame,
    /// Where the guest's vector registers are kept meanwhile.
    pub vectors: VectorState,
    /// Whether the registers are saved for each page, as Xen does it, or by the caller for many.
    pub saves: bool,
    /// Free list of the replicas.
    pub pool: Pool,
    /// The replicas' frames.
    pub replicas: Vec<Frame>,
}

impl Cpu {
    /// A CPU with that many replicas.
    pub fn new(replicas: usize) -> Self {
        Self {
            scratch: Frame([0; 4096]),
            vectors: VectorState::new(),
            saves: true,
            pool: Pool::new(replicas),
            replicas: resident(replicas, Frame([0; 4096]), Mapped::Large),
        }
    }

    fn with_vectors(&mut self, work: impl FnOnce(&mut Frame)) {
        if self.saves {
            self.vectors.enter(Registers::borrowed());
        }
        work(&mut self.scratch);
        if self.saves {
            self.vectors.leave();
        }
    }
}

/// Xen's `struct page_info`: as large, and with nothing in it but what is looked at.
#[derive(Clone)]
#[repr(C, align(32))]
struct PageInfo {
    owner: u32,
}

/// A protected domain, `struct vmcrypt_domain`.
pub struct Guest {
    lock: SpinLock,
    rust: *mut VmcDomain,
    pfns: u64,
    epoch: AtomicU32,
    mapped: AtomicU32,
    /// Xen's `machine_to_phys_mapping`; the guest's frames lie in a row.
    m2p: Vec<u64>,
    /// Xen's `frame_table`.
    frames: Vec<PageInfo>,
    /// What the Rust part reaches through pointers: its own state, three sets, the tags.
    _memory: (Vec<u128>, [Vec<u64>; 3], Vec<PageTag>),
}

// SAFETY: threads share it as CPUs share a domain in Xen: the Rust part is entered under the lock, or with a ticket
// that the thread drew itself, or exclusively. The rest is atomic or only read.
unsafe impl Sync for Guest {}

impl Drop for Guest {
    fn drop(&mut self) {
        // SAFETY: nothing is in flight and nothing follows.
        unsafe { calls::vmc_domain_wipe(self.rust) }
    }
}

impl Guest {
    /// A guest of that many pages, as dom0 begins to build it.
    pub fn new(pfns: u64) -> Self {
        let words = pfns.div_ceil(64) as usize;
        let mut state = vec![0_u128; vmc_domain_size().div_ceil(16)];
        let mut sets = [(); 3].map(|()| resident(words, 0_u64, Mapped::Small));
        let mut tags = resident(pfns as usize, PageTag::default(), Mapped::Small);
        let rust = state.as_mut_ptr().cast();
        let [plain, exported, fresh] = sets.each_mut().map(Vec::as_mut_ptr);
        // SAFETY: the buffers have the sizes asked for, stay where they are, and are dropped after the wipe.
        unsafe {
            calls::vmc_domain_init(rust);
            calls::vmc_domain_attach(rust, plain, exported, fresh, tags.as_mut_ptr().cast(), pfns);
        }
        let mut m2p = resident(pfns as usize, 0, Mapped::Large);
        m2p.iter_mut().zip(0..).for_each(|(entry, pfn)| *entry = pfn);
        Self {
            lock: SpinLock::new(),
            rust,
            pfns,
            epoch: AtomicU32::new(0),
            mapped: AtomicU32::new(0),
            m2p,
            frames: resident(pfns as usize, PageInfo { owner: 1 }, Mapped::Large),
            _memory: (state, sets, tags),
        }
    }

    #[inline(always)]
    fn locked<T>(&self, work: impl FnOnce(*mut VmcDomain) -> T) -> T {
        self.lock.locked(|| work(self.rust))
    }

    /// Moves the domain through `states`.
    pub fn enter(&self, states: &[State]) -> Result<()> {
        for state in states {
            // SAFETY: the lock is held.
            let legal = self.locked(|rust| unsafe { calls::vmc_domain_enter(rust, *state as u32) });
            ensure!(legal, "the guest cannot become {state:?}");
        }
        Ok(())
    }

    /// The Rust part of judging a map: `vmc_plain_has()` and `vmc_map_judge()` under the lock.
    #[inline(never)]
    pub fn judge(&self, pfn: u64) -> Result<View> {
        let mut view = 0;
        // SAFETY: the lock is held, `view` is valid.
        let verdict = self.locked(|rust| unsafe {
            let frame = if calls::vmc_plain_has(rust, pfn) {
                VMC_FRAME_CHANGING
            } else {
                VMC_FRAME_ORDINARY
            };
            calls::vmc_map_judge(rust, frame, false, true, &mut view)
        });
        match (verdict, view) {
            (0, VMC_VIEW_CIPHER) => Ok(View::Cipher),
            (0, VMC_VIEW_SNAPSHOT) => Ok(View::Snapshot),
            _ => bail!("a map of page {pfn} was judged {verdict}, view {view}"),
        }
    }

    /// The Rust part of `vmcrypt_denies()`: the state under the lock, then the table.
    #[inline(never)]
    pub fn denies(&self, family: u32, operation: u64) -> bool {
        // SAFETY: the lock is held.
        let state = self.locked(|rust| unsafe { calls::vmc_domain_state(rust) });
        door::vmc_door_denies(family, operation, state)
    }

    /// `get_gpfn_from_mfn()`.
    #[inline(always)]
    pub fn pfn(&self, mfn: u64) -> u64 {
        // Volatile, as Xen's is: the second look-up of a map is not the first one's result.
        self.m2p
            .get(mfn as usize)
            // SAFETY: a reference is valid.
            .map_or(u64::MAX, |pfn| unsafe { read_volatile(pfn) })
    }

    /// `vmcrypt_type_gained()`.
    #[inline(never)]
    pub fn gain(&self, mfn: u64) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let pfn = self.pfn(mfn);
        // SAFETY: the lock is held.
        self.locked(|rust| unsafe { calls::vmc_plain_gain(rust, pfn, CLASS) });
    }

    /// `vmcrypt_type_lost()`.
    #[inline(never)]
    pub fn lose(&self, mfn: u64) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let pfn = self.pfn(mfn);
        // SAFETY: the lock is held.
        self.locked(|rust| unsafe { calls::vmc_plain_lose(rust, pfn, CLASS) });
    }

    /// `map_foreign()`: the number of the replica that dom0 gets in place of `page`.
    pub fn map(&self, cpu: &mut Cpu, mfn: u64, page: &Frame) -> Result<usize> {
        let view = self.judge(self.pfn(mfn))?;
        let pfn = self.pfn(mfn);
        let replica = self.replica(cpu, mfn)?;
        let mut ticket = self.begin(pfn)?;
        match view {
            View::Snapshot => self.snapshot(page, &mut cpu.scratch)?,
            View::Cipher => self.export_private(cpu, page, &mut ticket),
        }
        copy_page(
            cpu.replicas.get_mut(replica).context("no such replica")?,
            &cpu.scratch,
        );
        if view == View::Snapshot {
            self.bind(cpu, pfn, &mut ticket);
        }
        Ok(replica)
    }

    /// `snapshot()`. That nothing changed meanwhile is certain here.
    fn snapshot(&self, page: &Frame, scratch: &mut Frame) -> Result<()> {
        let epoch = self.epoch.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        copy_page(scratch, page);
        fence(Ordering::Acquire);
        ensure!(
            self.epoch.load(Ordering::Relaxed) == epoch,
            "a page changed class"
        );
        Ok(())
    }

    /// `bind()` of `map.c`, of a page table.
    fn bind(&self, cpu: &mut Cpu, pfn: u64, ticket: &mut VmcTicket) {
        if self.normalise(&mut cpu.scratch) {
            cpu.with_vectors(|scratch| self.encrypt(ticket, TABLE, scratch));
            self.end(ticket);
        } else {
            // SAFETY: the lock is held.
            self.locked(|rust| unsafe {
                calls::vmc_page_abandon(rust, ticket);
                calls::vmc_page_forget(rust, pfn);
            });
        }
    }

    /// `normalise_table()`: frame numbers become PFNs; false if one is not a page of the guest.
    #[inline(never)]
    fn normalise(&self, table: &mut Frame) -> bool {
        table.0.as_chunks_mut().0.iter_mut().all(|bytes| {
            let entry = u64::from_le_bytes(*bytes);
            if entry & 1 == 0 {
                return true;
            }
            let mfn = (entry & FRAME) >> 12;
            let info = self.frames.get(mfn as usize);
            // SAFETY: a reference is valid.
            let owned = info.is_some_and(|info| unsafe { read_volatile(&info.owner) } == 1);
            let pfn = self.pfn(mfn);
            *bytes = (entry & !FRAME | pfn << 12).to_le_bytes();
            owned && pfn < self.pfns
        })
    }

    /// `export_begin()`; log-dirty is off.
    pub fn begin(&self, pfn: u64) -> Result<VmcTicket> {
        // SAFETY: a ticket is numbers and bytes, for which zero is a value.
        let mut ticket = unsafe { std::mem::zeroed() };
        let mut again = false;
        // SAFETY: the lock is held, the pointers are valid.
        let (verdict, stopped) = self.locked(|rust| unsafe {
            // `vmcrypt_idle()`: the replica that is being made counts as one.
            let idle = self.mapped.load(Ordering::SeqCst) <= 1
                && calls::vmc_domain_state(rust) == State::Running as u32;
            let stopped = calls::vmc_domain_state(rust) == State::Suspended as u32;
            let held = if idle { VMC_HELD_IDLE } else { VMC_HELD_NOTHING };
            let verdict = calls::vmc_page_begin(rust, pfn, self.pfns, held, &mut ticket, &mut again);
            (verdict, stopped)
        });
        ensure!(
            verdict == 0 && !again,
            "page {pfn} cannot be exported now: verdict {verdict}"
        );
        if !stopped {
            // SAFETY: the lock is held.
            self.locked(|rust| unsafe { calls::vmc_page_unnoticed(rust, &mut ticket) });
        }
        Ok(ticket)
    }

    /// `export_private()`.
    pub fn export_private(&self, cpu: &mut Cpu, page: &Frame, ticket: &mut VmcTicket) {
        cpu.with_vectors(|scratch| self.encrypt_from(ticket, page, scratch));
        self.end(ticket);
    }

    /// `vmc_page_encrypt_from()`: outside the lock.
    pub fn encrypt_from(&self, ticket: &mut VmcTicket, from: &Frame, page: &mut Frame) {
        // SAFETY: the ticket is out, the page is exclusive, a program's vector registers are its own.
        unsafe { calls::vmc_page_encrypt_from(self.rust, ticket, &from.0, &mut page.0) }
    }

    /// `vmc_page_encrypt()`: outside the lock.
    pub fn encrypt(&self, ticket: &mut VmcTicket, kind: u64, page: &mut Frame) {
        // SAFETY: the ticket is out, the page is exclusive, a program's vector registers are its own.
        unsafe { calls::vmc_page_encrypt(self.rust, ticket, kind, &mut page.0) }
    }

    /// `vmc_page_end()`.
    pub fn end(&self, ticket: &mut VmcTicket) {
        // SAFETY: the lock is held.
        let verdict = self.locked(|rust| unsafe { calls::vmc_page_end(rust, ticket) });
        assert_eq!(verdict, 0, "this host does not go down");
    }

    /// A replica for a frame, showing nothing yet.
    pub fn replica(&self, cpu: &mut Cpu, mfn: u64) -> Result<usize> {
        let replica = cpu.pool.get(mfn).context("no replica is free")?;
        self.mapped.fetch_add(1, Ordering::SeqCst);
        Ok(replica)
    }

    /// `vmcrypt_unmap_l1e()` of a replica.
    pub fn unmap(&self, cpu: &mut Cpu, replica: usize) -> Result<u64> {
        let source = cpu.pool.put(replica);
        self.mapped.fetch_sub(1, Ordering::SeqCst);
        source.context("a replica without a source")
    }

    /// `decrypt()` of `decrypt.c`.
    pub fn decrypt(&mut self, cpu: &mut Cpu, session: &SessionId, pfn: u64, page: &mut Frame) {
        cpu.with_vectors(|_| self.restore(session, pfn, PRIVATE, page));
    }

    /// `vmcrypt_measure_page()` of a restored page table: it is bound to the guest's frames anew.
    pub fn rebind(&mut self, cpu: &mut Cpu, session: &SessionId, pfn: u64, page: &Frame) -> Result<()> {
        copy_page(&mut cpu.scratch, page);
        ensure!(
            self.normalise(&mut cpu.scratch),
            "table {pfn} names a frame that is not the guest's"
        );
        cpu.with_vectors(|scratch| self.restore(session, pfn, TABLE, scratch));
        Ok(())
    }

    fn restore(&mut self, session: &SessionId, pfn: u64, kind: u64, page: &mut Frame) {
        let mut tag = PageTag::default();
        // SAFETY: a program's vector registers are its own; the page and the domain are exclusive.
        unsafe { calls::vmc_page_restore(self.rust, session, pfn, kind, &mut page.0, &mut tag) }
        // SAFETY: the lock is held.
        self.locked(|rust| unsafe { calls::vmc_page_restored(rust, kind, &mut tag) });
    }

    /// A buffer for the record, states included.
    pub fn record_buffer(&self) -> Vec<u8> {
        // SAFETY: the lock is held.
        let size = self.locked(|rust| unsafe { vmc_record_capacity(rust, STATE_COUNT, STATE_SIZE) });
        resident(size as usize, 0, Mapped::Small)
    }

    /// `vmc_record_seal()` of a guest that has `pages` pages; gives the record's size.
    pub fn seal(&self, pages: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut facts = VmcFacts {
            pages,
            pfns: self.pfns,
            states: STATE_COUNT,
            state_size: STATE_SIZE,
            ..no_facts()
        };
        let (start, len, mut size) = (buffer.as_mut_ptr(), buffer.len(), 0);
        // SAFETY: the lock is held, the pointers are valid.
        let verdict =
            self.locked(|rust| unsafe { calls::vmc_record_seal(rust, &mut facts, start, len, &mut size) });
        ensure!(verdict == 0, "the record was not sealed: verdict {verdict}");
        Ok(size)
    }

    /// `vmc_record_open()`, in place; gives the session of the pages.
    pub fn open(&self, record: &mut [u8]) -> Result<SessionId> {
        let mut facts = no_facts();
        let (start, len) = (record.as_mut_ptr(), record.len());
        // SAFETY: the lock is held, the pointers are valid.
        let verdict =
            self.locked(|rust| unsafe { calls::vmc_record_open(rust, &[0; 16], start, len, &mut facts) });
        ensure!(verdict == 0, "the record was not opened: verdict {verdict}");
        Ok(facts.session)
    }

    /// `vmc_record_verify()`: whether the restored pages are the exported ones, plain and private.
    pub fn verify(&self, record: &[u8]) -> Result<()> {
        // SAFETY: the lock is held, the record is valid.
        let verdict =
            self.locked(|rust| unsafe { calls::vmc_record_verify(rust, record.as_ptr(), record.len()) });
        ensure!(
            verdict == 0,
            "the restored pages are not the exported ones: verdict {verdict}"
        );
        Ok(())
    }
}

/// Of a guest without a name.
const fn no_facts() -> VmcFacts {
    // SAFETY: facts are numbers and bytes, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// There is one host key in a process: one test that boots at a time.
#[cfg(test)]
pub static MACHINE: std::sync::Mutex<()> = std::sync::Mutex::new(());
