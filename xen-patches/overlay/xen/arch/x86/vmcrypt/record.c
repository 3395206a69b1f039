// SPDX-License-Identifier: GPL-2.0-only
/*
 * The sealed record on its way through the vCPU-0 XSAVE record, and the
 * registers in it.
 */
#include <xen/guest_access.h>
#include <xen/vmap.h>
#include <asm/i387.h>
#include <asm/xstate.h>
#include <asm/cpu-policy.h>
#include <asm/e820.h>
#include <asm/mce.h>
#include <asm/p2m.h>
#include <public/hvm/save.h>

#include "private.h"

/* The first state in the record. */
struct domain_state {
    struct arch_shared_info arch;
    struct vcpu_info vcpu_info[XEN_LEGACY_MAX_VCPUS];
    struct cpu_policy policy;
    uint32_t map_entries;
    struct e820entry map[VMCRYPT_MAP_ENTRIES];
};

/*
 * Of each vCPU one more.  Frame numbers are PFNs; the XSAVE area is in
 * uncompressed form.
 */
struct vcpu_state {
    struct vcpu_guest_context ctxt;
    struct vcpu_msrs msrs;
    struct xen_domctl_ext_vcpucontext ext;
    struct hvm_vmce_vcpu vmce;
    uint64_t xcr0, xcr0_accum;
    uint32_t vcpu_id, xsave_size;
    uint8_t xsave[] __aligned(64);
};

/* What libxc takes for an empty XSAVE record: XCR0 and its accumulation. */
struct empty_xsave {
    uint64_t xcr0, xcr0_accum;
};

static unsigned int state_size(void)
{
    unsigned int size = sizeof(struct vcpu_state);

    if ( cpu_has_xsave )
        size += xstate_uncompressed_size(xfeature_mask);

    return ROUNDUP(max_t(unsigned int, size, sizeof(struct domain_state)), 64);
}

void vmcrypt_drop_record(struct vmcrypt_domain *vm)
{
    void *record = vm->record;

    vmcrypt_wipe(record, vm->record_size);
    /* Should the machine go down now, it is no longer there to be wiped. */
    vm->record = NULL;
    barrier();
    vm->record_size = 0;
    vfree(record);
}

void vmcrypt_forget_record(struct vmcrypt_domain *vm)
{
    vmcrypt_drop_record(vm);
    spin_lock(&vm->lock);
    vmc_record_forget(vm->rust);
    spin_unlock(&vm->lock);
}

/* Whatever happens from here on, vmcrypt_drop_record() ends it. */
static void keep_record(struct vmcrypt_domain *vm, void *record, size_t size)
{
    vm->record_size = size;
    barrier();
    vm->record = record;
}

/* --- What dom0 sees of registers -------------------------------------- */

static void redact(struct vcpu *v, struct vcpu_guest_context *c,
                   bool start_info)
{
    struct vmcrypt_domain *vm = v->domain->arch.vmcrypt;
    struct vcpu_guest_context *full = c;
    unsigned long flags = full->flags & ~VGCF_i387_valid, rdx = 0;
    unsigned long gdt[ARRAY_SIZE(c->gdt_frames)];
    unsigned long gdt_ents = full->gdt_ents, ldt_base = full->ldt_base;
    unsigned long ldt_ents = full->ldt_ents, cr1 = full->ctrlreg[1];
    unsigned long cr3 = full->ctrlreg[3], vm_assist = full->vm_assist;

    /* libxc turns it into a PFN; nothing but start_info may be shown. */
    if ( start_info && !v->vcpu_id &&
         full->user_regs.rdx == mfn_x(vm->start_info) )
        rdx = full->user_regs.rdx;

    memcpy(gdt, full->gdt_frames, sizeof(gdt));
    memset(c, 0, sizeof(*c));
    c->flags = flags;
    c->user_regs.rdx = rdx;
    memcpy(c->gdt_frames, gdt, sizeof(gdt));
    c->gdt_ents = gdt_ents;
    c->ldt_base = ldt_base;
    c->ldt_ents = ldt_ents;
    c->ctrlreg[1] = cr1;
    c->ctrlreg[3] = cr3;
    c->vm_assist = vm_assist;
}

void vmcrypt_redact_context(struct vcpu *v, struct vcpu_guest_context *ctxt)
{
    struct vmcrypt_domain *vm = vmcrypt_of(v->domain);

    if ( vm && vmcrypt_sealed(vm) )
        redact(v, ctxt, vmcrypt_state(vm) == VMC_STATE_SUSPENDED);
}

/*
 * A sealed domain's registers cannot be set, but for the one change by which
 * libxc tells a suspended guest that the suspend was cancelled: RAX = 1
 * (tools/libs/guest/xg_resume.c, modify_returncode()).
 */
int vmcrypt_check_context(struct vcpu *v, const struct vcpu_guest_context *ctxt)
{
    struct vmcrypt_domain *vm = vmcrypt_of(v->domain);
    struct vcpu_guest_context *shown;
    int rc;

    if ( !vm || !vmcrypt_sealed(vm) )
        return 0;

    if ( vmcrypt_state(vm) != VMC_STATE_SUSPENDED || v->vcpu_id || !ctxt )
        return vmcrypt_refuse(vm, VMC_REFUSAL_DENIED);

    shown = xzalloc(struct vcpu_guest_context);
    if ( !shown )
        return vmcrypt_refuse(vm, VMC_REFUSAL_NO_MEMORY);

    vcpu_pause(v);
    arch_get_info_guest(v, (vcpu_guest_context_u){ .nat = shown });
    redact(v, shown, true);
    shown->user_regs.rax = 1;
    if ( memcmp(shown, ctxt, sizeof(*shown)) )
        rc = vmcrypt_refuse(vm, VMC_REFUSAL_DENIED);
    else
        rc = 1; /* vmcrypt_resumed() does it */
    vcpu_unpause(v);
    xfree(shown);

    return rc;
}

/* --- Export ------------------------------------------------------------ */

void vmcrypt_frames_to_pfns(struct vcpu_guest_context *c)
{
    unsigned int i;

    for ( i = 0; i < ARRAY_SIZE(c->gdt_frames); i++ )
        c->gdt_frames[i] = i < DIV_ROUND_UP(c->gdt_ents, 512)
                           ? get_gpfn_from_mfn(c->gdt_frames[i]) : 0;
    for ( i = 1; i <= 3; i += 2 )
        if ( c->ctrlreg[i] )
            c->ctrlreg[i] = xen_pfn_to_cr3(
                get_gpfn_from_mfn(xen_cr3_to_pfn(c->ctrlreg[i])));
}

static void save_domain(struct domain *d, struct domain_state *s)
{
    const struct shared_info *shared = &d->shared_info->native;

    s->arch = shared->arch;
    memcpy(s->vcpu_info, shared->vcpu_info, sizeof(s->vcpu_info));
    s->policy = *d->arch.cpu_policy;

    /* The first unpause saw that they are not more, and nobody changes them. */
    spin_lock(&d->arch.e820_lock);
    s->map_entries = min_t(unsigned int, d->arch.nr_e820, VMCRYPT_MAP_ENTRIES);
    memcpy(s->map, d->arch.e820, s->map_entries * sizeof(*s->map));
    spin_unlock(&d->arch.e820_lock);
}

static void save_vcpu(struct vcpu *v, struct vcpu_state *s)
{
    vcpu_pause(v);
    s->vcpu_id = v->vcpu_id;
    arch_get_info_guest(v, (vcpu_guest_context_u){ .nat = &s->ctxt });
    vmcrypt_frames_to_pfns(&s->ctxt);
    s->msrs = *v->arch.msrs;
    s->ext.sysenter_callback_cs = v->arch.pv.sysenter_callback_cs;
    s->ext.sysenter_callback_eip = v->arch.pv.sysenter_callback_eip;
    s->ext.sysenter_disables_events = v->arch.pv.sysenter_disables_events;
    s->ext.syscall32_callback_cs = v->arch.pv.syscall32_callback_cs;
    s->ext.syscall32_callback_eip = v->arch.pv.syscall32_callback_eip;
    s->ext.syscall32_disables_events = v->arch.pv.syscall32_disables_events;
    s->vmce.caps = v->arch.vmce.mcg_cap;
    s->vmce.mci_ctl2_bank0 = v->arch.vmce.bank[0].mci_ctl2;
    s->vmce.mci_ctl2_bank1 = v->arch.vmce.bank[1].mci_ctl2;
    s->vmce.mcg_ext_ctl = v->arch.vmce.mcg_ext_ctl;
    s->xcr0 = v->arch.xcr0;
    s->xcr0_accum = v->arch.xcr0_accum;
    if ( cpu_has_xsave && s->xcr0_accum )
    {
        s->xsave_size = xstate_uncompressed_size(s->xcr0_accum);
        expand_xsave_states(v, s->xsave, s->xsave_size);
    }
    vcpu_unpause(v);
}

/* A page that the guest gave away is at no PFN. */
static unsigned long pfn_or_none(mfn_t mfn)
{
    return mfn_valid(mfn) ? get_gpfn_from_mfn(mfn_x(mfn)) : ~0UL;
}

static int export(struct vmcrypt_domain *vm,
                  struct xen_domctl_vcpuextstate *evc, size_t capacity)
{
    struct domain *d = vm->d;
    struct vcpu *v;
    unsigned int size = state_size();
    struct VmcFacts facts = {
        .pages = domain_tot_pages(d),
        .start_info = pfn_or_none(vm->start_info),
        .console = pfn_or_none(vm->console),
        .store = pfn_or_none(vm->store),
        .unbound = vmcrypt_count_leaves(vm) +
                   mfn_valid(vm->console) + mfn_valid(vm->store),
        .states = 1,
        .state_size = size,
    };
    struct p2m_place p2m = vmcrypt_p2m_place(d);
    void *buffer;
    s_time_t began = NOW(), patience;
    uint32_t verdict;
    size_t len = 0;
    int rc = 0;

    if ( vm->record )
        return vmcrypt_refuse(vm, VMC_REFUSAL_SEALING);
    /* The Rust part would say so, too: after registers were copied. */
    if ( vmcrypt_state(vm) != VMC_STATE_SUSPENDED )
        return vmcrypt_refuse(vm, VMC_REFUSAL_NOT_SUSPENDED);
    /* A restore wants both. */
    if ( !mfn_valid(vm->console) || !mfn_valid(vm->store) )
    {
        printk(XENLOG_WARNING "VMCrypt: %pd: the guest gave a ring back\n", d);
        return vmcrypt_refuse(vm, VMC_REFUSAL_INCOMPLETE);
    }
    rc = vmcrypt_p2m_check(vm, p2m);
    if ( rc )
        return rc;
    buffer = vzalloc(capacity);
    if ( !buffer )
        return vmcrypt_refuse(vm, VMC_REFUSAL_NO_MEMORY);

    keep_record(vm, buffer, capacity);
    memcpy(facts.uuid, d->handle, sizeof(facts.uuid));
    memcpy(facts.measurement, vm->measurement, sizeof(facts.measurement));
    facts.p2m_root = pfn_or_none(p2m.root);
    facts.p2m_address = p2m.va;
    facts.p2m_end = p2m.end;
    save_domain(d, buffer + VMC_RECORD_STATES);
    for_each_vcpu ( d, v )
        /* libxc leaves the others out, too. */
        if ( v->is_initialised && !(v->pause_flags & VPF_down) )
            save_vcpu(v, buffer + VMC_RECORD_STATES + size * facts.states++);

    patience = NOW() + MILLISECS(1);
    spin_lock(&vm->lock);
    /* Somebody else maps a page: that ends soon, or another one begins. */
    while ( vmc_page_in_flight(vm->rust) && NOW() < patience )
    {
        spin_unlock(&vm->lock);
        cpu_relax();
        spin_lock(&vm->lock);
    }
    verdict = vmc_record_seal(vm->rust, &facts, buffer, capacity, &len);
    spin_unlock(&vm->lock);

    if ( verdict == VMC_REFUSAL_INCOMPLETE + 1 && vm->beyond )
        printk(XENLOG_WARNING "VMCrypt: %pd: a page at PFN %#lx or beyond cannot be saved\n",
               d, vm->pfns);
    if ( verdict )
        rc = vmcrypt_refuse(vm, verdict - 1);
    else if ( (rc = vmcrypt_ledger_saved(vm, &facts)) != 0 )
        ; /* restored already: no second record of what lives on elsewhere */
    else if ( copy_to_guest(evc->buffer, buffer, len) )
    {
        vmcrypt_refuse(vm, VMC_REFUSAL_RECORD_BUFFER);
        rc = -EFAULT;
    }
    else
    {
        evc->size = len;
        printk("VMCrypt: %pd: record of %zu bytes sealed in %"PRI_stime" us\n", d,
               len, (NOW() - began) / 1000);
    }

    vmcrypt_drop_record(vm);

    return rc;
}

int vmcrypt_get_extstate(struct domain *d, struct xen_domctl_vcpuextstate *evc)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    /* libxc leaves the record out when the mask is zero. */
    uint64_t mask = xfeature_mask ?: 1;
    size_t capacity = sizeof(struct empty_xsave);

    if ( !vm || !vmcrypt_sealed(vm) )
        return 1;
    if ( evc->vcpu >= d->max_vcpus || !d->vcpu[evc->vcpu] )
        return -ESRCH;

    if ( !evc->vcpu )
    {
        spin_lock(&vm->lock);
        capacity = vmc_record_capacity(vm->rust, 1 + d->max_vcpus,
                                       state_size());
        spin_unlock(&vm->lock);
    }

    if ( (!evc->size && !evc->xfeature_mask) ||
         guest_handle_is_null(evc->buffer) )
    {
        evc->xfeature_mask = mask;
        evc->size = capacity;
        return 0;
    }

    /* The limit of the domain's memory may have been raised since it asked. */
    if ( evc->size < capacity || evc->xfeature_mask != mask )
        return vmcrypt_refuse(vm, VMC_REFUSAL_RECORD_BUFFER);

    if ( !evc->vcpu )
        return export(vm, evc, capacity);

    /* libxc leaves such a vCPU out, and the record that comes with vCPU 0. */
    if ( vmcrypt_state(vm) == VMC_STATE_SUSPENDED &&
         (d->vcpu[0]->pause_flags & VPF_down) )
    {
        printk(XENLOG_WARNING
               "VMCrypt: %pd: cannot be saved while its vCPU 0 is offline\n", d);
        return vmcrypt_refuse(vm, VMC_REFUSAL_INCOMPLETE);
    }

    evc->size = sizeof(struct empty_xsave);

    return copy_to_guest(evc->buffer,
                         (void *)&(struct empty_xsave){},
                         sizeof(struct empty_xsave)) ? -EFAULT : 0;
}

/* --- Restore ----------------------------------------------------------- */

/* xl draws a new handle where a configuration given beside the image has none. */
static void say_uuid(const struct domain *d, const uint8_t *uuid)
{
    printk(XENLOG_WARNING
           "VMCrypt: %pd: restore it with uuid = \"%4phN-%2phN-%2phN-%2phN-%6phN\" in its configuration\n",
           d, uuid, uuid + 4, uuid + 6, uuid + 8, uuid + 10);
}

int vmcrypt_set_extstate(struct domain *d, struct xen_domctl_vcpuextstate *evc)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    uint8_t head[8];
    uint32_t verdict;
    void *buffer;
    int rc = 0;

    if ( !vm )
        return 1;
    if ( vmcrypt_sealed(vm) )
        return vmcrypt_refuse(vm, VMC_REFUSAL_DENIED);

    if ( evc->vcpu )
        return 1;
    if ( evc->size >= sizeof(head) &&
         copy_from_guest((void *)head, evc->buffer, sizeof(head)) )
        return -EFAULT;
    /*
     * Only a restore loads one, and without a record the guest would be taken for
     * a new one.
     */
    if ( evc->size < sizeof(head) || !vmc_record_is(head, sizeof(head)) )
        return vmcrypt_refuse(vm, VMC_REFUSAL_RECORD_FORMAT);
    if ( evc->size > PAGE_SIZE + (1 + d->max_vcpus) * state_size() +
                     vmcrypt_pfn_limit(domain_tot_pages(d)) / 8 )
        return vmcrypt_refuse(vm, VMC_REFUSAL_RECORD_SIZE);

    vmcrypt_forget_record(vm);
    buffer = vzalloc(evc->size);
    if ( !buffer )
        return vmcrypt_refuse(vm, VMC_REFUSAL_NO_MEMORY);
    if ( copy_from_guest(buffer, evc->buffer, evc->size) )
    {
        vfree(buffer);
        return -EFAULT;
    }

    keep_record(vm, buffer, evc->size);
    spin_lock(&vmcrypt_keys_lock);
    spin_lock(&vm->lock);
    verdict = vmc_record_open(vm->rust, &d->handle, buffer, evc->size,
                              &vm->facts);
    spin_unlock(&vm->lock);
    spin_unlock(&vmcrypt_keys_lock);

    if ( !verdict &&
         (!vm->facts.states || vm->facts.state_size != state_size()) )
        verdict = VMC_REFUSAL_RECORD_FORMAT + 1;
    if ( verdict )
        rc = vmcrypt_refuse(vm, verdict - 1);
    else if ( !vmcrypt_policy_kept(vm) )
        rc = vmcrypt_refuse(vm, VMC_REFUSAL_CPU_POLICY);
    else if ( !vmcrypt_ledger_has(&vm->facts) )
        rc = vmcrypt_unvouched(vm, VMC_RESTORE_OPENED);
    if ( verdict == VMC_REFUSAL_RECORD_DOMAIN + 1 )
        say_uuid(d, vm->facts.uuid);
    if ( rc )
        vmcrypt_forget_record(vm);

    return rc;
}

/*
 * dom0 loaded what it was shown.  Everything that it was not shown comes from
 * the record; what it was shown, and names frames, was validated by Xen when
 * dom0 loaded it.
 */
static int load_vcpu(struct vmcrypt_domain *vm, struct vcpu *v,
                     struct vcpu_state *s)
{
    struct vcpu_guest_context *now = xzalloc(struct vcpu_guest_context);
    struct vcpu_guest_context *c = &s->ctxt, *pfns = NULL;
    int rc = -ENOMEM;

    if ( !now || !(pfns = xzalloc(struct vcpu_guest_context)) )
        goto out;

    arch_get_info_guest(v, (vcpu_guest_context_u){ .nat = now });
    *pfns = *now;
    vmcrypt_frames_to_pfns(pfns);
    rc = -EPERM;
    if ( ((now->flags ^ c->flags) & (VGCF_in_kernel | VGCF_online)) ||
         now->vm_assist != c->vm_assist || now->gdt_ents != c->gdt_ents ||
         memcmp(pfns->gdt_frames, c->gdt_frames, sizeof(c->gdt_frames)) ||
         pfns->ctrlreg[1] != c->ctrlreg[1] ||
         pfns->ctrlreg[3] != c->ctrlreg[3] ||
         (!v->vcpu_id && now->user_regs.rdx != mfn_x(vm->start_info)) )
        goto out;

    memcpy(c->gdt_frames, now->gdt_frames, sizeof(c->gdt_frames));
    c->ctrlreg[1] = now->ctrlreg[1];
    c->ctrlreg[3] = now->ctrlreg[3];
    if ( !v->vcpu_id )
        c->user_regs.rdx = now->user_regs.rdx;
    /* Compares GDT and LDT with what is loaded, and loads the rest. */
    rc = arch_set_info_guest(v, (vcpu_guest_context_u){ .nat = c });

 out:
    xfree(now);
    xfree(pfns);
    if ( rc )
        return rc;

    *v->arch.msrs = s->msrs;
    v->arch.pv.sysenter_callback_cs = s->ext.sysenter_callback_cs;
    v->arch.pv.sysenter_callback_eip = s->ext.sysenter_callback_eip;
    v->arch.pv.sysenter_disables_events = s->ext.sysenter_disables_events;
    v->arch.pv.syscall32_callback_cs = s->ext.syscall32_callback_cs;
    v->arch.pv.syscall32_callback_eip = s->ext.syscall32_callback_eip;
    v->arch.pv.syscall32_disables_events = s->ext.syscall32_disables_events;

    rc = vmce_restore_vcpu(v, &s->vmce);
    if ( rc )
        return rc;

    if ( s->xsave_size )
    {
        const struct xsave_struct *area = (const void *)s->xsave;

        if ( s->xsave_size != xstate_uncompressed_size(s->xcr0_accum) )
            return -EINVAL;
        rc = validate_xstate(v->domain, s->xcr0, s->xcr0_accum,
                             &area->xsave_hdr);
        if ( rc )
            return rc;
    }
    /* Of one that never used them, too: dom0 may have loaded some. */
    v->arch.xcr0 = s->xcr0;
    v->arch.xcr0_accum = s->xcr0_accum;
    v->arch.nonlazy_xstate_used = s->xcr0_accum & XSTATE_NONLAZY;
    if ( s->xsave_size )
        compress_xsave_states(v, s->xsave, s->xsave_size);

    return 0;
}

/*
 * What libxc copies from the image (xg_sr_restore_x86_pv.c,
 * handle_shared_info()), and the memory map that libxl gives a new domain, from
 * the record instead.
 */
static int load_domain(struct domain *d, const struct domain_state *s)
{
    struct shared_info *shared = &d->shared_info->native;
    struct e820entry *map;
    unsigned int i;

    if ( s->map_entries > VMCRYPT_MAP_ENTRIES )
        return -EINVAL;
    map = xmalloc_array(struct e820entry, s->map_entries);
    if ( !map )
        return -ENOMEM;
    memcpy(map, s->map, s->map_entries * sizeof(*map));
    spin_lock(&d->arch.e820_lock);
    SWAP(d->arch.e820, map);
    d->arch.nr_e820 = s->map_entries;
    spin_unlock(&d->arch.e820_lock);
    xfree(map);

    shared->arch = s->arch;
    shared->arch.pfn_to_mfn_frame_list_list = 0;
    for ( i = 0; i < XEN_LEGACY_MAX_VCPUS; i++ )
    {
        /* Its clock is Xen's and runs already. */
        struct vcpu_time_info now = shared->vcpu_info[i].time;

        shared->vcpu_info[i] = s->vcpu_info[i];
        shared->vcpu_info[i].evtchn_pending_sel = 0;
        shared->vcpu_info[i].time = now;
    }

    return 0;
}

bool vmcrypt_policy_kept(const struct vmcrypt_domain *vm)
{
    const struct domain_state *s = vm->record + VMC_RECORD_STATES;

    return !memcmp(&s->policy, vm->d->arch.cpu_policy, sizeof(s->policy));
}

int vmcrypt_load_state(struct vmcrypt_domain *vm)
{
    struct domain *d = vm->d;
    unsigned int i, initialised = 0;
    struct vcpu *v;
    int rc;

    for_each_vcpu ( d, v )
    {
        /* One that the guest brings up later starts as on any machine. */
        if ( !v->is_initialised && !vmcrypt_vcpu_fresh(v) )
            return -EPERM;
        initialised += v->is_initialised;
    }
    if ( 1 + initialised != vm->facts.states )
        return -EPERM;

    memcpy(vm->measurement, vm->facts.measurement, sizeof(vm->measurement));
    rc = load_domain(d, vm->record + VMC_RECORD_STATES);
    for ( i = 1; !rc && i < vm->facts.states; i++ )
    {
        struct vcpu_state *s = vm->record + VMC_RECORD_STATES +
                               i * vm->facts.state_size;

        if ( s->vcpu_id >= d->max_vcpus || !(v = d->vcpu[s->vcpu_id]) ||
             !v->is_initialised )
            return -EPERM;
        rc = load_vcpu(vm, v, s);
    }

    return rc;
}
