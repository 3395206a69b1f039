/* SPDX-License-Identifier: GPL-2.0-only */
/* VMCrypt: hooks of x86 code. Those of common code are in xen/vmcrypt.h. */
#ifndef __ASM_X86_VMCRYPT_H__
#define __ASM_X86_VMCRYPT_H__

#include <xen/cpumask.h>
#include <xen/mm.h>
#include <xen/vmcrypt.h>
#include <asm/page.h>
#include <public/domctl.h>

struct arch_msix;

#ifdef CONFIG_VMCRYPT

int vmcrypt_domain_create(struct domain *d, bool altp2m);
void vmcrypt_domain_destroy(struct domain *d);

/*
 * What of the machine dom0 may have: before its devices' view of memory is made,
 * and after.  The ports that put the machine to sleep are not its own any more;
 * true if an access of it was made without the bit that does so.
 */
int vmcrypt_pin_machine(struct domain *d);
int vmcrypt_dom0_built(struct domain *d);
bool vmcrypt_sleep_read(const struct domain *d, unsigned int port,
                        unsigned int bytes, uint32_t *data);
bool vmcrypt_sleep_write(const struct domain *d, unsigned int port,
                         unsigned int bytes, uint32_t data);
bool vmcrypt_pins_mmconf(void);
/* A register of configuration space that dom0 does not write. */
bool vmcrypt_pins_config(unsigned int seg, unsigned int bdf, unsigned int reg,
                         unsigned int size);
/* Where a device's table of interrupts would be. */
bool vmcrypt_denies_msix(unsigned long first, unsigned long last);
bool vmcrypt_denies_msix_entry(const struct arch_msix *msix, paddr_t entry);

/*
 * A present L1 entry with a counted reference on its frame is about to be
 * written into a page table of @pt_dom.  May replace the frame by a replica,
 * which takes the reference over.  On error the reference is dropped.
 *
 * Here and below, what a domain maps of its own costs no more than a look at the
 * owner: guests do so for each page whenever a process begins or ends.
 */
int vmcrypt_map_others_l1e(l1_pgentry_t *nl1e, const struct domain *pt_dom);
static inline int vmcrypt_map_l1e(l1_pgentry_t *nl1e,
                                  const struct domain *pt_dom)
{
    if ( likely(mfn_valid(l1e_get_mfn(*nl1e))) &&
         likely(page_get_owner(l1e_get_page(*nl1e)) == pt_dom) )
        return 0;

    return vmcrypt_map_others_l1e(nl1e, pt_dom);
}

/*
 * A present L1 entry of @l1e_owner that named a valid frame of @pg_owner is
 * gone.  True if that was a replica, whose references are dropped then.  Never
 * fails.
 */
bool vmcrypt_unmap_others_l1e(l1_pgentry_t l1e, const struct domain *l1e_owner);
static inline bool vmcrypt_unmap_l1e(l1_pgentry_t l1e,
                                     const struct domain *pg_owner,
                                     const struct domain *l1e_owner)
{
    return unlikely(pg_owner != l1e_owner) &&
           vmcrypt_unmap_others_l1e(l1e, l1e_owner);
}

/*
 * Whether a CPU that did not run the page's owner may still write to it, by an
 * entry that another domain had and that is gone.  Told once: the caller flushes.
 */
bool vmcrypt_others_may_write(const struct page_info *page);

/* A grant of @frame is mapped in a page table of another domain, or was. */
void vmcrypt_grant_mapped(mfn_t frame, const struct domain *mapper);
void vmcrypt_grant_unmapped(mfn_t frame, const struct domain *mapper);

/*
 * The frame's type count left zero and the type is validated, or it is not any
 * more, after having been @type.
 */
void vmcrypt_type_gained(struct page_info *page);
void vmcrypt_type_lost(struct page_info *page, unsigned long type);
/* The page is about to get another PFN, and has got it. */
void vmcrypt_pfn_lost(struct page_info *page);
void vmcrypt_pfn_gained(struct page_info *page);

/*
 * Log-dirty, all with the paging lock held or the domain paused.  A page was
 * marked, or could not be; the bitmap was harvested, the mode switched.
 */
void vmcrypt_dirtied(struct domain *d, unsigned long pfn, bool marked);
enum vmcrypt_log { VMCRYPT_LOG_OFF, VMCRYPT_LOG_ON, VMCRYPT_LOG_CLEANED };
void vmcrypt_log_dirty(struct domain *d, enum vmcrypt_log now);

/* The vCPU XSAVE record, which carries the sealed record; 1: not ours. */
int vmcrypt_get_extstate(struct domain *d, struct xen_domctl_vcpuextstate *evc);
int vmcrypt_set_extstate(struct domain *d, struct xen_domctl_vcpuextstate *evc);

/*
 * The machine goes down, or Xen does: keys are wiped, and nothing will be
 * encrypted any more.  To be called early, while other CPUs may be anywhere, and
 * then once more when they were stopped, all but those in @running.  Neither
 * takes a lock, neither fails.
 */
void vmcrypt_going_down(void);
void vmcrypt_gone_down(const cpumask_t *running, void *frame);

/* This CPU stops for good, maybe in the middle of a page. */
void vmcrypt_cpu_stops(void);

/* For functions that never return: what led to them is wiped, too. */
#define vmcrypt_gone_for_good(running) \
    vmcrypt_gone_down(running, __builtin_frame_address(0))

#else /* !CONFIG_VMCRYPT */

static inline int vmcrypt_domain_create(struct domain *d, bool altp2m)
{ return 0; }
static inline void vmcrypt_domain_destroy(struct domain *d) {}
static inline int vmcrypt_pin_machine(struct domain *d) { return 0; }
static inline int vmcrypt_dom0_built(struct domain *d) { return 0; }
static inline bool vmcrypt_sleep_read(const struct domain *d,
                                      unsigned int port, unsigned int bytes,
                                      uint32_t *data)
{ return false; }
static inline bool vmcrypt_sleep_write(const struct domain *d,
                                       unsigned int port, unsigned int bytes,
                                       uint32_t data)
{ return false; }
static inline bool vmcrypt_pins_mmconf(void) { return false; }
static inline bool vmcrypt_pins_config(unsigned int seg, unsigned int bdf,
                                       unsigned int reg, unsigned int size)
{ return false; }
static inline bool vmcrypt_denies_msix(unsigned long first, unsigned long last)
{ return false; }
static inline bool vmcrypt_denies_msix_entry(const struct arch_msix *msix,
                                             paddr_t entry)
{ return false; }
static inline int vmcrypt_map_l1e(l1_pgentry_t *nl1e,
                                  const struct domain *pt_dom)
{ return 0; }
static inline bool vmcrypt_unmap_l1e(l1_pgentry_t l1e,
                                     const struct domain *pg_owner,
                                     const struct domain *l1e_owner)
{ return false; }
static inline bool vmcrypt_others_may_write(const struct page_info *page)
{ return false; }
static inline void vmcrypt_grant_mapped(mfn_t frame,
                                        const struct domain *mapper) {}
static inline void vmcrypt_grant_unmapped(mfn_t frame,
                                          const struct domain *mapper) {}
static inline void vmcrypt_pfn_lost(struct page_info *page) {}
static inline void vmcrypt_pfn_gained(struct page_info *page) {}
static inline void vmcrypt_type_gained(struct page_info *page) {}
static inline void vmcrypt_type_lost(struct page_info *page,
                                     unsigned long type) {}
static inline void vmcrypt_dirtied(struct domain *d, unsigned long pfn,
                                   bool marked) {}
enum vmcrypt_log { VMCRYPT_LOG_OFF, VMCRYPT_LOG_ON, VMCRYPT_LOG_CLEANED };
static inline void vmcrypt_log_dirty(struct domain *d, enum vmcrypt_log now) {}
static inline int vmcrypt_get_extstate(struct domain *d,
                                       struct xen_domctl_vcpuextstate *evc)
{ return 1; }
static inline int vmcrypt_set_extstate(struct domain *d,
                                       struct xen_domctl_vcpuextstate *evc)
{ return 1; }
static inline void vmcrypt_going_down(void) {}
static inline void vmcrypt_cpu_stops(void) {}
#define vmcrypt_gone_down(running, frame) ((void)0)
#define vmcrypt_gone_for_good(running) ((void)0)

#endif /* CONFIG_VMCRYPT */

#endif /* __ASM_X86_VMCRYPT_H__ */
