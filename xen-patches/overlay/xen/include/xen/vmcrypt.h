/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VMCrypt: what common code calls so that dom0 sees a protected guest's memory
 * and registers only in encrypted form.
 *
 * With CONFIG_VMCRYPT=n every hook is empty and Xen's code is what it was.
 */
#ifndef __XEN_VMCRYPT_H__
#define __XEN_VMCRYPT_H__

#include <xen/cpu.h>
#include <xen/sched.h>

struct pci_dev;
struct pci_dev_info;
struct xen_domctl;
struct xen_processor_performance;

/* Stand for the hypercall number where debug keys and shadow ops are judged. */
#define VMCRYPT_DEBUG_KEYS 63
#define VMCRYPT_SHADOW_OPS 61

#ifdef CONFIG_VMCRYPT

/*
 * Before the domain is unpaused: the first time verify, decrypt, seal; each time
 * see that it does not live elsewhere.  -ERESTART asks to be called again; any
 * other error leaves the domain paused.  Called with the domctl lock held.
 */
int vmcrypt_unpause(struct domain *d);

/* The guest is about to suspend itself; -ERESTART asks to be called again. */
int vmcrypt_prepare_suspend(struct domain *d);
void vmcrypt_suspended(struct domain *d);
void vmcrypt_resumed(struct domain *d);

/* Xen ended it, for good. */
static inline void vmcrypt_crashed(struct domain *d) { d->crashed = true; }

/* dom0 wants it to go on; 0 unless it does elsewhere.  Domctl lock held. */
int vmcrypt_may_resume(struct domain *d);

/* The frame leaves its domain; true if it must be scrubbed. */
bool vmcrypt_page_freed(struct domain *d, const struct page_info *page);

/*
 * True if operation @op of hypercall @family is not @by's to do to domain @d, or,
 * without a domain, nobody's to do to this machine.
 */
bool vmcrypt_denies(struct domain *d, const struct domain *by,
                    unsigned int family, unsigned long op);
bool vmcrypt_host_denies(unsigned int family, unsigned long op);

/*
 * True if @d does not grant the page.  One that Xen shares with it is none of its
 * memory, and who writes to its grant table writes grants.
 */
bool vmcrypt_denies_grant(const struct domain *d, const struct page_info *page);

/* True if it is not to name these frames, whoever it is for. */
bool vmcrypt_denies_frames(unsigned int family, unsigned long op,
                           unsigned long first, unsigned long last);

/* What dom0 says of devices and CPUs; the lock of devices is held. */
int vmcrypt_check_device(unsigned int seg, unsigned int bus,
                         unsigned int devfn, const struct pci_dev_info *info);
bool vmcrypt_keeps_interrupt(struct domain *d, int pirq);
bool vmcrypt_keeps_device(const struct pci_dev *pdev);
int vmcrypt_check_performance(const struct xen_processor_performance *perf,
                              unsigned int cpu);

/* CPUs do not come or go while what they keep is looked at. */
static inline bool vmcrypt_hold_cpus(void) { return get_cpu_maps(); }
static inline void vmcrypt_release_cpus(void) { put_cpu_maps(); }

/* Firmware that Xen calls lies at these frames. */
void vmcrypt_firmware(unsigned long first, unsigned long last);

/* Of several operations each is to be judged: @d may be sealed meanwhile. */
static inline bool vmcrypt_judges_each(const struct domain *d,
                                       const struct domain *by)
{
    return d != by;
}

/*
 * True if what runs in @d must not be printed where dom0 can read it; without a
 * domain, what Xen does.
 */
bool vmcrypt_hides(struct domain *d);

/* Policy for a domctl on @d: 0 or an error. */
int vmcrypt_domctl(struct domain *d, const struct xen_domctl *op);

/*
 * The domain is being destroyed: its keys are wiped.  -ERESTART asks to be
 * called again; any number of calls.  Called with the domctl lock held.
 */
int vmcrypt_domain_kill(struct domain *d);

/* The domain may get that many pages.  Called with the domctl lock held. */
int vmcrypt_max_pages(struct domain *d, uint64_t pages);

/*
 * The domain is about to have pages from @pfn on; false if Xen has no memory for
 * that now.
 */
bool vmcrypt_admits_pfn(struct domain *d, unsigned long pfn,
                        unsigned int order);

/*
 * What is printed of @len bytes that dom0 writes to the console, at most 128;
 * @len becomes its length.  Called with the console's lock held.
 */
const char *vmcrypt_dom0_says(const char *text, unsigned int *len);

/*
 * Registers.  The check gives 0 if the context may be loaded as it is, 1 if it
 * was dealt with; a NULL context stands for a reset.
 */
void vmcrypt_redact_context(struct vcpu *v, struct vcpu_guest_context *ctxt);
int vmcrypt_check_context(struct vcpu *v,
                          const struct vcpu_guest_context *ctxt);

#else /* !CONFIG_VMCRYPT */

static inline int vmcrypt_unpause(struct domain *d) { return 0; }
static inline int vmcrypt_prepare_suspend(struct domain *d) { return 0; }
static inline void vmcrypt_suspended(struct domain *d) {}
static inline void vmcrypt_resumed(struct domain *d) {}
static inline void vmcrypt_crashed(struct domain *d) {}
static inline int vmcrypt_may_resume(struct domain *d) { return 0; }
static inline bool vmcrypt_page_freed(struct domain *d,
                                      const struct page_info *page)
{ return false; }
static inline bool vmcrypt_denies(struct domain *d, const struct domain *by,
                                  unsigned int family, unsigned long op)
{ return false; }
static inline bool vmcrypt_host_denies(unsigned int family, unsigned long op)
{ return false; }
static inline bool vmcrypt_denies_frames(unsigned int family, unsigned long op,
                                         unsigned long first,
                                         unsigned long last)
{ return false; }
static inline int vmcrypt_check_device(unsigned int seg, unsigned int bus,
                                       unsigned int devfn,
                                       const struct pci_dev_info *info)
{ return 0; }
static inline bool vmcrypt_keeps_interrupt(struct domain *d, int pirq)
{ return false; }
static inline bool vmcrypt_keeps_device(const struct pci_dev *pdev)
{ return false; }
static inline int vmcrypt_check_performance(
    const struct xen_processor_performance *perf, unsigned int cpu)
{ return 0; }
static inline bool vmcrypt_hold_cpus(void) { return true; }
static inline void vmcrypt_release_cpus(void) {}
static inline void vmcrypt_firmware(unsigned long first, unsigned long last) {}
static inline bool vmcrypt_denies_grant(const struct domain *d,
                                        const struct page_info *page)
{ return false; }
static inline bool vmcrypt_judges_each(const struct domain *d,
                                       const struct domain *by)
{ return false; }
static inline bool vmcrypt_hides(struct domain *d) { return false; }
static inline int vmcrypt_domctl(struct domain *d, const struct xen_domctl *op)
{ return 0; }
static inline int vmcrypt_domain_kill(struct domain *d) { return 0; }
static inline int vmcrypt_max_pages(struct domain *d, uint64_t pages)
{ return 0; }
static inline bool vmcrypt_admits_pfn(struct domain *d, unsigned long pfn,
                                      unsigned int order)
{ return true; }
static inline const char *vmcrypt_dom0_says(const char *text,
                                            unsigned int *len)
{ return text; }
static inline void vmcrypt_redact_context(struct vcpu *v,
                                          struct vcpu_guest_context *ctxt) {}
static inline int vmcrypt_check_context(struct vcpu *v,
                                        const struct vcpu_guest_context *ctxt)
{ return 0; }

#endif /* CONFIG_VMCRYPT */

#endif /* __XEN_VMCRYPT_H__ */
