//! A page that is granted and mapped: Linux takes a PFN without memory for it, and its P2M grows by that.
//!
//! With `vmcrypt.grants=held` on the command line the first map is never undone, otherwise each round makes one and
//! undoes it.
#![allow(unsafe_code)] // ioctl() and mmap() are the interface of both drivers.

use super::heartbeat;
use crate::machine::parameter;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::Duration;
use vmcrypt_guest::Role;

const PAGE: usize = 4096;

pub fn play() -> Result<()> {
    let held = parameter("vmcrypt.grants")?.as_deref() == Some("held");
    let kept = held.then(Mapped::new).transpose()?;
    heartbeat(Role::Grants, |round| {
        sleep(Duration::from_millis(950));
        if kept.is_none() {
            Mapped::new()?.compare(round)?;
        }
        Ok(format!("held={held}"))
    })
}

/// A page of the guest's, and the same page by way of a grant.
struct Mapped {
    own: Area,
    granted: Area,
    // Both go when their files are closed.
    _files: (File, File),
}

impl Mapped {
    fn new() -> Result<Self> {
        // A restore makes it another domain.
        let domid = own_domid()?;
        let alloc = open("/dev/xen/gntalloc")?;
        let mut grant = Grant {
            domid,
            writable: 1,
            count: 1,
            ..Grant::default()
        };
        command(&alloc, 5, &mut grant).context("granting a page")?;
        let own = Area::new(&alloc, grant.index)?;

        let device = open("/dev/xen/gntdev")?;
        let mut map = Map {
            count: 1,
            domid: domid.into(),
            reference: grant.reference,
            ..Map::default()
        };
        command(&device, 0, &mut map).context("asking for a map")?;
        let granted = Area::new(&device, map.index).context("mapping a grant")?;
        Ok(Self {
            own,
            granted,
            _files: (alloc, device),
        })
    }

    fn compare(&self, round: u64) -> Result<()> {
        // SAFETY: both areas are mapped, writable, aligned to a page, and reached by this thread alone.
        let seen = unsafe {
            self.own.0.cast::<u64>().write_volatile(round + 1);
            self.granted.0.cast::<u64>().read_volatile()
        };
        ensure!(seen == round + 1, "the granted page shows {seen}");
        Ok(())
    }
}

/// `struct ioctl_gntalloc_alloc_gref` of Linux, for one page.
#[repr(C)]
#[derive(Default)]
struct Grant {
    domid: u16,
    writable: u16,
    count: u32,
    index: u64,
    reference: u32,
}

/// `struct ioctl_gntdev_map_grant_ref` of Linux, for one page.
#[repr(C)]
#[derive(Default)]
struct Map {
    count: u32,
    pad: u32,
    index: u64,
    domid: u32,
    reference: u32,
}

struct Area(*mut libc::c_void);

impl Area {
    fn new(file: &File, offset: u64) -> Result<Self> {
        // SAFETY: a new map, wherever there is room.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset.try_into()?,
            )
        };
        ensure!(at != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        Ok(Self(at))
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: it was mapped in `new` and nobody else has its address.
        unsafe { libc::munmap(self.0, PAGE) };
    }
}

/// An ioctl() of either driver.
fn command<T>(file: &File, number: u64, argument: &mut T) -> Result<()> {
    let request = (size_of::<T>() as u64) << 16 | u64::from(b'G') << 8 | number;
    // SAFETY: the request names the size of the argument, which is a plain structure.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    ensure!(rc == 0, "ioctl: {}", io::Error::last_os_error());
    Ok(())
}

fn open(path: &str) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("opening {path}"))
}

/// What xenstore says: a request is (operation, number, transaction, length) and the text.
fn own_domid() -> Result<u16> {
    const READ: u32 = 2;
    const KEY: &[u8] = b"domid\0";
    let mut store = open("/dev/xen/xenbus")?;
    let mut request: Vec<u8> = [READ, 0, 0, KEY.len() as u32]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    request.extend(KEY);
    store.write_all(&request)?;
    let mut header = [0; 16];
    store.read_exact(&mut header)?;
    let length = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    let mut text = vec![0; length.try_into()?];
    store.read_exact(&mut text)?;
    let text = String::from_utf8(text)?;
    text.trim_end_matches('\0')
        .parse()
        .with_context(|| format!("xenstore says that this is domain {text:?}"))
}
