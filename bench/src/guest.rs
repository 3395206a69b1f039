//! A guest as Xen sees it: drives the exported functions of `vmcrypt-ffi` in the order in which the C bodies in
//! `xen-patches/overlay/xen/arch/x86/vmcrypt` call them.

#![allow(unsafe_code, reason = "it is the C side of a C boundary")]

use std::sync::atomic::{AtomicU32, Ordering, fence};

use anyhow::{Result, bail, ensure};
use vmcrypt_core::{State, cipher::PageTag, ids::SessionId, record::STATES};
use vmcrypt_ffi::{
    domain::{VmcDomain, vmc_domain_size},
    host::vmc_host_init,
    page::{VMC_FRAME_CHANGING, VMC_FRAME_ORDINARY, VMC_VIEW_CIPHER, VMC_VIEW_SNAPSHOT, VmcTicket},
    record::{VmcFacts, vmc_record_capacity},
};

use crate::model::{Frame, Mapped, Pool, SpinLock, VectorState, clear_page, copy_page, resident};

/// Class of the pages that become plain here: page tables.
const CLASS: u32 = 2;

/// vCPUs in a record.
const VCPUS: u32 = 4;
/// Bytes of one vCPU in a record: about what its context and the XSAVE area of a CPU with AVX2 take.
const VCPU_SIZE: u32 = 6144;

/// The exported functions, none of them inlined: inside Xen each is called from C.
mod calls {
    use vmcrypt_core::{cipher::Page, ids::SessionId};
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
        domain::vmc_domain_attach(domain: *mut VmcDomain, plain: *mut u64, exported: *mut u64, tags: *mut u8, pfns: u64);
        domain::vmc_domain_wipe(domain: *mut VmcDomain);
        domain::vmc_domain_state(domain: *mut VmcDomain) -> u32;
        domain::vmc_domain_enter(domain: *mut VmcDomain, state: u32) -> bool;
        plain::vmc_plain_has(domain: *mut VmcDomain, pfn: u64) -> bool;
        plain::vmc_plain_gain(domain: *mut VmcDomain, pfn: u64, class: u32);
        plain::vmc_plain_lose(domain: *mut VmcDomain, pfn: u64, class: u32);
        page::vmc_map_judge(domain: *mut VmcDomain, frame: u32, writable: bool, write_back: bool, view: *mut u32) -> u32;
        page::vmc_page_begin(domain: *mut VmcDomain, pfn: u64, idle: bool, ticket: *mut VmcTicket, again: *mut bool) -> u32;
        page::vmc_page_encrypt(domain: *mut VmcDomain, ticket: *mut VmcTicket, page: *mut Page);
        page::vmc_page_end(domain: *mut VmcDomain, ticket: *const VmcTicket);
        page::vmc_page_restore(domain: *mut VmcDomain, session: *const SessionId, pfn: u64, page: *mut Page);
        record::vmc_record_seal(domain: *mut VmcDomain, facts: *const VmcFacts, buffer: *mut u8, capacity: usize, size: *mut usize) -> u32;
        record::vmc_record_open(domain: *mut VmcDomain, uuid: *const [u8; 16], buffer: *mut u8, len: usize, facts: *mut VmcFacts) -> u32;
        record::vmc_record_verify(domain: *mut VmcDomain, buffer: *const u8, len: usize) -> u32;
    }
}

/// Draws a host key and chooses a backend. Open sessions keep their keys; a record is opened under the host key that
/// it was sealed under.
pub fn boot(backend: u32) -> Result<()> {
    // SAFETY: the program has one thread, and no call is under way.
    let verdict = unsafe { vmc_host_init(backend) };
    ensure!(verdict == 0, "no entropy for a host key");
    Ok(())
}

/// What a map of one page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// A copy in clear.
    Snapshot,
    /// An encrypted copy.
    Cipher,
}

/// How a map clears the scratch page and holds the vector registers. As Xen does it unless a measure asks what
/// else it could cost.
#[derive(Clone, Copy)]
pub struct Ways {
    /// Clears the scratch page afterwards.
    pub clear: fn(&mut Frame),
    /// Saves and restores the vector registers for each page.
    pub vectors: bool,
}

impl Ways {
    /// As the C bodies do it.
    pub const XEN: Self = Self {
        clear: clear_page,
        vectors: true,
    };
}

/// What belongs to a physical CPU and to dom0.
pub struct Cpu {
    /// The page that guest data is copied to, judged and encrypted in.
    pub scratch: Frame,
    /// Where the guest's vector registers are kept meanwhile.
    pub vectors: VectorState,
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
            pool: Pool::new(replicas),
            replicas: resident(replicas, Frame([0; 4096]), Mapped::Large),
        }
    }
}

/// A protected domain, `struct vmcrypt_domain`.
pub struct Guest {
    rust: SpinLock<Rust>,
    /// For the two calls that C makes without the lock.
    unlocked: *mut VmcDomain,
    pfns: u64,
    epoch: AtomicU32,
    mapped: AtomicU32,
    /// Xen's `machine_to_phys_mapping`; the guest's frames lie in a row.
    m2p: Vec<u64>,
}

/// The domain's memory: the Rust part reaches the sets and the tags through pointers alone.
struct Rust {
    domain: Vec<u128>,
    plain: Vec<u64>,
    exported: Vec<u64>,
    tags: Vec<PageTag>,
}

impl Rust {
    fn pointer(&mut self) -> *mut VmcDomain {
        self.domain.as_mut_ptr().cast()
    }
}

impl Drop for Rust {
    fn drop(&mut self) {
        // SAFETY: nothing is in flight and nothing follows.
        unsafe { calls::vmc_domain_wipe(self.pointer()) }
    }
}

impl Guest {
    /// A guest of that many pages, as dom0 begins to build it.
    pub fn new(pfns: u64) -> Self {
        let words = pfns.div_ceil(64) as usize;
        let mut rust = Rust {
            domain: vec![0; vmc_domain_size().div_ceil(16)],
            plain: resident(words, 0, Mapped::Small),
            exported: resident(words, 0, Mapped::Small),
            tags: resident(pfns as usize, PageTag::default(), Mapped::Small),
        };
        let domain = rust.pointer();
        let (plain, exported) = (rust.plain.as_mut_ptr(), rust.exported.as_mut_ptr());
        let tags = rust.tags.as_mut_ptr().cast();
        // SAFETY: the buffers have the sizes asked for, stay where they are, and are dropped after the wipe.
        unsafe {
            calls::vmc_domain_init(domain);
            calls::vmc_domain_attach(domain, plain, exported, tags, pfns);
        }
        let mut m2p = resident(pfns as usize, 0, Mapped::Large);
        m2p.iter_mut().zip(0..).for_each(|(entry, pfn)| *entry = pfn);
        Self {
            rust: SpinLock::new(rust),
            unlocked: domain,
            pfns,
            epoch: AtomicU32::new(0),
            mapped: AtomicU32::new(0),
            m2p,
        }
    }

    /// Number of PFNs.
    pub const fn pfns(&self) -> u64 {
        self.pfns
    }

    /// Moves the domain through `states`.
    pub fn enter(&self, states: &[State]) -> Result<()> {
        for state in states {
            // SAFETY: the lock is held.
            let legal = unsafe { calls::vmc_domain_enter(self.rust.lock().pointer(), *state as u32) };
            ensure!(legal, "the guest cannot become {state:?}");
        }
        Ok(())
    }

    /// The Rust part of judging a map: `vmc_plain_has()` and `vmc_map_judge()` under the lock.
    #[inline(never)]
    pub fn judge(&self, pfn: u64) -> Result<View> {
        let mut view = 0;
        let mut rust = self.rust.lock();
        let domain = rust.pointer();
        // SAFETY: the lock is held, `view` is valid.
        let verdict = unsafe {
            let frame = if calls::vmc_plain_has(domain, pfn) {
                VMC_FRAME_CHANGING
            } else {
                VMC_FRAME_ORDINARY
            };
            calls::vmc_map_judge(domain, frame, false, true, &mut view)
        };
        drop(rust);
        match (verdict, view) {
            (0, VMC_VIEW_CIPHER) => Ok(View::Cipher),
            (0, VMC_VIEW_SNAPSHOT) => Ok(View::Snapshot),
            _ => bail!("a map of page {pfn} was judged {verdict}, view {view}"),
        }
    }

    /// `get_gpfn_from_mfn()`.
    #[inline(always)]
    pub fn pfn(&self, mfn: u64) -> u64 {
        // Volatile, as Xen's is: the second look-up of a map is not the first one's result.
        self.m2p
            .get(mfn as usize)
            // SAFETY: a reference is valid.
            .map_or(u64::MAX, |pfn| unsafe { std::ptr::read_volatile(pfn) })
    }

    /// `vmcrypt_type_gained()`.
    #[inline(never)]
    pub fn gain(&self, mfn: u64) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let pfn = self.pfn(mfn);
        // SAFETY: the lock is held.
        unsafe { calls::vmc_plain_gain(self.rust.lock().pointer(), pfn, CLASS) }
    }

    /// `vmcrypt_type_lost()`.
    #[inline(never)]
    pub fn lose(&self, mfn: u64) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let pfn = self.pfn(mfn);
        // SAFETY: the lock is held.
        unsafe { calls::vmc_plain_lose(self.rust.lock().pointer(), pfn, CLASS) }
    }

    /// `map_foreign()`: the number of the replica that dom0 gets in place of `page`.
    pub fn map(&self, cpu: &mut Cpu, mfn: u64, page: &Frame, ways: Ways) -> Result<usize> {
        let view = self.judge(self.pfn(mfn))?;
        let pfn = self.pfn(mfn);
        let Some(replica) = cpu.pool.get(mfn as usize) else {
            bail!("no replica is free");
        };
        self.mapped.fetch_add(1, Ordering::SeqCst);
        match view {
            View::Snapshot => self.snapshot(page, &mut cpu.scratch)?,
            View::Cipher => {
                copy_page(&mut cpu.scratch, page);
                self.encrypt(pfn, cpu, ways.vectors)?;
            }
        }
        if let Some(frame) = cpu.replicas.get_mut(replica) {
            copy_page(frame, &cpu.scratch);
        }
        (ways.clear)(&mut cpu.scratch);
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

    /// `encrypt()`.
    fn encrypt(&self, pfn: u64, cpu: &mut Cpu, vectors: bool) -> Result<()> {
        let mut ticket = self.begin(pfn)?;
        if vectors {
            cpu.vectors.enter();
        }
        self.encrypt_page(&mut ticket, &mut cpu.scratch);
        if vectors {
            cpu.vectors.leave();
        }
        self.end(&ticket);
        Ok(())
    }

    /// Begins an encryption, as `encrypt()` does.
    pub fn begin(&self, pfn: u64) -> Result<VmcTicket> {
        // SAFETY: a ticket is numbers and bytes, for which zero is a value.
        let mut ticket = unsafe { std::mem::zeroed() };
        let mut again = false;
        let mut rust = self.rust.lock();
        let domain = rust.pointer();
        // SAFETY: the lock is held, the pointers are valid.
        let verdict = unsafe {
            // `vmcrypt_idle()`: the replica that is being made counts as one.
            let idle = self.mapped.load(Ordering::SeqCst) <= 1
                && calls::vmc_domain_state(domain) == State::Running as u32;
            calls::vmc_page_begin(domain, pfn, idle, &mut ticket, &mut again)
        };
        drop(rust);
        ensure!(
            verdict == 0 && !again,
            "page {pfn} cannot be encrypted now: verdict {verdict}"
        );
        Ok(ticket)
    }

    /// `vmc_page_encrypt()`: outside the lock.
    pub fn encrypt_page(&self, ticket: &mut VmcTicket, page: &mut Frame) {
        // SAFETY: the ticket is out, the page is exclusive, a program's vector registers are its own.
        unsafe { calls::vmc_page_encrypt(self.unlocked, ticket, &mut page.0) }
    }

    /// Ends an encryption, as `encrypt()` does.
    pub fn end(&self, ticket: &VmcTicket) {
        // SAFETY: the lock is held.
        unsafe { calls::vmc_page_end(self.rust.lock().pointer(), ticket) }
    }

    /// `vmcrypt_unmap_l1e()` of a replica.
    pub fn unmap(&self, cpu: &Cpu, replica: usize) -> Option<usize> {
        let source = cpu.pool.put(replica);
        self.mapped.fetch_sub(1, Ordering::SeqCst);
        source
    }

    /// A replica that shows nothing, for measuring what gives it back.
    pub fn map_nothing(&self, cpu: &Cpu, mfn: u64) -> Option<usize> {
        self.mapped.fetch_add(1, Ordering::SeqCst);
        cpu.pool.get(mfn as usize)
    }

    /// `decrypt()` of `seal.c`.
    pub fn restore(&self, cpu: &mut Cpu, session: &SessionId, pfn: u64, page: &mut Frame) {
        cpu.vectors.enter();
        // SAFETY: a program's vector registers are its own; the page is exclusive; there is one thread.
        unsafe { calls::vmc_page_restore(self.unlocked, session, pfn, &mut page.0) }
        cpu.vectors.leave();
    }

    /// A buffer for the record, vCPU states included.
    pub fn record_buffer(&self) -> Vec<u8> {
        // SAFETY: the lock is held.
        let size = unsafe { vmc_record_capacity(self.rust.lock().pointer(), VCPUS, VCPU_SIZE) };
        let mut buffer = resident(size as usize, 0, Mapped::Small);
        buffer
            .iter_mut()
            .skip(STATES)
            .take((VCPUS * VCPU_SIZE) as usize)
            .for_each(|byte| *byte = 0xc3);
        buffer
    }

    /// `vmc_record_seal()` of a guest that has `pages` pages; gives the record's size.
    pub fn seal(&self, pages: u64, buffer: &mut [u8]) -> Result<usize> {
        let facts = VmcFacts {
            pages,
            pfns: self.pfns,
            vcpus: VCPUS,
            vcpu_size: VCPU_SIZE,
            ..no_facts()
        };
        let mut size = 0;
        // SAFETY: the lock is held, the pointers are valid.
        let verdict = unsafe {
            let mut rust = self.rust.lock();
            calls::vmc_record_seal(
                rust.pointer(),
                &facts,
                buffer.as_mut_ptr(),
                buffer.len(),
                &mut size,
            )
        };
        ensure!(verdict == 0, "the record was not sealed: verdict {verdict}");
        Ok(size)
    }

    /// `vmc_record_open()`, in place; gives the session of the pages.
    pub fn open(&self, record: &mut [u8]) -> Result<SessionId> {
        let mut facts = no_facts();
        // SAFETY: the lock is held, the pointers are valid.
        let verdict = unsafe {
            let mut rust = self.rust.lock();
            calls::vmc_record_open(
                rust.pointer(),
                &[0; 16],
                record.as_mut_ptr(),
                record.len(),
                &mut facts,
            )
        };
        ensure!(verdict == 0, "the record was not opened: verdict {verdict}");
        Ok(facts.session)
    }

    /// `vmc_record_verify()`: whether the restored pages are the exported ones.
    pub fn verify(&self, record: &[u8]) -> Result<()> {
        // SAFETY: the lock is held, the record is valid.
        let verdict =
            unsafe { calls::vmc_record_verify(self.rust.lock().pointer(), record.as_ptr(), record.len()) };
        ensure!(
            verdict == 0,
            "the restored pages are not the exported ones: verdict {verdict}"
        );
        Ok(())
    }
}

const fn no_facts() -> VmcFacts {
    VmcFacts {
        uuid: [0; 16],
        pages: 0,
        pfns: 0,
        start_info: 0,
        console: 0,
        store: 0,
        p2m_root: 0,
        p2m_address: 0,
        p2m_end: 0,
        vcpus: 0,
        vcpu_size: 0,
        session: SessionId([0; 16]),
    }
}
