// SPDX-License-Identifier: GPL-2.0-only
/*
 * Launch measurement: one hash over everything that dom0 loaded into a new
 * domain, the same for the same kernel, initrd and configuration wherever the
 * frames lie.  docs/MEASUREMENT.md of VMCrypt defines it and says what is left
 * out.
 *
 * What dom0 could have written is hashed, or must be what the domain builder
 * leaves there.  It runs when nobody can change anything any more.
 */
#include <xen/domain_page.h>
#include <xen/event.h>
#include <asm/e820.h>
#include <asm/mce.h>
#include <asm/pv/domain.h>
#include <asm/xstate.h>
#include <public/xen.h>

#include "private.h"

/* Pages looked at between two looks at whether something else wants to run. */
#define SLICE 16

/* Entries of a P2M page. */
#define LEAF (PAGE_SIZE / sizeof(unsigned long))

static int unfit(struct vmcrypt_domain *vm, const char *what)
{
    printk(XENLOG_WARNING "VMCrypt: %pd: %s\n", vm->d, what);

    return vmcrypt_refuse(vm, VMC_REFUSAL_LAUNCH_FORM);
}

static bool is_zero(const void *from, size_t len)
{
    const unsigned long *word = from;
    size_t i;

    for ( i = 0; i < len / sizeof(*word); i++ )
        if ( word[i] )
            return false;

    return true;
}

/*
 * As the domain builder leaves it, but for clocks and for what events are
 * pending on the two ports of the rings: those are Xen's, and dom0 may raise
 * events at any time.
 */
static bool shared_info_fresh(const struct vmcrypt_domain *vm)
{
    const struct domain *d = vm->d;
    const struct start_info *si = map_domain_page(vm->start_info);
    const unsigned int ports[] = {
        si->store_evtchn, si->console.domU.evtchn,
    };
    struct shared_info *copy = vmcrypt_scratch();
    unsigned int i;
    bool fresh;

    unmap_domain_page(si);
    memcpy(copy, d->shared_info, PAGE_SIZE);

    for ( i = 0; i < ARRAY_SIZE(copy->vcpu_info); i++ )
    {
        struct vcpu_info *info = &copy->vcpu_info[i];

        if ( info->evtchn_upcall_mask != 1 )
            return false;
        info->evtchn_upcall_pending = info->evtchn_upcall_mask = 0;
        info->evtchn_pending_sel = 0;
        memset(&info->time, 0, sizeof(info->time));
    }
    for ( i = 0; i < ARRAY_SIZE(ports); i++ )
        if ( ports[i] < 8 * sizeof(copy->evtchn_pending) )
            __clear_bit(ports[i], copy->evtchn_pending);
    copy->wc_version = copy->wc_sec = copy->wc_nsec = copy->wc_sec_hi = 0;

    fresh = is_zero(copy, PAGE_SIZE);
    clear_page(copy);

    return fresh;
}

/* What dom0 can set of a vCPU besides its context. */
bool vmcrypt_vcpu_fresh(const struct vcpu *v)
{
    static const struct vcpu_msrs no_msrs;
    const struct xsave_struct *area = v->arch.xsave_area;
    const struct vmce *vmce = &v->arch.vmce;
    struct xsave_struct reset = { .xsave_hdr.xstate_bv = X86_XCR0_X87 };

    reset.fpu_sse.mxcsr = MXCSR_DEFAULT;
    reset.fpu_sse.fcw = FCW_RESET;
    reset.fpu_sse.ftw = FXSAVE_FTW_RESET;

    /* What machine checks a vCPU can have told is the same for all PV ones. */
    return vmce->mcg_cap == current->arch.vmce.mcg_cap &&
           !vmce->mcg_status && !vmce->mcg_ext_ctl &&
           is_zero(vmce->bank, sizeof(vmce->bank)) &&
           !v->fpu_initialised && !v->arch.xcr0 && !v->arch.xcr0_accum &&
           !v->arch.nonlazy_xstate_used &&
           !memcmp(v->arch.msrs, &no_msrs, sizeof(no_msrs)) &&
           !v->arch.pv.sysenter_callback_cs &&
           !v->arch.pv.sysenter_callback_eip &&
           !v->arch.pv.sysenter_disables_events &&
           !v->arch.pv.syscall32_callback_cs &&
           !v->arch.pv.syscall32_callback_eip &&
           !v->arch.pv.syscall32_disables_events &&
           /* Xen resets the area of a vCPU that the guest brings up. */
           (v->vcpu_id ? !v->is_initialised
                       : !memcmp(area, &reset, sizeof(reset)));
}

static int measure_memory_map(struct vmcrypt_domain *vm)
{
    struct domain *d = vm->d;
    bool ok;

    BUILD_BUG_ON(sizeof(*d->arch.e820) != 20);

    spin_lock(&d->arch.e820_lock);
    ok = d->arch.e820 && d->arch.nr_e820 <= VMCRYPT_MAP_ENTRIES;
    if ( ok )
        vmc_measure_add(vm->rust, VMC_SECTION_MEMORY_MAP,
                        (const void *)d->arch.e820,
                        d->arch.nr_e820 * sizeof(*d->arch.e820));
    spin_unlock(&d->arch.e820_lock);

    return ok ? 0 : unfit(vm, "dom0 set no memory map, or a longer one than libxl does");
}

/* The context, without what is the machine's own and with frames as PFNs. */
static int measure_vcpu(struct vmcrypt_domain *vm)
{
    struct vcpu_guest_context *c = xzalloc(struct vcpu_guest_context);

    if ( !c )
        return vmcrypt_refuse(vm, VMC_REFUSAL_NO_MEMORY);

    arch_get_info_guest(vm->d->vcpu[0], (vcpu_guest_context_u){ .nat = c });
    vmcrypt_frames_to_pfns(c);
    memset(&c->fpu_ctxt, 0, sizeof(c->fpu_ctxt)); /* vmcrypt_vcpu_fresh() looked */
    c->ctrlreg[0] &= X86_CR0_TS;
    c->ctrlreg[4] &= PV_CR4_GUEST_MASK;
    vmc_measure_add(vm->rust, VMC_SECTION_VCPU, (const void *)c, sizeof(*c));
    xfree(c);

    return 0;
}

static int measure_begin(struct vmcrypt_domain *vm)
{
    const struct domain *d = vm->d;
    const struct start_info *si = map_domain_page(vm->start_info);
    unsigned long nr_pages = si->nr_pages, shared_info = si->shared_info;
    const struct vcpu *v;
    mfn_t leaf;
    int rc;

    vm->seal.p2m_va = si->mfn_list;
    unmap_domain_page(si);

    if ( nr_pages != vm->seal.total )
        return unfit(vm, "start_info names another number of pages than there are");
    if ( shared_info != virt_to_maddr(d->shared_info) )
        return unfit(vm, "start_info does not name shared_info");

    leaf = vmcrypt_walk(d, pagetable_get_mfn(d->vcpu[0]->arch.guest_table),
                        vm->seal.p2m_va);
    if ( (vm->seal.p2m_va & ~PAGE_MASK) || !mfn_valid(leaf) )
        return unfit(vm, "start_info names no P2M");
    vm->seal.p2m_first = get_gpfn_from_mfn(mfn_x(leaf));

    if ( !shared_info_fresh(vm) )
        return unfit(vm, "shared_info holds more than the domain builder writes");
    for_each_vcpu ( d, v )
        if ( !vmcrypt_vcpu_fresh(v) )
            return unfit(vm, "a vCPU has state besides the first one's context");

    vmc_measure_begin(vm->rust, vm->seal.total, d->max_vcpus);
    rc = measure_memory_map(vm);

    return rc ?: measure_vcpu(vm);
}

/* Each entry must be the page at its PFN; it is hashed as that PFN. */
static bool normalise_leaf(const struct vmcrypt_domain *vm, unsigned long pfn,
                           unsigned long *entry)
{
    unsigned long i, leaf = pfn - vm->seal.p2m_first, first = leaf * LEAF;

    if ( !mfn_eq(vmcrypt_walk(vm->d,
                              pagetable_get_mfn(vm->d->vcpu[0]->arch.guest_table),
                              vm->seal.p2m_va + leaf * PAGE_SIZE),
                 vmcrypt_sealing_mfn(vm, pfn)) )
        return false;

    for ( i = 0; i < LEAF && first + i < vm->seal.total; i++ )
    {
        if ( entry[i] != mfn_x(vmcrypt_sealing_mfn(vm, first + i)) )
            return false;
        entry[i] = first + i;
    }

    return true;
}

static int measure_page(struct vmcrypt_domain *vm, unsigned long pfn)
{
    mfn_t mfn = vmcrypt_sealing_mfn(vm, pfn);
    bool leaf = pfn - vm->seal.p2m_first < DIV_ROUND_UP(vm->seal.total, LEAF);
    void *scratch = vmcrypt_scratch();
    struct start_info *si = scratch;
    enum page_kind kind;

    BUILD_BUG_ON(KIND_PRIVATE != (int)VMC_LAUNCH_DATA);
    BUILD_BUG_ON(KIND_L4 != (int)VMC_LAUNCH_L4);
    BUILD_BUG_ON(KIND_DESCRIPTORS != (int)VMC_LAUNCH_DESCRIPTORS);
    BUILD_BUG_ON(KIND_START_INFO != (int)VMC_LAUNCH_START_INFO);
    BUILD_BUG_ON(KIND_P2M != (int)VMC_LAUNCH_P2M);

    if ( !mfn_valid(mfn) )
        return unfit(vm, "a PFN below the number of pages has no page");
    /* Others may write to the rings at any time. */
    if ( vmcrypt_is_ring(vm, mfn) )
        return leaf ? unfit(vm, "a ring lies in the P2M") : 0;

    kind = vmcrypt_bound_kind(vm, mfn_to_page(mfn));
    if ( kind == KIND_PRIVATE && !leaf )
    {
        const void *page = map_domain_page(mfn);

        if ( !is_zero(page, PAGE_SIZE) )
            vmc_measure_page(vm->rust, pfn, kind, page);
        unmap_domain_page(page);

        return 0;
    }

    vmcrypt_copy_from(scratch, mfn);
    if ( leaf )
    {
        if ( kind != KIND_PRIVATE || !normalise_leaf(vm, pfn, scratch) )
            return unfit(vm, "the P2M does not say where the pages are");
        kind = KIND_P2M;
    }
    else if ( kind == KIND_START_INFO )
    {
        si->shared_info = 0;
        si->store_mfn = get_gpfn_from_mfn(mfn_x(vm->store));
        si->console.domU.mfn = get_gpfn_from_mfn(mfn_x(vm->console));
    }
    else if ( !vmcrypt_normalise(vm, scratch, kind) )
        return unfit(vm, "a page table names a page that is not the domain's");

    vmc_measure_page(vm->rust, pfn, kind, scratch);

    return 0;
}

int vmcrypt_measure(struct vmcrypt_domain *vm)
{
    int rc = vm->seal.cursor ? 0 : measure_begin(vm);

    while ( !rc && vm->seal.cursor < vm->seal.total )
    {
        rc = measure_page(vm, vm->seal.cursor++);
        if ( !rc && !(vm->seal.cursor % SLICE) && hypercall_preempt_check() )
            return -ERESTART;
    }
    if ( rc )
        return rc;

    vmc_measure_end(vm->rust, &vm->measurement);
    printk("VMCrypt: %pd: launch measurement %*phN\n", vm->d,
           (int)sizeof(vm->measurement), vm->measurement);

    return 0;
}
