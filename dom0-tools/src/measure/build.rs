//! A domain as `xl create` leaves it, before its first instruction: `xg_dom_core.c`, `xg_dom_x86.c` and
//! `xg_dom_boot.c` of libxenguest, called as `libxl__build_pv()` does.

use vmcrypt_core::Pfn;
use vmcrypt_core::measure::{LaunchKind, Measurement, Section};

use super::elf::Kernel;
use super::pagetables::Mappings;
use super::{Config, Error, unpack};
use crate::pv;

const PAGE: u64 = 4096;

/// What Xen finds at the first unpause.
pub struct Launch {
    pages: u64,
    vcpus: u64,
    memory_map: Vec<u8>,
    context: Vec<u8>,
    /// From PFN 0 on; what is behind it is zero.
    memory: Vec<u8>,
    tables: Mappings,
    start_info: u64,
    rings: [u64; 2],
    p2m: std::ops::Range<u64>,
}

impl Launch {
    /// Lays the domain out.
    pub fn new(kernel: &[u8], initrd: Option<&[u8]>, config: &Config) -> Result<Self, Error> {
        let image = unpack::kernel(kernel)?;
        let kernel = Kernel::parse(&image)?;
        Builder::new(&kernel, config).build(initrd, config)
    }

    /// The value that Xen measures.
    pub fn measurement(&self) -> [u8; 32] {
        let mut measurement = Measurement::new();
        measurement.begin(self.pages, self.vcpus);
        measurement.add(Section::MemoryMap, &self.memory_map);
        measurement.add(Section::Vcpu, &self.context);
        for (pfn, kind, page) in self.measured_pages() {
            measurement.page(Pfn(pfn), kind, page);
        }
        measurement.finish()
    }

    /// The pages that are measured, in ascending order.
    pub fn measured_pages(&self) -> impl Iterator<Item = (u64, LaunchKind, &[u8; 4096])> {
        let pages = (0..).zip(self.memory.as_chunks().0);
        pages.filter_map(|(pfn, page)| {
            let kind = self.kind(pfn);
            let left_out = self.rings.contains(&pfn) || (kind == LaunchKind::Data && *page == [0; 4096]);
            (!left_out).then_some((pfn, kind, page))
        })
    }

    /// The first vCPU's registers, frames as PFNs.
    pub fn context(&self) -> &[u8] {
        &self.context
    }

    fn kind(&self, pfn: u64) -> LaunchKind {
        match self.tables.level_of(pfn) {
            Some(1) => LaunchKind::L1,
            Some(2) => LaunchKind::L2,
            Some(3) => LaunchKind::L3,
            Some(_) => LaunchKind::L4,
            None if pfn == self.start_info => LaunchKind::StartInfo,
            None if self.p2m.contains(&pfn) => LaunchKind::P2m,
            None => LaunchKind::Data,
        }
    }
}

/// Memory while it is handed out, from PFN 0 and `kernel.base` on.
struct Builder<'a> {
    kernel: &'a Kernel<'a>,
    pages: u64,
    memory: Vec<u8>,
}

impl<'a> Builder<'a> {
    const fn new(kernel: &'a Kernel<'a>, config: &Config) -> Self {
        Self {
            kernel,
            pages: config.memory_mib << 8,
            memory: Vec::new(),
        }
    }

    fn build(mut self, initrd: Option<&[u8]>, config: &Config) -> Result<Launch, Error> {
        let kernel = self.kernel;
        let p2m_pages = self.pages.div_ceil(PAGE / 8);
        let mut info = StartInfo::default();

        if !kernel.start.is_multiple_of(PAGE) {
            return Err(Error::Kernel("it does not begin with a page".into()));
        }
        self.pad_to(kernel.start)?;
        let pfn = self.take((kernel.end - kernel.start).div_ceil(PAGE))?;
        kernel.load(&mut self.memory[(pfn * PAGE) as usize..])?;

        if let Some(initrd) = initrd
            && !kernel.unmapped_initrd
        {
            info.module = (self.address(), initrd.len() as u64);
            self.place(initrd)?;
        }

        let mut tables = Mappings::default();
        let mut p2m = 0;
        if kernel.p2m_base.is_none() {
            info.p2m = self.address();
            p2m = self.take(p2m_pages)?;
        }
        let start_info = self.take(1)?;
        let store = self.take(1)?;
        let console = self.take(1)?;

        info.tables = self.address();
        let first = self.next();
        let (count, end) = tables.map_start(kernel.base, self.address(), self.pages, first)?;
        info.table_count = count;
        let root = self.take(count)?;
        let stack = self.take(1)?;
        self.pad_to(end)?;

        if let Some(initrd) = initrd
            && kernel.unmapped_initrd
        {
            let pages = (initrd.len() as u64).div_ceil(PAGE);
            info.module = (self.next(), pages * PAGE);
            info.flags |= MODULE_BY_PFN;
            self.place(initrd)?;
        }

        if let Some(address) = kernel.p2m_base {
            let first = self.next();
            let count = tables.map_p2m(address, p2m_pages, self.pages, first)?;
            p2m = self.take(p2m_pages + count)?;
            info.p2m = address;
            info.p2m_frames = (p2m, p2m_pages + count);
        }

        for pfn in 0..self.pages {
            self.put(p2m, pfn as usize, pfn);
        }
        tables.fill(|table, index, entry| self.put(table, index, entry));
        info.pages = self.pages;
        info.rings = [store, console];
        info.write(self.page(start_info), &config.cmdline);
        if let Some(address) = kernel.hypercall_page {
            let pfn = address.wrapping_sub(kernel.base) / PAGE;
            if pfn >= self.next() {
                return Err(Error::Kernel("its hypercall page lies outside of it".into()));
            }
            write_hypercalls(self.page(pfn));
        }

        Ok(Launch {
            context: context(
                kernel.entry,
                kernel.base + (stack + 1) * PAGE,
                kernel.base + start_info * PAGE,
                root,
            ),
            pages: self.pages,
            vcpus: config.max_vcpus,
            memory_map: memory_map(config.max_memory_mib),
            memory: self.memory,
            tables,
            start_info,
            rings: [store, console],
            p2m: p2m..p2m + p2m_pages,
        })
    }

    /// The first PFN that is not handed out yet.
    const fn next(&self) -> u64 {
        self.memory.len() as u64 / PAGE
    }

    const fn address(&self) -> u64 {
        self.kernel.base.wrapping_add(self.memory.len() as u64)
    }

    fn take(&mut self, count: u64) -> Result<u64, Error> {
        let first = self.next();
        if count > self.pages - first {
            return Err(Error::Build(format!(
                "the guest's memory of {} MiB is too small for its kernel, initrd and tables",
                self.pages >> 8
            )));
        }
        self.memory.resize(((first + count) * PAGE) as usize, 0);
        Ok(first)
    }

    fn pad_to(&mut self, address: u64) -> Result<(), Error> {
        let pages = address
            .checked_sub(self.address())
            .ok_or_else(|| Error::Build("the kernel is larger than it says".into()))?;
        self.take(pages / PAGE).map(drop)
    }

    fn place(&mut self, content: &[u8]) -> Result<(), Error> {
        let pfn = self.take((content.len() as u64).div_ceil(PAGE))?;
        self.memory[(pfn * PAGE) as usize..][..content.len()].copy_from_slice(content);
        Ok(())
    }

    fn page(&mut self, pfn: u64) -> &mut [u8] {
        &mut self.memory[(pfn * PAGE) as usize..][..PAGE as usize]
    }

    fn put(&mut self, pfn: u64, index: usize, value: u64) {
        self.memory[(pfn * PAGE) as usize + 8 * index..][..8].copy_from_slice(&value.to_le_bytes());
    }
}

/// `SIF_MOD_START_PFN`.
const MODULE_BY_PFN: u32 = 1 << 3;

/// `struct start_info`, frames as PFNs: `start_info_x86_64()`.
#[derive(Default)]
struct StartInfo {
    pages: u64,
    flags: u32,
    /// xenstore's, the console's.
    rings: [u64; 2],
    tables: u64,
    table_count: u64,
    p2m: u64,
    module: (u64, u64),
    p2m_frames: (u64, u64),
}

impl StartInfo {
    fn write(&self, page: &mut [u8], cmdline: &[u8]) {
        const CMDLINE: usize = 128;
        const MAX_CMDLINE: usize = 1024;
        let mut put = |at: usize, value: u64| page[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(32, self.pages);
        // 40: the frame of shared_info, which Xen compares with its own.
        put(48, u64::from(self.flags));
        put(pv::STORE_MFN, self.rings[0]);
        // Event channels: libxl allocates xenstore's first, then the console's (libxl__build_pre()).
        put(64, 1);
        put(pv::CONSOLE_MFN, self.rings[1]);
        put(80, 2);
        put(88, self.tables);
        put(96, self.table_count);
        put(104, self.p2m);
        put(112, self.module.0);
        put(120, self.module.1);
        put(CMDLINE + MAX_CMDLINE, self.p2m_frames.0);
        put(CMDLINE + MAX_CMDLINE + 8, self.p2m_frames.1);
        page[..pv::MAGIC.len()].copy_from_slice(pv::MAGIC);
        let text = cmdline.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = &text[..text.len().min(MAX_CMDLINE - 1)];
        page[CMDLINE..CMDLINE + text.len()].copy_from_slice(text);
    }
}

/// One entry, `struct e820entry`: `xc_domain_set_memmap_limit()`.
fn memory_map(mib: u64) -> Vec<u8> {
    const RAM: u32 = 1;
    let mut map = Vec::new();
    map.extend_from_slice(&0u64.to_le_bytes());
    map.extend_from_slice(&(mib << 20).to_le_bytes());
    map.extend_from_slice(&RAM.to_le_bytes());
    map
}

/// `pv_ring3_init_hypercall_page()` of Xen.
fn write_hypercalls(page: &mut [u8]) {
    /// `__HYPERVISOR_iret`
    const IRET: u32 = 23;
    page.fill(0xcc);
    for (stub, number) in page.chunks_mut(32).zip(0u32..) {
        let number_bytes = number.to_le_bytes();
        // push %rcx; push %r11
        stub[..3].copy_from_slice(&[0x51, 0x41, 0x53]);
        if number == IRET {
            // push %rax; mov $number, %eax; syscall
            stub[3..5].copy_from_slice(&[0x50, 0xb8]);
            stub[5..9].copy_from_slice(&number_bytes);
            stub[9..11].copy_from_slice(&[0x0f, 0x05]);
        } else {
            // mov $number, %eax; syscall; pop %r11; pop %rcx; ret
            stub[3] = 0xb8;
            stub[4..8].copy_from_slice(&number_bytes);
            stub[8..14].copy_from_slice(&[0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3]);
        }
    }
}

/// `struct vcpu_guest_context` as Xen gives it back after `vcpu_x86_64()`: privilege levels are those of a guest's
/// kernel, the FPU's state is left out.
fn context(entry: u64, stack: u64, start_info: u64, root: u64) -> Vec<u8> {
    const KERNEL_CS: u64 = 0xe033;
    const KERNEL_SS: u64 = 0xe02b;
    const INTERRUPTS: u64 = 1 << 9;
    const IN_KERNEL_AND_ONLINE: u64 = 1 << 2 | 1 << 5;
    const FLAGS: usize = 512;
    const REGISTERS: usize = FLAGS + 8;
    const TRAPS: usize = REGISTERS + 200;
    const KERNEL_STACK: usize = pv::GDT_ENTS + 8;
    const CONTROL: usize = KERNEL_STACK + 16;
    const DEBUG: usize = CONTROL + 64;

    let mut context = vec![0; pv::CONTEXT_BYTES];
    // A trap's selector stands behind vector and flags.
    for trap in 0..256 {
        context[TRAPS + 16 * trap + 2] = 3;
    }
    let mut put = |at: usize, value: u64| context[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(FLAGS, IN_KERNEL_AND_ONLINE);
    put(REGISTERS + 13 * 8, start_info);
    put(REGISTERS + 16 * 8, entry);
    put(REGISTERS + 17 * 8, KERNEL_CS);
    put(REGISTERS + 18 * 8, INTERRUPTS);
    put(REGISTERS + 19 * 8, stack);
    put(REGISTERS + 20 * 8, KERNEL_SS);
    put(KERNEL_STACK, KERNEL_SS);
    put(KERNEL_STACK + 8, stack);
    put(CONTROL + 3 * 8, root << 12);
    put(DEBUG + 6 * 8, 0xffff_0ff0);
    put(DEBUG + 7 * 8, 0x400);
    context
}
