// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the Rust part needs from Xen beside vector registers: entropy, a scratch
 * page.
 */
#include <xen/domain_page.h>
#include <xen/init.h>
#include <xen/lib.h>
#include <xen/mm.h>
#include <xen/percpu.h>
#include <asm/cpufeature.h>

#include "private.h"

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
 * A page of this CPU that no domain can map.  Guest data is read once, into
 * here: plain pages to be judged, private ones while they are encrypted.  So the
 * guest cannot change it in between, and no frame that dom0 may still see
 * through a stale TLB entry ever holds it.
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

    if ( !scratch )
        return; /* the machine never came up */

    vmcrypt_vector_wipe();
    for ( cpu = 0; cpu < nr_cpu_ids; cpu++ )
        vmcrypt_wipe(scratch[cpu], PAGE_SIZE);
}

static int __init cf_check vmcrypt_glue_init(void)
{
    unsigned int cpu;

    /* For every CPU that may ever come up: the hooks allocate nothing. */
    scratch = xzalloc_array(void *, nr_cpu_ids);
    if ( !scratch )
        panic("VMCrypt: no memory for scratch pages\n");

    for ( cpu = 0; cpu < nr_cpu_ids; cpu++ )
        if ( (scratch[cpu] = alloc_xenheap_page()) == NULL )
            panic("VMCrypt: no memory for scratch pages\n");

    return 0;
}
presmp_initcall(vmcrypt_glue_init);
