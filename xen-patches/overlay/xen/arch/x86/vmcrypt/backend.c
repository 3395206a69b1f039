// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which backend of the page cipher is used: the fastest that Xen lets this
 * machine have, and that gives a known answer on it.
 *
 * All CPUs use the same.  Xen's own view of CPUID decides, which is what its
 * command line left and all CPUs have, and its view of XCR0, which is the same
 * on all CPUs or Xen does not start them.
 */
#include <xen/cpu.h>
#include <xen/init.h>
#include <xen/lib.h>
#include <xen/param.h>
#include <asm/cpufeature.h>
#include <asm/xstate.h>

#include "private.h"

unsigned int __read_mostly vmcrypt_backend = VMC_BACKEND_PORTABLE;

/* A bit for each that gave a wrong answer when Xen booted. */
static unsigned int __read_mostly wrong;

/* By rank: each can stand in for those after it. */
static const struct {
    const char *option, *name;
} backends[] = {
    [VMC_BACKEND_PORTABLE] = { "portable", "portable code" },
    [VMC_BACKEND_AESNI] = { "aes-ni", "AES-NI" },
    [VMC_BACKEND_HALVES] = { "avx2", "VAES on 256 bits, PCLMULQDQ on 128" },
    [VMC_BACKEND_AVX2] = { "avx2", "VAES and VPCLMULQDQ on 256 bits" },
    [VMC_BACKEND_AVX512] = { "avx512", "VAES and VPCLMULQDQ on 512 bits" },
};

/* The best that may be used. */
static char __initdata opt_backend[12];
string_param("vmcrypt-backend", opt_backend);

#ifdef CONFIG_DEBUG
/* These are given a wrong page in the test.  Debug builds only. */
static char __initdata opt_canary[12];
string_param("vmcrypt-backend-canary", opt_canary);
#else
#define opt_canary ""
#endif

const char *vmcrypt_backend_name(void)
{
    return backends[vmcrypt_backend].name;
}

static bool capable(unsigned int backend)
{
    uint64_t xcr0 = vmcrypt_vector_xcr0(backend);

    if ( (xfeature_mask & xcr0) != xcr0 )
        return false;

    switch ( backend )
    {
    case VMC_BACKEND_AVX512:
        if ( !cpu_has_avx512f || !cpu_has_avx512vl )
            return false;
        /* fallthrough */
    case VMC_BACKEND_AVX2:
        if ( !cpu_has_vpclmulqdq )
            return false;
        /* fallthrough */
    case VMC_BACKEND_HALVES:
        if ( !cpu_has_avx2 || !cpu_has_vaes )
            return false;
        /* fallthrough */
    case VMC_BACKEND_AESNI:
        return cpu_has_aesni && cpu_has_pclmulqdq && cpu_has_ssse3 &&
               cpu_has_sse4_1;
    }

    return true;
}

static unsigned int lower(unsigned int backend)
{
    do {
        backend--; /* portable code runs everywhere */
    } while ( !capable(backend) || (wrong & (1U << backend)) );

    return backend;
}

static unsigned int __init wanted(void)
{
    unsigned int backend = ARRAY_SIZE(backends);

    if ( !opt_backend[0] )
        return lower(backend);

    while ( backend && strcmp(backends[backend - 1].option, opt_backend) )
        backend--;
    if ( !backend )
    {
        printk(XENLOG_WARNING "VMCrypt: vmcrypt-backend=%s is none of portable, aes-ni, avx2, avx512: ignored\n",
               opt_backend);
        return lower(ARRAY_SIZE(backends));
    }

    backend = lower(backend);
    if ( strcmp(backends[backend].option, opt_backend) )
        printk(XENLOG_WARNING "VMCrypt: vmcrypt-backend=%s is not possible on this machine\n",
               opt_backend);

    return backend;
}

/* A page of zeros, encrypted and decrypted. */
static bool __init passes(unsigned int backend, struct VmcDomain *domain,
                          void *copy)
{
    uint8_t *page = vmcrypt_scratch();
    bool passed;

    clear_page(page);
    if ( !strcmp(backends[backend].option, opt_canary) )
        page[0] = 1;

    vmcrypt_backend = backend;
    vmcrypt_vector_enter();
    passed = vmc_backend_passes(backend, domain, (Page *)page, copy);
    vmcrypt_vector_leave();
    clear_page(page);

    return passed;
}

/* A CPU that came late may lack what the others have. */
static int cf_check cpu_callback(struct notifier_block *nfb,
                                 unsigned long action, void *hcpu)
{
    if ( action == CPU_STARTING && !capable(vmcrypt_backend) )
    {
        unsigned int backend = lower(vmcrypt_backend);

        /*
         * The others may be at work: they can do both.  What the Rust part uses
         * must never be more than vmcrypt_vector_enter() saved for.
         */
        vmc_backend_use(backend);
        smp_wmb();
        ACCESS_ONCE(vmcrypt_backend) = backend;
        printk(XENLOG_WARNING "VMCrypt: CPU%u lacks what the page cipher used so far; now by %s\n",
               smp_processor_id(), vmcrypt_backend_name());
    }

    return NOTIFY_DONE;
}

static struct notifier_block cpu_nfb = {
    .notifier_call = cpu_callback,
};

/*
 * Called when all CPUs of the boot are up.  Those below the best are tested,
 * too: a CPU that comes late may make one of them necessary.
 */
void __init vmcrypt_backend_init(void)
{
    struct VmcDomain *domain = _xzalloc(vmc_domain_size(), 16);
    void *copy = alloc_xenheap_page();
    unsigned int best = VMC_BACKEND_PORTABLE, backend = wanted();

    if ( !domain || !copy )
        panic("VMCrypt: no memory to test the page cipher\n");
    vmc_domain_init(domain);

    for ( ; ; backend = lower(backend) )
    {
        if ( passes(backend, domain, copy) )
            best = max(best, backend);
        else
        {
            printk(XENLOG_ERR "VMCrypt: the page cipher gives a wrong answer by %s: not used\n",
                   backends[backend].name);
            if ( backend == VMC_BACKEND_PORTABLE )
                panic("VMCrypt: no page cipher can be relied on; vmcrypt=off runs guests unprotected\n");
            wrong |= 1U << backend;
        }
        if ( backend == VMC_BACKEND_PORTABLE )
            break;
    }
    vmcrypt_backend = best;

    vmc_domain_wipe(domain);
    xfree(domain);
    free_xenheap_page(copy);
    register_cpu_notifier(&cpu_nfb);
}
