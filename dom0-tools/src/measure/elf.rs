//! What Xen's domain builder reads from a kernel's ELF image, as libelf does it (`xen/common/libelf/`).

use object::LittleEndian as Le;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use super::Error;

/// A 64-bit PV kernel.
pub struct Kernel<'a> {
    segments: Vec<Segment<'a>>,
    /// Where its lowest segment goes.
    physical_start: u64,
    /// Virtual address of PFN 0.
    pub base: u64,
    /// Virtual addresses of its first byte, and of the one behind its last.
    pub start: u64,
    /// See `start`.
    pub end: u64,
    /// Where the first vCPU begins.
    pub entry: u64,
    /// Where Xen writes its hypercall page.
    pub hypercall_page: Option<u64>,
    /// Where it wants the P2M.
    pub p2m_base: Option<u64>,
    /// It needs no mapping of its initrd.
    pub unmapped_initrd: bool,
}

struct Segment<'a> {
    address: u64,
    size: u64,
    content: &'a [u8],
}

/// What the notes say (`public/elfnote.h`).
#[derive(Default)]
struct Notes {
    count: usize,
    entry: Option<u64>,
    hypercall_page: Option<u64>,
    base: Option<u64>,
    offset: Option<u64>,
    version: Vec<u8>,
    os: Vec<u8>,
    loader: Vec<u8>,
    p2m_base: Option<u64>,
    unmapped_initrd: bool,
}

impl<'a> Kernel<'a> {
    /// Reads an ELF image.
    pub fn parse(image: &'a [u8]) -> Result<Self, Error> {
        let header = FileHeader64::<Le>::parse(image).map_err(|_| no("it is no 64-bit ELF file"))?;
        if header.e_machine.get(Le) != elf::EM_X86_64 || header.e_ident.data != elf::ELFDATA2LSB {
            return Err(no("it is not for x86-64"));
        }
        let damaged = |error: object::read::Error| no(&format!("its ELF headers are damaged: {error}"));
        let programs = header.program_headers(Le, image).map_err(damaged)?;

        let mut notes = Notes::default();
        for program in programs
            .iter()
            .filter(|program| program.p_type(Le) == elf::PT_NOTE)
        {
            // libelf passes over those, which some linkers damaged.
            if program.p_offset(Le) != 0 {
                notes.read(
                    program
                        .data(Le, image)
                        .map_err(|()| no("a note lies outside of the file"))?,
                )?;
            }
        }
        if notes.count == 0 {
            for section in header.section_headers(Le, image).map_err(damaged)? {
                if section.sh_type(Le) == elf::SHT_NOTE {
                    notes.read(section.data(Le, image).map_err(damaged)?)?;
                }
            }
        }
        notes.check()?;
        Self::lay_out(programs, image, &notes, header.e_entry.get(Le))
    }

    /// `elf_parse_binary()` and `elf_xen_addr_calc_check()`.
    fn lay_out(
        programs: &'a [ProgramHeader64<Le>],
        image: &'a [u8],
        notes: &Notes,
        entry: u64,
    ) -> Result<Self, Error> {
        let mut segments = Vec::new();
        for program in programs {
            let flags = program.p_flags(Le) & (elf::PF_R | elf::PF_W | elf::PF_X);
            if program.p_type(Le) != elf::PT_LOAD || flags.0 == 0 {
                continue;
            }
            let content = program
                .data(Le, image)
                .map_err(|()| no("a segment lies outside of the file"))?;
            let size = program.p_memsz(Le);
            if (content.len() as u64) > size {
                return Err(no("a segment is larger in the file than in memory"));
            }
            segments.push(Segment {
                address: program.p_paddr(Le),
                size,
                content,
            });
        }
        let first = segments.iter().map(|segment| segment.address).min();
        let ends = segments
            .iter()
            .map(|segment| segment.address.checked_add(segment.size));
        let end = ends
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| no("a segment ends behind the last address"))?;
        let (Some(first), Some(end)) = (first, end.into_iter().max()) else {
            return Err(no("it has nothing to load"));
        };

        if notes.offset.is_some() && notes.base.is_none() {
            return Err(no("its notes name PADDR_OFFSET and no VIRT_BASE"));
        }
        let base = notes.base.unwrap_or(0);
        let offset = base.wrapping_sub(notes.offset.unwrap_or(0));
        let (start, end) = (first.wrapping_add(offset), end.wrapping_add(offset));
        let entry = notes.entry.unwrap_or(entry);
        if start > end || entry < start || entry > end || base > start {
            return Err(no("its start or entry is out of bounds"));
        }
        if notes.p2m_base.is_some_and(|p2m| (start..end).contains(&p2m)) {
            return Err(no("it wants its P2M where it lies itself"));
        }
        Ok(Self {
            segments,
            physical_start: first,
            base,
            start,
            end,
            entry,
            hypercall_page: notes.hypercall_page,
            // `xc_dom_build_image()` takes no other.
            p2m_base: notes.p2m_base.filter(|p2m| *p2m < base && p2m % 4096 == 0),
            unmapped_initrd: notes.unmapped_initrd,
        })
    }

    /// Loads it to the front of `memory`, in the order of its segments: `elf_load_binary()`.
    pub fn load(&self, memory: &mut [u8]) -> Result<(), Error> {
        for segment in &self.segments {
            let start = (segment.address - self.physical_start) as usize;
            let place = memory
                .get_mut(start..)
                .and_then(|rest| rest.get_mut(..segment.size as usize))
                .ok_or_else(|| no("a segment lies outside of the kernel"))?;
            let (file, rest) = place.split_at_mut(segment.content.len());
            file.copy_from_slice(segment.content);
            rest.fill(0);
        }
        Ok(())
    }
}

impl Notes {
    /// `elf_xen_parse_notes()`: everything is padded to four bytes, whatever the segment's alignment.
    fn read(&mut self, mut notes: &[u8]) -> Result<(), Error> {
        while let Some((header, rest)) = notes.split_first_chunk::<12>() {
            let word =
                |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (name_size, size, kind) = (word(0) as usize, word(4) as usize, word(8));
            let cut = || no("a note is cut off");
            let (name, rest) = rest
                .split_at_checked(name_size.next_multiple_of(4))
                .ok_or_else(cut)?;
            let content = rest.get(..size).ok_or_else(cut)?;
            // The last one need not be padded.
            notes = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            if text(name) == b"Xen" {
                self.note(kind, content)?;
                self.count += 1;
            }
        }
        Ok(())
    }

    fn note(&mut self, kind: u32, content: &[u8]) -> Result<(), Error> {
        match kind {
            1 => self.entry = number(content),
            2 => self.hypercall_page = number(content),
            3 => self.base = number(content),
            4 => self.offset = number(content),
            5 => self.version = text(content).to_vec(),
            6 => self.os = text(content).to_vec(),
            8 => self.loader = text(content).to_vec(),
            10 => features(text(content))?,
            11 if text(content) == b"yes" => {
                return Err(no(
                    "it wants its symbol table loaded (BSD_SYMTAB), which is not supported",
                ));
            }
            15 => self.p2m_base = number(content),
            16 => self.unmapped_initrd = number(content) != Some(0),
            _ => {}
        }
        Ok(())
    }

    /// `elf_xen_note_check()`.
    fn check(&self) -> Result<(), Error> {
        if self.count == 0 {
            return Err(no(
                "it has no notes for Xen: it is not built for PV guests (a __xen_guest section is not supported)",
            ));
        }
        if !self.loader.starts_with(b"generic") && !self.os.starts_with(b"linux") {
            return Err(no(
                "Xen loads only what is built for its generic loader, or Linux",
            ));
        }
        if !self.version.starts_with(b"xen-3.0") {
            return Err(no("it is not built for xen-3.0"));
        }
        Ok(())
    }
}

/// A note with a number; other sizes count as 0, and all ones as none.
fn number(content: &[u8]) -> Option<u64> {
    let value = match *content {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    };
    (value != u64::MAX).then_some(value)
}

fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// `elf_xen_parse_features()`: what a kernel demands decides whether it is loaded, not how.
fn features(list: &[u8]) -> Result<(), Error> {
    for feature in list.split(|byte| *byte == b'|') {
        match feature.strip_prefix(b"!") {
            None
            | Some(
                b"writable_page_tables"
                | b"writable_descriptor_tables"
                | b"supervisor_mode_kernel"
                | b"pae_pgdir_above_4gb"
                | b"hvm_callback_vector",
            ) => {}
            Some(other) => {
                return Err(no(&format!(
                    "it demands {}, which Xen does not give a guest",
                    String::from_utf8_lossy(other)
                )));
            }
        }
    }
    Ok(())
}

fn no(what: &str) -> Error {
    Error::Kernel(what.to_owned())
}
