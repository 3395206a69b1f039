// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the Rust part needs from Xen: entropy, vector registers, a scratch page.
 */
#include <xen/domain_page.h>
#include <xen/init.h>
#include <xen/lib.h>
#include <xen/mm.h>
#include <xen/percpu.h>
#include <asm/cpufeature.h>
#include <asm/system.h>

#include "private.h"

bool __read_mostly vmcrypt_simd;

/*
 * Xen's get_random() falls back to a generator seeded by the clock, which is
 * no source of keys.  Intel's guidance (DRNG Software Implementation Guide,
 * 5.2.1) allows ten tries of RDRAND before the hardware counts as broken.
 */
bool vmc_c_random(uint64_t *word)
{
    unsigned int tries;
    bool ok = false;

    for ( tries = 0; !ok && tries < 10; tries++ )
    {
        if ( cpu_has_rdseed )
            asm volatile ( "rdseed %0" : "=r" (*word), "=@ccc" (ok) );
        if ( !ok && cpu_has_rdrand )
            asm volatile ( "rdrand %0" : "=r" (*word), "=@ccc" (ok) );
    }

    return ok;
}

void vmc_c_panic(void)
{
    panic("VMCrypt: impossible state\n");
}

/*
 * The vector backends use legacy SSE registers only, so XCR0, which belongs to
 * the guest, does not matter.  In hypercall context nothing else touches the
 * registers until we are done: Xen's interrupt handlers use none, and a CPU
 * whose registers belong to a vCPU other than current's is idle.  On an idle CPU
 * a tasklet may do the same, since that vCPU's registers are saved before.
 */
struct vector_state {
    uint8_t xmm[16][16];
    bool ts;
};
/* Of every CPU, where they can be reached when CPUs are gone. */
static struct vector_state *__read_mostly vector_states;

#define FOR_EACH_XMM(op) \
    op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) \
    op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
#define SAVE_XMM(n) "movups %%xmm" #n ", " #n "*16(%0);"
#define LOAD_XMM(n) "movups " #n "*16(%0), %%xmm" #n ";"

void vmcrypt_vector_enter(void)
{
    struct vector_state *s = &vector_states[smp_processor_id()];

    if ( !vmcrypt_simd )
        return;

    ASSERT(!in_irq() && (!is_idle_vcpu(current) ||
                         this_cpu(curr_vcpu) == current));

    s->ts = read_cr0() & X86_CR0_TS;
    clts();
    asm volatile ( FOR_EACH_XMM(SAVE_XMM) :: "r" (s->xmm) : "memory" );
}

void vmcrypt_vector_leave(void)
{
    struct vector_state *s = &vector_states[smp_processor_id()];

    if ( !vmcrypt_simd )
        return;

    asm volatile ( FOR_EACH_XMM(LOAD_XMM) :: "r" (s->xmm) : "memory" );
    memset(s->xmm, 0, sizeof(s->xmm));
    if ( s->ts )
        stts();
}

/*
 * A page of this CPU that no domain can map.  Guest data is copied here once,
 * then judged and encrypted, so that the guest cannot change it in between and
 * no frame that dom0 may still see through a stale TLB entry ever holds it.
 */
static void **__read_mostly scratch;

void *vmcrypt_scratch(void)
{
    return scratch[smp_processor_id()];
}

void vmcrypt_copy_from(void *to, mfn_t from)
{
    const void *va = map_domain_page(from);

    memcpy(to, va, PAGE_SIZE);
    unmap_domain_page(va);
}

void vmcrypt_copy_to(mfn_t to, const void *from)
{
    void *va = map_domain_page(to);

    memcpy(va, from, PAGE_SIZE);
    unmap_domain_page(va);
}

/* What a CPU was at when it was stopped. */
void vmcrypt_wipe_cpus(void)
{
    unsigned int cpu;

    if ( !vector_states )
        return; /* the machine never came up */

    vmcrypt_wipe(vector_states, nr_cpu_ids * sizeof(*vector_states));
    for ( cpu = 0; cpu < nr_cpu_ids; cpu++ )
        vmcrypt_wipe(scratch[cpu], PAGE_SIZE);
}

static int __init cf_check vmcrypt_glue_init(void)
{
    unsigned int cpu;

    /* For every CPU that may ever come up: the hooks allocate nothing. */
    scratch = xzalloc_array(void *, nr_cpu_ids);
    vector_states = xzalloc_array(struct vector_state, nr_cpu_ids);
    if ( !scratch || !vector_states )
        panic("VMCrypt: no memory for scratch pages\n");

    for ( cpu = 0; cpu < nr_cpu_ids; cpu++ )
        if ( (scratch[cpu] = alloc_xenheap_page()) == NULL )
            panic("VMCrypt: no memory for scratch pages\n");

    vmcrypt_simd = cpu_has_aesni && cpu_has_pclmulqdq && cpu_has_ssse3 &&
                   cpu_has_sse4_1;

    return 0;
}
presmp_initcall(vmcrypt_glue_init);
