//! Pages on their way to dom0 and back.

use vmcrypt_core::cipher::{Page, PageKind, PageTag, Tweak};
use vmcrypt_core::domain::{Domain, Enter, Held};
use vmcrypt_core::ids::SessionId;
use vmcrypt_core::policy::{Frame, MapRequest, View, judge};
use vmcrypt_core::{Pfn, PlainClass, Refusal};
use zeroize::Zeroize;

use crate::domain::{VmcDomain, locked};
use crate::imports::Machine;
use crate::{Verdict, backend, host, plain, stack, verdict};

/// One encryption under way.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VmcTicket {
    tweak: Tweak,
    tag: PageTag,
    generation: u64,
}

/// Guest data of no known class.
pub const VMC_FRAME_ORDINARY: u32 = 0;
/// Shared with the guest by Xen.
pub const VMC_FRAME_XEN: u32 = 1;
/// Console or xenstore ring.
pub const VMC_FRAME_RING: u32 = 2;
/// Plain by a class that may change.
pub const VMC_FRAME_CHANGING: u32 = 3;

/// Show the frame itself.
pub const VMC_VIEW_LIVE: u32 = 0;
/// Show a copy in clear.
pub const VMC_VIEW_SNAPSHOT: u32 = 1;
/// Show an encrypted copy.
pub const VMC_VIEW_CIPHER: u32 = 2;

/// Decides what a foreign map shows: one of the views through `view`, or a refusal.
///
/// # Safety
/// The caller holds the lock; `view` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_map_judge(
    domain: *mut VmcDomain,
    frame: u32,
    writable: bool,
    write_back: bool,
    view: *mut u32,
) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, view) = unsafe { (locked(domain), &mut *view) };
    // The class matters to the counters alone, and those are kept where classes change.
    let frame = match frame {
        VMC_FRAME_XEN => Frame::Xen(PlainClass::SharedInfo),
        VMC_FRAME_RING => Frame::Ring,
        VMC_FRAME_CHANGING => Frame::Changing(PlainClass::PageTable),
        _ => Frame::Ordinary,
    };
    verdict(
        judge(
            domain.control.state(),
            MapRequest {
                writable,
                write_back,
                frame,
            },
        )
        .map(|judged| {
            *view = match judged {
                View::Live => VMC_VIEW_LIVE,
                View::Snapshot(_) => VMC_VIEW_SNAPSHOT,
                View::Cipher => VMC_VIEW_CIPHER,
            };
        }),
    )
}

/// Pages of the domain are mapped.
pub const VMC_HELD_PAGES: u32 = 0;
/// Nothing of the domain is mapped but the page that is asked for.
pub const VMC_HELD_NOTHING: u32 = 1;
/// The same, and the domain may run and is not being saved.
pub const VMC_HELD_IDLE: u32 = 2;

/// Begins the export of page `pfn`, before its content is read, opening a session if need be. The domain has `pages` pages,
/// and dom0 holds of them what `held` says. True through `again`: come back later, nothing was begun.
///
/// # Safety
/// `domain` went through `vmc_domain_init`, the caller holds its lock, the other pointers are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_begin(
    domain: *mut VmcDomain,
    pfn: u64,
    pages: u64,
    held: u32,
    ticket: *mut VmcTicket,
    again: *mut bool,
) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, ticket, again) = unsafe { (locked(domain), &mut *ticket, &mut *again) };
    *again = false;
    let held = match held {
        VMC_HELD_NOTHING => Held::Nothing,
        VMC_HELD_IDLE => Held::Idle,
        _ => Held::Pages,
    };
    let mut enter = domain.control.begin_page(held, pages);
    if enter == Enter::Open {
        // What is drawn becomes an identifier that is public; what the drawing leaves behind need not be.
        let mut id = SessionId::default();
        if let Err(refusal) = stack::wiped(|| SessionId::draw(&mut Machine).map(|drawn| id = drawn)) {
            return verdict(Err(refusal));
        }
        stack::wiped(|| domain.derive(&id));
        domain.exported().clear();
        domain.control.open_session(id);
        enter = domain.control.begin_page(Held::Pages, pages);
    }
    match enter {
        Enter::Ready(session) => {
            domain.fresh().insert(Pfn(pfn));
            *ticket = VmcTicket {
                tweak: Tweak {
                    session,
                    pfn: Pfn(pfn),
                    kind: PageKind::PRIVATE,
                },
                tag: PageTag::default(),
                generation: domain.control.generation(),
            };
        }
        Enter::Open | Enter::Again => *again = true,
        Enter::Never => return verdict(Err(Refusal::Dying)),
        Enter::Full => return verdict(Err(Refusal::SessionFull)),
    }
    0
}

/// Copies `from`, a private page, to `page`, encrypted: each byte is read once, though the guest may write it
/// meanwhile. The domain's lock is not held; a ticket is, and the vector registers if the backend uses them.
///
/// # Safety
/// `ticket` comes from [`vmc_page_begin`] and did not end; nobody else reaches `page`; `from` is a page frame.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_encrypt_from(
    domain: *mut VmcDomain,
    ticket: *mut VmcTicket,
    from: *const Page,
    page: *mut Page,
) {
    // SAFETY: the keys do not change while a ticket is out; the rest by the caller's promise.
    unsafe {
        let key = (*domain).keys.page();
        let ticket = &mut *ticket;
        backend::encrypt_from(host::backend(), key, &ticket.tweak, from, page, &mut ticket.tag);
    }
    stack::wipe_below();
}

/// Encrypts a plain page in place, for its tag; `kind` is a number, not 0, for each kind of plain page. The domain's lock
/// is not held; a ticket is, and the vector registers if the backend uses them.
///
/// # Safety
/// `ticket` comes from [`vmc_page_begin`] and did not end; nobody else reaches `page`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_encrypt(
    domain: *mut VmcDomain,
    ticket: *mut VmcTicket,
    kind: u64,
    page: *mut Page,
) {
    // SAFETY: the keys do not change while a ticket is out; the rest by the caller's promise.
    unsafe {
        let key = (*domain).keys.page();
        let ticket = &mut *ticket;
        ticket.tweak.kind = PageKind(kind);
        backend::encrypt(host::backend(), key, &ticket.tweak, page, &mut ticket.tag);
    }
    stack::wipe_below();
}

/// Ends an encryption and accounts the page as exported, unless it became another kind of page meanwhile; wipes the tag.
/// After a refusal nobody may see what was encrypted.
///
/// # Safety
/// As for [`vmc_page_begin`]; `ticket` went through [`vmc_page_encrypt_from`] or [`vmc_page_encrypt`] and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_end(domain: *mut VmcDomain, ticket: *mut VmcTicket) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, ticket) = unsafe { (locked(domain), &mut *ticket) };
    if ticket.generation != domain.control.generation() {
        domain.fresh().remove(ticket.tweak.pfn);
    }
    let plain = ticket.tweak.kind != PageKind::PRIVATE;
    if domain.plain().contains(ticket.tweak.pfn) != plain {
        domain.fresh().remove(ticket.tweak.pfn);
        domain.control.abandon_page();
    } else {
        let own = domain.accounts();
        own.control
            .end_page(ticket.tweak.pfn, plain, &ticket.tag, own.exported, own.tags);
    }
    ticket.tag.0.zeroize();
    verdict(host::intact())
}

/// Ends an export without accounting anything: what was accounted before is not the page's latest content. Wipes the tag.
///
/// # Safety
/// As for [`vmc_page_begin`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_abandon(domain: *mut VmcDomain, ticket: *mut VmcTicket) {
    // SAFETY: by the caller's promise.
    let (domain, ticket) = unsafe { (locked(domain), &mut *ticket) };
    domain.fresh().remove(ticket.tweak.pfn);
    domain.control.abandon_page();
    ticket.tag.0.zeroize();
}

/// Whether an export was begun that did not end yet.
///
/// # Safety
/// As for [`vmc_page_begin`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_in_flight(domain: *mut VmcDomain) -> bool {
    // SAFETY: by the caller's promise.
    unsafe { locked(domain) }.control.page_in_flight()
}

/// The page of an export that was begun may be written without notice: what the export reads may be old when it ends.
///
/// # Safety
/// As for [`vmc_page_begin`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_unnoticed(domain: *mut VmcDomain, ticket: *mut VmcTicket) {
    // SAFETY: by the caller's promise.
    let (domain, ticket) = unsafe { (locked(domain), &mut *ticket) };
    domain.fresh().remove(ticket.tweak.pfn);
    ticket.generation = Domain::NO_GENERATION;
}

/// Takes note that page `pfn` was written.
///
/// # Safety
/// As for [`vmc_page_begin`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_dirtied(domain: *mut VmcDomain, pfn: u64) {
    // SAFETY: by the caller's promise.
    unsafe { locked(domain) }.fresh().remove(Pfn(pfn));
}

/// Notices of writes begin anew: no export under way can be relied upon and, unless it is all `kept`, none before.
///
/// # Safety
/// As for [`vmc_page_begin`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_tracking(domain: *mut VmcDomain, kept: bool) {
    // SAFETY: by the caller's promise.
    let domain = unsafe { locked(domain) };
    domain.control.begin_generation();
    if !kept {
        domain.fresh().clear();
    }
}

/// Forgets that page `pfn` was exported: it is shown otherwise from now on.
///
/// # Safety
/// As for [`vmc_page_begin`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_forget(domain: *mut VmcDomain, pfn: u64) {
    // SAFETY: by the caller's promise.
    forget(unsafe { locked(domain) }, Pfn(pfn));
}

/// Takes note that page `pfn`, noted as plain of `class` or not, left the domain, while a `live` save is under way or not.
///
/// # Safety
/// As for [`vmc_page_begin`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_freed(domain: *mut VmcDomain, pfn: u64, class: u32, live: bool) {
    // SAFETY: by the caller's promise.
    let domain = unsafe { locked(domain) };
    let pfn = Pfn(pfn);
    let owed = live && domain.exported().contains(pfn);
    plain::lose(domain, pfn, class);
    forget(domain, pfn);
    if owed {
        domain.fresh().remove(pfn);
        let own = domain.accounts();
        own.control.owe_page(pfn, own.exported, own.tags);
    }
}

fn forget(domain: &mut VmcDomain, pfn: Pfn) {
    let plain = domain.plain().contains(pfn);
    let own = domain.accounts();
    own.control.forget_page(pfn, plain, own.exported, own.tags);
}

/// First half of taking `page`, which stands at `pfn`, into the digest of a restore: a private page (`kind` 0) is
/// decrypted in place, of a plain one `page` is a copy, which is used up. The other half is [`vmc_page_restored`], with
/// the `tag` that comes of this.
///
/// # Safety
/// A record was opened, the domain cannot run, nobody else reaches `page`; the vector registers are held
/// if the backend uses them. The lock need not be held: several CPUs may restore pages of a domain.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_restore(
    domain: *mut VmcDomain,
    session: *const SessionId,
    pfn: u64,
    kind: u64,
    page: *mut Page,
    tag: *mut PageTag,
) {
    // SAFETY: the keys do not change while a domain is restored; the rest by the caller's promise.
    unsafe {
        let key = (*domain).keys.page();
        let tweak = Tweak {
            session: *session,
            pfn: Pfn(pfn),
            kind: PageKind(kind),
        };
        if tweak.kind == PageKind::PRIVATE {
            backend::decrypt(host::backend(), key, &tweak, page, &mut *tag);
        } else {
            backend::encrypt(host::backend(), key, &tweak, page, &mut *tag);
        }
    }
    stack::wipe_below();
}

/// Second half of [`vmc_page_restore`]; wipes the tag.
///
/// # Safety
/// As for [`vmc_page_begin`]; `kind` and `tag` are those of the first half.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_page_restored(domain: *mut VmcDomain, kind: u64, tag: *mut PageTag) {
    // SAFETY: by the caller's promise.
    let (domain, tag) = unsafe { (locked(domain), &mut *tag) };
    let plain = PageKind(kind) != PageKind::PRIVATE;
    domain.restored.of(plain).add(tag);
    tag.0.zeroize();
}
