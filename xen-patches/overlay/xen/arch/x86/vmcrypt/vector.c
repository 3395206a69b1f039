// SPDX-License-Identifier: GPL-2.0-only
/*
 * Vector registers: guests' own, lent to the page cipher for the time of a page.
 *
 * Whatever the backend can touch is saved before and loaded afterwards, as it
 * was.  So it makes no difference whose registers they are, what of them a
 * context switch would save, and what the guest's XCR0 says; and nothing of a
 * key stays in them.  That a backend touches nothing else (no opmask, no x87
 * register) is what the link gate checks.
 *
 * In hypercall context nothing else touches the registers or XCR0 until we are
 * done: Xen's interrupt handlers use neither, nothing is preempted in here, and
 * a CPU whose registers belong to a vCPU other than current's is idle.  On an
 * idle CPU a tasklet may do the same: that vCPU's were saved before it began.
 */
#include <xen/init.h>
#include <xen/lib.h>
#include <xen/param.h>
#include <asm/cpufeature.h>
#include <asm/system.h>
#include <asm/xstate.h>

#include "private.h"

#ifdef CONFIG_DEBUG
/* Gives registers back with one bit changed.  Debug builds only. */
static bool __read_mostly opt_canary;
boolean_param("vmcrypt-vector-canary", opt_canary);
#else
#define opt_canary false
#endif

/* Sets of registers, each with all that those before it have. */
enum width { XMM, YMM, LOW_ZMM, ZMM };

struct vector_state {
    uint8_t registers[32 * 64] __aligned(64);
    uint64_t xcr0;
    unsigned int backend; /* the borrower, VMC_BACKEND_PORTABLE if there is none */
    enum width width; /* of what was saved */
    bool idle; /* upper halves were known not to be in use */
    bool ts;
};
/* Of every CPU, where they can be reached when CPUs are gone. */
static struct vector_state *__read_mostly vector_states;

#define XCR0_512 (XSTATE_FP_SSE | X86_XCR0_YMM | X86_XCR0_OPMASK | \
                  X86_XCR0_ZMM | X86_XCR0_HI_ZMM)

/* What XCR0 must admit for a set. */
static const uint64_t admits[] = {
    [XMM] = 0, /* legacy SSE encodings depend on no bit of it */
    [YMM] = XSTATE_FP_SSE | X86_XCR0_YMM,
    [LOW_ZMM] = XCR0_512,
    [ZMM] = XCR0_512,
};

/*
 * The first sixteen as wide as guests may use them.  Whoever writes a ymm register
 * clears the rest of the zmm register, whatever XCR0 says, and a guest may have had
 * something there before it changed XCR0.  Decided once: all CPUs have the same.
 */
static enum width __ro_after_init whole;

static enum width lent_to(unsigned int backend)
{
    switch ( backend )
    {
    case VMC_BACKEND_AVX512:
        return ZMM;

    case VMC_BACKEND_AVX2:
    case VMC_BACKEND_HALVES:
        return whole == XMM ? YMM : whole;
    }

    return XMM;
}

uint64_t vmcrypt_vector_xcr0(unsigned int backend)
{
    return admits[lent_to(backend)];
}

/*
 * Upper halves that are in use, if only with zeros, are kept by SSE instructions,
 * which on Intel's CPUs take more than twice as long for it.  So AES-NI gets
 * registers in which none are in use, and a guest that had none in use has none
 * afterwards.  This is whether upper halves are known to be `used` or, if it is
 * false, not to be.
 */
static bool upper_halves(bool used)
{
    return cpu_has_xgetbv1 &&
           used == !!(xgetbv(1) & (X86_XCR0_YMM | X86_XCR0_ZMM));
}

#define EACH_OF_16(insn) \
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t" insn "\n\t.endr"
#define EACH_OF_32(insn) \
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23," \
    "24,25,26,27,28,29,30,31\n\t" insn "\n\t.endr"

/* By hand: XSAVEC and XRSTOR of the same registers take three times as long. */
static void save(enum width width, uint8_t *to)
{
    switch ( width )
    {
    case ZMM:
        asm volatile ( EACH_OF_32("vmovdqu64 %%zmm\\n, \\n*64(%0)")
                       :: "r" (to) : "memory" );
        break;

    case LOW_ZMM:
        asm volatile ( EACH_OF_16("vmovdqu64 %%zmm\\n, \\n*64(%0)")
                       :: "r" (to) : "memory" );
        break;

    case YMM:
        asm volatile ( EACH_OF_16("vmovdqu %%ymm\\n, \\n*32(%0)")
                       :: "r" (to) : "memory" );
        break;

    case XMM:
        asm volatile ( EACH_OF_16("movups %%xmm\\n, \\n*16(%0)")
                       :: "r" (to) : "memory" );
        break;
    }
}

static size_t load(enum width width, const uint8_t *from)
{
    switch ( width )
    {
    case ZMM:
        asm volatile ( EACH_OF_32("vmovdqu64 \\n*64(%0), %%zmm\\n")
                       :: "r" (from) : "memory" );
        return 32 * 64;

    case LOW_ZMM:
        asm volatile ( EACH_OF_16("vmovdqu64 \\n*64(%0), %%zmm\\n")
                       :: "r" (from) : "memory" );
        return 16 * 64;

    case YMM:
        asm volatile ( EACH_OF_16("vmovdqu \\n*32(%0), %%ymm\\n")
                       :: "r" (from) : "memory" );
        return 16 * 32;

    case XMM:
        asm volatile ( EACH_OF_16("movups \\n*16(%0), %%xmm\\n")
                       :: "r" (from) : "memory" );
        return 16 * 16;
    }

    return 0;
}

void vmcrypt_vector_enter(void)
{
    struct vector_state *s = &vector_states[smp_processor_id()];
    /* Rust may read a lower one, if a CPU came that lacks this. */
    unsigned int backend = ACCESS_ONCE(vmcrypt_backend);
    enum width width = lent_to(backend);

    if ( backend == VMC_BACKEND_PORTABLE )
        return;

    ASSERT(!in_irq() && s->backend == VMC_BACKEND_PORTABLE);
    /*
     * At boot, when there is no domain yet, an idle vCPU tests the backends;
     * later it decrypts, after a guest's registers were saved.
     */
    ASSERT(!is_idle_vcpu(current) || system_state < SYS_STATE_active ||
           this_cpu(curr_vcpu) == current);

    s->ts = read_cr0() & X86_CR0_TS;
    clts();
    if ( width == XMM && upper_halves(true) )
        width = whole;
    if ( admits[width] )
    {
        s->xcr0 = get_xcr0();
        /* Both values are valid, and the machine has the bits of the second. */
        if ( !set_xcr0(s->xcr0 | admits[width]) )
            BUG();
    }
    s->idle = upper_halves(false);
    save(width, s->registers);
    if ( backend == VMC_BACKEND_AESNI && width != XMM )
        asm volatile ( "vzeroupper" );
    s->width = width;
    s->backend = backend;
}

void vmcrypt_vector_leave(void)
{
    struct vector_state *s = &vector_states[smp_processor_id()];

    if ( s->backend == VMC_BACKEND_PORTABLE )
        return;

    if ( opt_canary )
        s->registers[0] ^= 1;
    memset(s->registers, 0, load(s->width, s->registers));
    if ( s->width != XMM && s->idle )
        asm volatile ( "vzeroupper" );
    s->backend = VMC_BACKEND_PORTABLE;
    /* Takes nothing from the registers: what XCR0 hides is kept. */
    if ( admits[s->width] && !set_xcr0(s->xcr0) )
        BUG();
    if ( s->ts )
        stts();
}

void vmcrypt_cpu_stops(void)
{
    struct vector_state *s;

    if ( !vector_states )
        return;

    s = &vector_states[smp_processor_id()];
    vmc_backend_wipe(s->backend);
    vmcrypt_wipe(s->registers, sizeof(s->registers));
}

void vmcrypt_vector_wipe(void)
{
    unsigned int cpu;

    /* A CPU that stops later than it was told to still finds what to clear. */
    for ( cpu = 0; vector_states && cpu < nr_cpu_ids; cpu++ )
        vmcrypt_wipe(vector_states[cpu].registers,
                     sizeof(vector_states[cpu].registers));
}

static int __init cf_check vmcrypt_vector_init(void)
{
    /* For every CPU that may ever come up: the hooks allocate nothing. */
    vector_states = xzalloc_array(struct vector_state, nr_cpu_ids);
    if ( !vector_states )
        panic("VMCrypt: no memory to save vector registers\n");
    if ( cpu_has_avx512f && !(XCR0_512 & ~xfeature_mask) )
        whole = LOW_ZMM;
    else if ( cpu_has_avx && !(admits[YMM] & ~xfeature_mask) )
        whole = YMM;

    return 0;
}
presmp_initcall(vmcrypt_vector_init);
