//! The door to Xen: `/dev/xen/privcmd`, without any of Xen's C libraries.
//!
//! The only module of this crate with unsafe code. It needs it for `mmap`, `ioctl`, and to read memory that belongs
//! to another virtual machine. What leaves it is safe: bytes are copied out, no reference to shared memory exists.
//!
//! A hypercall argument can be any address, also one of this process. [`Privcmd::call`] is nevertheless safe, for
//! the reason for which writing to `/proc/self/mem` is: it takes root and intent, and no hypercall that this crate
//! makes carries an address other than one of a [`Buffer`].
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::{self, NonNull};

use vmcrypt_core::abi::{DomainInfo, HostInfo, KeyLoad};

use crate::content::PAGE;
use crate::xen::{DomId, Frame};

/// A failed hypercall, map or device, in words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no hypervisor beneath, or its driver is not loaded.
    #[error("not on Xen: {DEVICE} does not exist; run this in dom0 (`modprobe xen-privcmd` if this is dom0)")]
    NotOnXen,
    /// The device is not for everybody.
    #[error("not root: {DEVICE} may be opened by root alone; use sudo")]
    NotRoot,
    /// The kernel has the driver, but does not run as dom0.
    #[error("{DEVICE} cannot be used: {0}; is this dom0?")]
    Device(io::Error),
    /// Memory for a hypercall's arguments.
    #[error("no memory for hypercall arguments: {0}")]
    Buffer(io::Error),
    /// Xen said no.
    #[error("Xen refused {what}: {error}")]
    Refused {
        /// The operation, for people.
        what: &'static str,
        /// Its errno.
        error: io::Error,
    },
}

impl Error {
    /// The errno of a refusal.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { error, .. } => error.raw_os_error(),
            _ => None,
        }
    }
}

const DEVICE: &str = "/dev/xen/privcmd";

// `include/uapi/xen/privcmd.h` of Linux: _IOC(_IOC_NONE, 'P', number, size).
const IOCTL_HYPERCALL: libc::c_ulong = ioctl_number(0, size_of::<Hypercall>());
const IOCTL_MMAPBATCH_V2: libc::c_ulong = ioctl_number(4, size_of::<MmapBatch>());

const fn ioctl_number(number: u64, size: usize) -> u64 {
    (size as u64) << 16 | (b'P' as u64) << 8 | number
}

#[repr(C)]
struct Hypercall {
    op: u64,
    args: [u64; 5],
}

// `include/uapi/xen/gntdev.h`: _IOC(_IOC_NONE, 'G', 0, sizeof(struct ioctl_gntdev_map_grant_ref)).
const IOCTL_MAP_GRANT: libc::c_ulong = (size_of::<MapGrant>() as u64) << 16 | (b'G' as u64) << 8;

#[repr(C)]
struct MapGrant {
    count: u32,
    pad: u32,
    index: u64,
    domain: u32,
    reference: u32,
}

#[repr(C)]
struct MmapBatch {
    num: libc::c_uint,
    dom: u16,
    addr: u64,
    frames: *const u64,
    errors: *mut libc::c_int,
}

/// An open channel to the hypervisor.
pub struct Privcmd {
    device: File,
    /// Memory from this device never faults during a hypercall; kernels before 4.18 lack it.
    buffers: Option<File>,
}

impl Privcmd {
    /// Opens the channel.
    pub fn open() -> Result<Self, Error> {
        let open = |path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_CLOEXEC)
                .open(path)
        };
        let device = open(DEVICE).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotOnXen,
            io::ErrorKind::PermissionDenied => Error::NotRoot,
            _ => Error::Device(error),
        })?;
        Ok(Self {
            device,
            buffers: open("/dev/xen/hypercall").ok(),
        })
    }

    /// Makes a hypercall; `what` names it to people if it fails.
    pub fn call(&self, what: &'static str, op: u64, args: &[u64]) -> Result<u64, Error> {
        let mut call = Hypercall { op, args: [0; 5] };
        call.args[..args.len()].copy_from_slice(args);
        // libc's ioctl() returns an int, some hypercalls a long: hence the bare system call.
        // SAFETY: the driver reads `call`, which lives until it returns; on addresses in it see the module's head.
        let result = unsafe {
            libc::syscall(
                libc::SYS_ioctl,
                self.device.as_raw_fd(),
                IOCTL_HYPERCALL,
                ptr::from_ref(&call),
            )
        };
        u64::try_from(result).map_err(|_| Error::Refused {
            what,
            error: io::Error::last_os_error(),
        })
    }

    /// Zeroed memory for arguments of a hypercall. Behind it there is nothing: what Xen writes beyond its end fails.
    pub fn buffer(&self, bytes: usize) -> Result<Buffer, Error> {
        let length = bytes.next_multiple_of(PAGE).max(PAGE);
        let (fd, flags) = match &self.buffers {
            Some(device) => (device.as_raw_fd(), libc::MAP_SHARED),
            None => (-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_LOCKED),
        };
        let guarded = Mapping::guarded(length, flags, fd).map_err(Error::Buffer)?;
        // SAFETY: the first `length` bytes are writable and private to us. This also faults every page in, which
        // the fallback needs: Xen cannot.
        unsafe { guarded.start.write_bytes(0, length) };
        Ok(Buffer(guarded))
    }

    /// Maps frames of another domain. Frames that cannot be mapped are reported one by one in the result.
    pub fn map_foreign(&self, domain: DomId, frames: &[Frame], writable: bool) -> Result<ForeignMap, Error> {
        let refused = |error| Error::Refused {
            what: "the map of foreign frames",
            error,
        };
        let write = if writable { libc::PROT_WRITE } else { 0 };
        let (flags, fd) = (libc::MAP_SHARED, self.device.as_raw_fd());
        let memory =
            Mapping::new(frames.len() * PAGE, libc::PROT_READ | write, flags, fd).map_err(refused)?;
        let numbers: Vec<u64> = frames.iter().map(|frame| frame.0).collect();
        let mut errors = vec![0; frames.len()];
        let batch = MmapBatch {
            num: frames.len() as libc::c_uint,
            dom: domain.0,
            addr: memory.start.as_ptr() as u64,
            frames: numbers.as_ptr(),
            errors: errors.as_mut_ptr(),
        };
        // SAFETY: the driver reads `num` frame numbers and writes `num` results, both arrays are that long; it
        // populates the mapping that was made above from this very device.
        let result = unsafe { libc::ioctl(fd, IOCTL_MMAPBATCH_V2, ptr::from_ref(&batch)) };
        // ENOENT says that some frames are paged out; their results say so too.
        if result < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOENT) {
            return Err(refused(io::Error::last_os_error()));
        }
        Ok(ForeignMap {
            memory,
            errors,
            writable,
        })
    }
}

/// I/O ports as a driver has them, for the thread that asked.
pub struct Ports(PhantomData<*const ()>);

impl Ports {
    /// Asks the kernel for all of them.
    ///
    /// # Errors
    /// If it gives this thread none.
    pub fn open() -> Result<Ports, Error> {
        // SAFETY: takes a number; what it allows is used below alone.
        match unsafe { libc::iopl(3) } {
            0 => Ok(Ports(PhantomData)),
            _ => Err(Error::Device(io::Error::last_os_error())),
        }
    }

    /// Writes 16 bits.
    pub fn write16(&self, port: u16, value: u16) {
        // SAFETY: touches no memory of this process. What the machine does then is what root asked for.
        unsafe { std::arch::asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) };
    }

    /// Writes 32 bits.
    pub fn write32(&self, port: u16, value: u32) {
        // SAFETY: as above.
        unsafe { std::arch::asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
    }
}

/// Maps a page that another domain granted, by way of the kernel's grant device.
pub fn map_grant(domain: DomId, reference: u32, writable: bool) -> Result<ForeignMap, Error> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/xen/gntdev")
        .map_err(Error::Device)?;
    let refused = |error| Error::Refused {
        what: "the map of a grant",
        error,
    };
    let mut call = MapGrant {
        count: 1,
        pad: 0,
        index: 0,
        domain: domain.0.into(),
        reference,
    };
    // SAFETY: the driver reads and writes `call`, which holds one grant, as it says.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), IOCTL_MAP_GRANT, ptr::from_mut(&mut call)) };
    if result < 0 {
        return Err(refused(io::Error::last_os_error()));
    }
    let write = if writable { libc::PROT_WRITE } else { 0 };
    let memory = Mapping::at(
        PAGE,
        libc::PROT_READ | write,
        libc::MAP_SHARED,
        device.as_raw_fd(),
        call.index,
    )
    .map_err(refused)?;
    Ok(ForeignMap {
        memory,
        errors: vec![0],
        writable,
    })
}

/// Memory that Xen reads and writes during hypercalls. Values go in and out by copy.
pub struct Buffer(Mapping);

impl Buffer {
    /// What to put into a hypercall's arguments.
    pub fn address(&self) -> u64 {
        self.0.start.as_ptr() as u64
    }

    /// Copies a value out.
    pub fn get<T: Plain>(&self, offset: usize) -> T {
        self.check(offset, size_of::<T>());
        // SAFETY: in bounds by the check, any bytes are a valid T by the contract of Plain.
        unsafe { ptr::read_unaligned(self.0.start.as_ptr().add(offset).cast()) }
    }

    /// Copies bytes in.
    pub fn fill(&mut self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: both sides are that long, and distinct; the mapping is writable.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.start.as_ptr().add(offset), bytes.len()) };
    }

    /// Copies a value in.
    pub fn put<T: Plain>(&mut self, offset: usize, value: T) {
        self.check(offset, size_of::<T>());
        // SAFETY: in bounds by the check; the mapping is writable.
        unsafe { ptr::write_unaligned(self.0.start.as_ptr().add(offset).cast(), value) }
    }

    /// Copies bytes out.
    pub fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        self.check(offset, length);
        let mut bytes = vec![0; length];
        // SAFETY: both sides are `length` bytes long, and distinct.
        unsafe { ptr::copy_nonoverlapping(self.0.start.as_ptr().add(offset), bytes.as_mut_ptr(), length) };
        bytes
    }

    /// Size in bytes, whole pages.
    pub const fn len(&self) -> usize {
        self.0.length - PAGE
    }

    /// Never: a buffer has at least one page.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn check(&self, offset: usize, length: usize) {
        check(offset, length, self.len());
    }
}

/// Pages of another domain in this process.
pub struct ForeignMap {
    memory: Mapping,
    errors: Vec<libc::c_int>,
    writable: bool,
}

impl ForeignMap {
    /// Where the first page is mapped.
    pub fn address(&self) -> u64 {
        self.memory.start.as_ptr() as u64
    }

    /// How many frames were asked for.
    #[allow(clippy::len_without_is_empty)] // Linux maps no empty batch.
    pub const fn len(&self) -> usize {
        self.errors.len()
    }

    /// The errno with which frame `i` was refused.
    pub fn refusal(&self, i: usize) -> Option<i32> {
        match self.errors[i] {
            0 => None,
            error => Some(-error),
        }
    }

    /// Copies page `i` out; its owner may change it all the while, so it is read once. `None` if it is not mapped.
    pub fn page(&self, i: usize) -> Option<[u8; PAGE]> {
        if self.refusal(i).is_some() {
            return None;
        }
        self.memory.check(i * PAGE, PAGE);
        let mut page = [0; PAGE];
        // SAFETY: in bounds by the check; the driver reported this page as present, so reading does not fault. The
        // other domain may write at the same time: the bytes are then a mixture, and any bytes are a valid page.
        unsafe {
            ptr::copy_nonoverlapping(self.memory.start.as_ptr().add(i * PAGE), page.as_mut_ptr(), PAGE)
        };
        Some(page)
    }

    /// Copies a value out of page `i`, which must be mapped, anew each time.
    pub fn get<T: Plain>(&self, i: usize, offset: usize) -> T {
        assert!(
            self.refusal(i).is_none()
                && offset + size_of::<T>() <= PAGE
                && offset.is_multiple_of(align_of::<T>()),
            "a read from where nothing is mapped"
        );
        self.memory.check(i * PAGE + offset, size_of::<T>());
        // SAFETY: in bounds and aligned by the checks; the driver reported this page as present, so reading does not
        // fault. Whatever is there is a valid T by the contract of Plain.
        unsafe { ptr::read_volatile(self.memory.start.as_ptr().add(i * PAGE + offset).cast()) }
    }

    /// Has the kernel read a file's bytes into page `i`. Where Xen made the map read-only behind the kernel's back, it
    /// lets what the kernel writes go nowhere; a program would fault for ever.
    ///
    /// # Errors
    /// Of the kernel's `read`.
    pub fn read_into(&mut self, i: usize, offset: usize, from: &File, length: usize) -> io::Result<usize> {
        assert!(
            self.writable && self.refusal(i).is_none() && offset + length <= PAGE,
            "a read into where nothing is mapped to be written"
        );
        self.memory.check(i * PAGE + offset, length);
        // SAFETY: in bounds by the checks; the kernel writes, and any bytes are a valid page.
        let read = unsafe {
            let to = self.memory.start.as_ptr().add(i * PAGE + offset);
            libc::read(from.as_raw_fd(), to.cast(), length)
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Copies a value into page `i`, which must be mapped, and writable.
    pub fn put<T: Plain>(&mut self, i: usize, offset: usize, value: T) {
        assert!(
            self.writable && self.refusal(i).is_none() && offset + size_of::<T>() <= PAGE,
            "a write to where nothing is mapped to be written"
        );
        self.memory.check(i * PAGE + offset, size_of::<T>());
        // SAFETY: in bounds by the checks; the driver reported this page as present, so writing does not fault.
        unsafe { ptr::write_unaligned(self.memory.start.as_ptr().add(i * PAGE + offset).cast(), value) }
    }
}

/// Types without padding, pointers or invalid values, which may be copied to and from a [`Buffer`].
///
/// # Safety
/// Every bit pattern must be a valid value, and no byte may be padding.
pub unsafe trait Plain: Copy {}

// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for u16 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: arrays of plain values.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: integers alone, their sizes add up to the size that vmcrypt-core asserts.
unsafe impl Plain for HostInfo {}
// SAFETY: as above.
unsafe impl Plain for DomainInfo {}
// SAFETY: as above.
unsafe impl Plain for KeyLoad {}

/// A memory mapping, unmapped on drop.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(length: usize, protection: libc::c_int, flags: libc::c_int, fd: libc::c_int) -> io::Result<Self> {
        Self::at(length, protection, flags, fd, 0)
    }

    fn at(
        length: usize,
        protection: libc::c_int,
        flags: libc::c_int,
        fd: libc::c_int,
        offset: u64,
    ) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                protection,
                flags,
                fd,
                offset as libc::off_t,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(mapped) if start != libc::MAP_FAILED => Ok(Self {
                start: mapped,
                length,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Writable pages, and one behind them that nobody can reach.
    fn guarded(length: usize, flags: libc::c_int, fd: libc::c_int) -> io::Result<Self> {
        let whole = Self::new(
            length + PAGE,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
        )?;
        // SAFETY: what is replaced belongs to the mapping that was just made, and nobody uses it.
        let start = unsafe {
            libc::mmap(
                whole.start.as_ptr().cast(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_FIXED,
                fd,
                0,
            )
        };
        match start {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            _ => Ok(whole),
        }
    }

    fn check(&self, offset: usize, length: usize) {
        check(offset, length, self.length);
    }
}

fn check(offset: usize, length: usize, limit: usize) {
    assert!(
        length <= limit && offset <= limit - length,
        "outside of the mapping"
    );
}

// SAFETY: a mapping belongs to the process, not to a thread, and what is behind it is copied, never referred to.
unsafe impl Send for Mapping {}
// SAFETY: as above; writing takes `&mut`.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; nobody holds a reference into it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_those_of_linux() {
        assert_eq!((size_of::<Hypercall>(), size_of::<MmapBatch>()), (48, 32));
        assert_eq!((IOCTL_HYPERCALL, IOCTL_MMAPBATCH_V2), (0x305000, 0x205004));
    }

    #[test]
    fn the_kernel_writes_into_a_guarded_mapping_and_not_behind_it() {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let mapping = Mapping::guarded(2 * PAGE, flags, -1).unwrap();
        let zeros = File::open("/dev/zero").unwrap();
        let read = |at: usize| {
            // SAFETY: the kernel checks what it writes to; it is the mapping's or nobody's.
            unsafe { libc::read(zeros.as_raw_fd(), mapping.start.as_ptr().add(at).cast(), 16) }
        };
        assert_eq!(read(0), 16);
        assert_eq!(read(2 * PAGE - 16), 16);
        assert_eq!(read(2 * PAGE), -1);
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn without_xen_the_error_says_so() {
        if !std::path::Path::new(DEVICE).exists() {
            assert!(
                Privcmd::open()
                    .err()
                    .expect("no Xen here")
                    .to_string()
                    .starts_with("not on Xen")
            );
        }
    }

    #[test]
    fn mappings_are_bounds_checked() {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let buffer = || Buffer(Mapping::guarded(PAGE, flags, -1).unwrap());
        let mut one = buffer();
        one.put(PAGE - 8, 0x0102_0304_0506_0708u64);
        assert_eq!(one.get::<[u8; 2]>(PAGE - 2), [2, 1]);
        assert!(std::panic::catch_unwind(|| buffer().get::<u64>(PAGE - 7)).is_err());
        assert!(std::panic::catch_unwind(|| buffer().bytes(usize::MAX, 2)).is_err());
    }
}
