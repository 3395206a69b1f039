// SPDX-License-Identifier: GPL-2.0-only
/*
 * Life of a protected domain.
 */
#include <xen/init.h>
#include <xen/param.h>
#include <xen/vmap.h>
#include <asm/paging.h>
#include <asm/setup.h>
#include <public/sched.h>

#include "private.h"

/* Whether PV guests are protected, and whether there may be others. */
bool __ro_after_init opt_vmcrypt = true;
static bool __ro_after_init opt_strict;

static int __init cf_check parse_vmcrypt(const char *s)
{
    bool strict = !strcmp(s, "strict");
    int on = parse_bool(s, NULL);

    if ( !strict && on < 0 )
        return -EINVAL;
    opt_strict = strict;
    opt_vmcrypt = strict || on;

    return 0;
}
custom_param("vmcrypt", parse_vmcrypt);

/* Domains begin and end on several CPUs at once. */
static atomic_t nr_domains;

int vmcrypt_replica_init(void);
int vmcrypt_map_init(void);

static int __init cf_check vmcrypt_init(void)
{
    struct VmcHostInfo info = {};
    uint32_t verdict;

    if ( !opt_vmcrypt )
    {
        printk("VMCrypt: off: dom0 can read every guest's memory\n");
        return 0;
    }

    /* It maps guests' pages by other means than page tables. */
    if ( opt_dom0_pvh )
        panic("VMCrypt: dom0=pvh reaches guests' memory past VMCrypt; boot dom0 as PV, or say vmcrypt=off\n");

    /* Guests that were promised protection must not run without it. */
    vmcrypt_backend_init();
    verdict = vmcrypt_draw_keys();
    if ( verdict == VMC_REFUSAL_STUCK_ENTROPY + 1 )
        panic("VMCrypt: RDSEED or RDRAND is stuck, it repeats itself; power the machine off and on, update its firmware, or run guests unprotected with vmcrypt=off\n");
    if ( verdict )
        panic("VMCrypt: no RDSEED or RDRAND to draw keys from; vmcrypt=off runs guests unprotected\n");
    if ( vmcrypt_replica_init() || vmcrypt_map_init() )
        panic("VMCrypt: no memory for the replica pool\n");

    vmc_host_describe(&info);
    vmcrypt_replica_describe(&info);
    printk("VMCrypt: protecting every PV guest%s; HCTR2-AES-256 by %s, %"PRIu64" replica frames\n",
           opt_strict ? ", and there are no others" : "",
           vmcrypt_backend_name(), info.pool_frames);
    printk("VMCrypt: host key id %*phN\n", 16, info.key_id);
    /* There is no dom0 yet that could print another one. */
    vmcrypt_print_key();
    vmcrypt_console_init();

    return 0;
}
__initcall(vmcrypt_init);

int vmcrypt_domain_create(struct domain *d, bool altp2m)
{
    struct vmcrypt_domain *vm;

    if ( !opt_vmcrypt || is_hardware_domain(d) || is_system_domain(d) )
        return 0;

    if ( !is_pv_domain(d) && opt_strict )
    {
        vmcrypt_denied(__HYPERVISOR_domctl, XEN_DOMCTL_createdomain,
                       "vmcrypt=strict admits 64-bit PV guests alone");
        return -EPERM;
    }

    /*
     * Shadow paging of an HVM domain, nested virtualisation and altp2m are large
     * and lead to other domains' memory.
     */
    if ( !is_pv_domain(d) &&
         (!hap_enabled(d) || (d->options & XEN_DOMCTL_CDF_nested_virt) ||
          altp2m) )
    {
        vmcrypt_denied(__HYPERVISOR_domctl, XEN_DOMCTL_createdomain,
                       "an HVM domain needs hap=1, and neither nestedhvm nor altp2m");
        return -EPERM;
    }

    if ( !is_pv_domain(d) )
    {
        printk(XENLOG_WARNING
               "VMCrypt: %pd is not PV and not protected: dom0 can read its memory\n",
               d);
        return 0;
    }

    vm = xzalloc(struct vmcrypt_domain);
    if ( !vm )
        return -ENOMEM;
    vm->rust = _xzalloc(vmc_domain_size(), 16);
    if ( !vm->rust )
    {
        xfree(vm);
        return -ENOMEM;
    }

    vm->d = d;
    spin_lock_init(&vm->lock);
    spin_lock_init(&vm->p2m_lock);
    vm->start_info = vm->console = vm->store = INVALID_MFN;
    vmc_domain_init(vm->rust);
    vmcrypt_oracle_init(vm);
    d->arch.vmcrypt = vm;
    atomic_inc(&nr_domains);

    return 0;
}

/* All pages are gone, so no replica is left. */
void vmcrypt_domain_destroy(struct domain *d)
{
    struct vmcrypt_domain *vm = d->arch.vmcrypt;

    if ( !vm )
        return;

    d->arch.vmcrypt = NULL;
    atomic_dec(&nr_domains);
    vmcrypt_seal_free(vm);
    vmcrypt_ledger_settle(vm, false);
    /* Most of this is done, unless the domain was never finished. */
    vmcrypt_drop_record(vm);
    vmcrypt_wipe(vm->rust, vmc_domain_size());
    vmcrypt_detach(vm);
    xfree(vm->rust);
    xfree(vm);
}

/* A P2M has leaves for memory that a guest may get, too. */
static unsigned long leaves_for(unsigned long pfns)
{
    return vmcrypt_pfn_limit(pfns) / 512;
}

/* Memory that grows with the domain.  Called while the domain cannot run. */
int vmcrypt_attach(struct vmcrypt_domain *vm, unsigned long pfns)
{
    unsigned long i, words = BITS_TO_LONGS(pfns);

    vmcrypt_detach(vm);
    vm->pfns = pfns;
    vm->leaves = leaves_for(pfns);
    vm->plain = vzalloc(words * sizeof(*vm->plain));
    vm->exported = vzalloc(words * sizeof(*vm->exported));
    vm->fresh = vzalloc(words * sizeof(*vm->fresh));
    vm->tags = vzalloc(pfns * 16);
    vm->leaf = vzalloc(vm->leaves * sizeof(*vm->leaf));
    if ( !vm->plain || !vm->exported || !vm->fresh || !vm->tags || !vm->leaf )
    {
        vmcrypt_detach(vm);
        return -ENOMEM;
    }
    for ( i = 0; i < vm->leaves; i++ )
        vm->leaf[i] = INVALID_MFN;

    spin_lock(&vm->lock);
    vmc_domain_attach(vm->rust, vm->plain, vm->exported, vm->fresh, vm->tags,
                      pfns);
    spin_unlock(&vm->lock);

    return 0;
}

/* The machine may go down at any line: what is freed is no longer named. */
static void free_tags(struct vmcrypt_domain *vm)
{
    uint8_t *tags = vm->tags;

    if ( tags && vm->wiped < vm->pfns * 16 )
        vmcrypt_wipe(tags, vm->pfns * 16);
    vm->tags = NULL;
    barrier();
    vfree(tags);
    vm->wiped = 0;
}

void vmcrypt_detach(struct vmcrypt_domain *vm)
{
    spin_lock(&vm->lock);
    vmc_domain_attach(vm->rust, NULL, NULL, NULL, NULL, 0);
    spin_unlock(&vm->lock);

    free_tags(vm);
    vfree(vm->plain);
    vfree(vm->exported);
    vfree(vm->fresh);
    vfree(vm->leaf);
    vm->plain = vm->exported = vm->fresh = NULL;
    vm->leaf = NULL;
    vm->pfns = vm->leaves = vm->p2m_cursor = vm->p2m_walked = 0;
}

enum VmcState vmcrypt_state(struct vmcrypt_domain *vm)
{
    enum VmcState state;

    spin_lock(&vm->lock);
    state = vmc_domain_state(vm->rust);
    spin_unlock(&vm->lock);

    return state;
}

bool vmcrypt_enter(struct vmcrypt_domain *vm, enum VmcState state)
{
    bool entered;

    spin_lock(&vm->lock);
    entered = vmc_domain_enter(vm->rust, state);
    spin_unlock(&vm->lock);

    return entered;
}

/* Everything but a domain that dom0 is still building. */
bool vmcrypt_sealed(struct vmcrypt_domain *vm)
{
    return vmcrypt_state(vm) != VMC_STATE_BUILDING;
}

int vmcrypt_refuse(struct vmcrypt_domain *vm, enum VmcRefusal why)
{
    const uint8_t *text = NULL;
    size_t len = vmc_refusal_text(why, &text);
    int error;

    spin_lock(&vm->lock);
    error = vmc_domain_refuse(vm->rust, why);
    spin_unlock(&vm->lock);

    /* A flood of one reason must not hide the first of another. */
    if ( !test_and_set_bit(why, vm->told) || printk_ratelimit() )
        printk(XENLOG_WARNING "VMCrypt: %pd: %.*s\n", vm->d, (int)len,
               (const char *)text);

    return -error;
}

bool vmcrypt_hides(struct domain *d)
{
    return d ? vmcrypt_of(d) != NULL : atomic_read(&nr_domains);
}

void vmcrypt_domains_describe(struct VmcHostInfo *info)
{
    if ( opt_strict )
        info->mode = VMC_MODE_STRICT;
    info->domains = atomic_read(&nr_domains);
}

/*
 * dom0 needs start_info where a guest is suspended, and sees it only there.  The
 * guest says which page that is: the one that the domain builder made may be
 * ordinary memory by now, since a boot loader gives its kernel another one.
 */
void vmcrypt_hide_start_info(struct vmcrypt_domain *vm)
{
    if ( mfn_valid(vm->start_info) )
        vmcrypt_lose(vm, get_gpfn_from_mfn(mfn_x(vm->start_info)),
                     VMC_CLASS_START_INFO);
    vm->start_info = INVALID_MFN;
}

static void name_start_info(struct vmcrypt_domain *vm, mfn_t mfn)
{
    const struct page_info *page = mfn_valid(mfn) ? mfn_to_page(mfn) : NULL;

    vmcrypt_hide_start_info(vm);
    if ( !page || page_get_owner(page) != vm->d || is_special_page(page) ||
         vmcrypt_is_ring(vm, mfn) ||
         !vmcrypt_gain(vm, get_gpfn_from_mfn(mfn_x(mfn)), VMC_CLASS_START_INFO) )
        return;

    vm->start_info = mfn;
    /* A live save has sent it as any other page. */
    paging_mark_dirty(vm->d, mfn);
}

int vmcrypt_prepare_suspend(struct domain *d)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    int rc;

    if ( !vm || vmcrypt_state(vm) != VMC_STATE_RUNNING )
        return 0;

    if ( !vm->p2m_marked )
    {
        rc = vmcrypt_mark_p2m(vm, vmcrypt_p2m_place(d), WALK_SUSPEND);
        if ( rc )
            return rc;
        vm->p2m_marked = true;
    }

    rc = vmcrypt_replica_refresh(vm);
    if ( !rc )
    {
        vm->p2m_marked = false;
        vm->suspends = current;
        /* An argument of the call (public/sched.h, SCHEDOP_shutdown). */
        name_start_info(vm, _mfn(guest_cpu_user_regs()->rdx));
    }

    return rc;
}

void vmcrypt_suspended(struct domain *d)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);

    /* Only if the guest itself asked: dom0 must not choose the moment. */
    if ( vm && vm->suspends && d->shutdown_code == SHUTDOWN_suspend &&
         vmcrypt_enter(vm, VMC_STATE_SUSPENDED) )
        vmcrypt_oracle_ask(vm);
}

void vmcrypt_resumed(struct domain *d)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);

    if ( !vm )
        return;

    /*
     * A guest that resumes where it asked to be suspended must learn that:
     * otherwise it takes PFNs in start_info for frames of its own choice.  Who
     * shut it down does not matter: dom0 may have been faster, for another
     * reason, and then its own call gave 0.
     */
    if ( vm->suspends )
    {
        vm->suspends->arch.user_regs.rax = 1;
        vmcrypt_hide_start_info(vm);
    }
    vm->suspends = NULL;
    if ( vmcrypt_state(vm) == VMC_STATE_SUSPENDED )
        vmcrypt_enter(vm, VMC_STATE_RUNNING);
}

bool vmcrypt_page_freed(struct domain *d, const struct page_info *page)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    mfn_t mfn = page_to_mfn(page);
    unsigned long pfn = get_gpfn_from_mfn(mfn_x(mfn));
    /* A page that is freed has no type, so it is plain as a leaf or not. */
    enum VmcClass class = VMC_CLASS_P2M;

    if ( likely(!vm) )
        return false;

    if ( mfn_eq(mfn, vm->start_info) )
    {
        vm->start_info = INVALID_MFN;
        class = VMC_CLASS_START_INFO;
    }
    else if ( vmcrypt_is_ring(vm, mfn) )
    {
        if ( mfn_eq(mfn, vm->console) )
            vm->console = INVALID_MFN;
        else
            vm->store = INVALID_MFN;
        class = VMC_CLASS_RING;
    }

    vmcrypt_reset_maps(mfn);
    spin_lock(&vm->lock);
    /* A live save may have sent it; what receives it would not take it back. */
    vmc_page_freed(vm->rust, pfn, class, paging_mode_log_dirty(d));
    spin_unlock(&vm->lock);

    return true;
}

/* Gets the domain, which is sealed, tables for PFNs below @pfns. */
static int grow(struct vmcrypt_domain *vm, unsigned long pfns)
{
    unsigned long i, old, leaves = leaves_for(pfns);
    uint64_t *plain, *exported, *fresh;
    mfn_t *leaf;
    uint8_t *tags;
    bool exporting, grown = false;

    plain = vzalloc(BITS_TO_LONGS(pfns) * sizeof(*plain));
    exported = vzalloc(BITS_TO_LONGS(pfns) * sizeof(*exported));
    fresh = vzalloc(BITS_TO_LONGS(pfns) * sizeof(*fresh));
    tags = vzalloc(pfns * 16);
    leaf = vzalloc(leaves * sizeof(*leaf));
    if ( !plain || !exported || !fresh || !tags || !leaf )
    {
        vfree(plain);
        vfree(exported);
        vfree(fresh);
        vfree(tags);
        vfree(leaf);
        return vmcrypt_refuse(vm, VMC_REFUSAL_NO_MEMORY);
    }
    for ( i = 0; i < leaves; i++ )
        leaf[i] = INVALID_MFN;

    spin_lock(&vm->p2m_lock);
    spin_lock(&vm->lock);
    old = vm->pfns;
    exporting = vmc_domain_exporting(vm->rust, vmcrypt_idle(vm, 0));
    /* Another vCPU may have been faster, or dom0 have begun to destroy it. */
    if ( !exporting && pfns > old &&
         vmc_domain_state(vm->rust) != VMC_STATE_DYING )
    {
        memcpy(plain, vm->plain, BITS_TO_LONGS(old) * sizeof(*plain));
        memcpy(leaf, vm->leaf, vm->p2m_walked * sizeof(*leaf));
        SWAP(plain, vm->plain);
        SWAP(exported, vm->exported);
        SWAP(fresh, vm->fresh);
        SWAP(tags, vm->tags);
        SWAP(leaf, vm->leaf);
        vm->pfns = pfns;
        vm->leaves = leaves;
        vmc_domain_attach(vm->rust, vm->plain, vm->exported, vm->fresh,
                          vm->tags, pfns);
        grown = true;
    }
    spin_unlock(&vm->lock);
    spin_unlock(&vm->p2m_lock);

    vmcrypt_wipe(tags, (grown ? old : pfns) * 16);
    vfree(plain);
    vfree(exported);
    vfree(fresh);
    vfree(tags);
    vfree(leaf);

    return exporting ? vmcrypt_refuse(vm, VMC_REFUSAL_EXPORTING) : 0;
}

/* A sealed domain may get more pages than it had when it was sealed. */
int vmcrypt_max_pages(struct domain *d, uint64_t pages)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    /* A limit beyond all of the machine's memory is none. */
    unsigned long pfns = min_t(uint64_t, pages, max_page);

    if ( !vm )
        return 0;

    switch ( vmcrypt_state(vm) )
    {
    case VMC_STATE_BUILDING:
        return 0;

    case VMC_STATE_SEALING:
    case VMC_STATE_REFUSED:
        return vmcrypt_refuse(vm, VMC_REFUSAL_SEALING);

    case VMC_STATE_DYING:
        return vmcrypt_refuse(vm, VMC_REFUSAL_DYING);

    default:
        break;
    }

    return pfns > vm->pfns ? grow(vm, pfns) : 0;
}

/*
 * A guest takes PFNs as it likes, the highest first if it is Linux.  The tables
 * cannot grow while they are in use; then the guest asks again later, as if Xen
 * had no memory for it.  A page that lies too far away for them is the guest's
 * all the same, and no record will be sealed while it has it.
 */
bool vmcrypt_admits_pfn(struct domain *d, unsigned long pfn,
                        unsigned int order)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    unsigned long pfns, limit;

    pfn += (1UL << order) - 1;
    if ( likely(!vm) || pfn < vm->pfns || !vmcrypt_sealed(vm) )
        return true;

    limit = vmcrypt_pfn_limit(domain_tot_pages(d));
    if ( pfn >= limit )
    {
        vm->beyond = pfn;
        return true;
    }

    /* Not for each page anew. */
    pfns = ROUNDUP(max(pfn + 1, vm->pfns + vm->pfns / 4), 1UL << 15);

    return !grow(vm, min(pfns, limit));
}
