// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the Rust part needs from Xen beside vector registers: entropy, a scratch
 * page.
 */
#include <xen/domain_page.h>
#include <xen/init.h>
#include <xen/lib.h>
#include <xen/mm.h>
#include <xen/param.h>
#include <xen/percpu.h>
#include <asm/cpufeature.h>
#include <asm/e820.h>
#include <asm/msr.h>
#include <asm/time.h>

#include "private.h"

#ifdef CONFIG_DEBUG
/*
 * Makes the generator stuck, to see that this is noticed: "ones", "repeat", or
 * "after:N" for all ones after N good words.  Debug builds only.
 */
static unsigned long __read_mostly opt_good_words = ~0UL;
static bool __read_mostly opt_repeat;

static int __init cf_check parse_entropy_canary(const char *s)
{
    if ( !strcmp(s, "ones") )
        opt_good_words = 0;
    else if ( !strcmp(s, "repeat") )
        opt_repeat = true;
    else if ( !strncmp(s, "after:", 6) )
        opt_good_words = simple_strtoul(s + 6, NULL, 10);
    else
        return -EINVAL;

    return 0;
}
custom_param("vmcrypt-entropy-canary", parse_entropy_canary);

static void spoil(uint64_t *word)
{
    static uint64_t first;

    if ( opt_repeat )
        *word = first = first ?: *word;
    else if ( !opt_good_words )
        *word = ~0UL;
    else
        opt_good_words--;
}
#else
static void spoil(uint64_t *word) {}
#endif

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

    if ( ok )
        spoil(word);

    return ok;
}

uint64_t vmc_c_cycles(void)
{
    return rdtsc_ordered();
}

/*
 * What this boot has beside the generator.  None of it is secret, or good enough
 * alone; keys follow from it as well.
 */
uint32_t __init vmcrypt_draw_keys(void)
{
    static __initdata struct {
        uint64_t tsc, now, seconds, khz, pages, free, start;
        struct e820entry memory[64];
    } facts;

    facts.tsc = rdtsc_ordered();
    facts.now = NOW();
    facts.seconds = get_sec();
    facts.khz = cpu_khz;
    facts.pages = total_pages;
    facts.free = avail_domheap_pages();
    facts.start = xen_phys_start;
    memcpy(facts.memory, e820_raw.map, sizeof(facts.memory));

    return vmc_host_init(vmcrypt_backend, (const uint8_t *)&facts,
                         sizeof(facts));
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
