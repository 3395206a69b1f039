// SPDX-License-Identifier: GPL-2.0-only
/*
 * Xen's vector.c on this host: every backend that the CPU has works between
 * vmcrypt_vector_enter() and vmcrypt_vector_leave(), and every register must
 * come back as it was.  No emulator that boots dom0 has AVX-512.
 *
 * The headers of Xen that vector.c includes are empty here; this file has what
 * it takes from them.  It is compiled without vector registers: between two
 * pieces of assembly nobody but the backend may touch any.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#define PAGE_SIZE 4096
#include <xen/vmcrypt-rust.h>

/* --- What Xen has ------------------------------------------------------- */

/* Instead of private.h. */
#define __X86_VMCRYPT_PRIVATE_H__
uint64_t vmcrypt_vector_xcr0(unsigned int backend);
void vmcrypt_vector_enter(void);
void vmcrypt_vector_leave(void);
void vmcrypt_vector_wipe(void);
void vmcrypt_cpu_stops(void);
static unsigned int vmcrypt_backend;

#define __aligned(bytes) __attribute__((aligned(bytes)))
#define __init
#define cf_check
#define __read_mostly
#define boolean_param(name, variable)
#define presmp_initcall(function)
#define ASSERT(condition) ((condition) ? (void)0 : abort())
#define ACCESS_ONCE(x) (*(volatile typeof(x) *)&(x))
#define BUG abort
#define panic(...) abort()
#define X86_CR0_TS 8u
#define X86_XCR0_YMM 0x04ull
#define X86_XCR0_OPMASK 0x20ull
#define X86_XCR0_ZMM 0x40ull
#define X86_XCR0_HI_ZMM 0x80ull
#define XSTATE_FP_SSE 3ull
#define SYS_STATE_active 2
#define current NULL
#define is_idle_vcpu(vcpu) ((vcpu) != NULL)
#define in_irq() false
#define this_cpu(variable) NULL
#define smp_processor_id() 0
#define nr_cpu_ids 1u
#define xzalloc_array(type, count) \
    ((type *)aligned_alloc(64, sizeof(type) * (count)))
static const int system_state = SYS_STATE_active;
static bool task_switched = true;
static uint64_t xcr0 = XSTATE_FP_SSE;

static uint64_t read_cr0(void) { return task_switched ? X86_CR0_TS : 0; }
static void clts(void) { task_switched = false; }
static void stts(void) { task_switched = true; }
static uint64_t get_xcr0(void) { return xcr0; }
static bool set_xcr0(uint64_t value) { xcr0 = value; return true; }

/* The C library's may use vector registers. */
static void fill(void *area, int byte, size_t size)
{
    asm volatile ( "rep stosb" : "+D" (area), "+c" (size) : "a" (byte) : "memory" );
}
#define memset fill
static void vmcrypt_wipe(void *area, size_t size) { fill(area, 0, size); }

#include "vector.c"

/* --- The test ----------------------------------------------------------- */

struct registers { uint8_t bytes[32 * 64] __aligned(64); };

/* By width: what save() and load() name, or more of it. */
static void load_all(size_t width, const struct registers *from)
{
    load(width == 64 ? VMC_BACKEND_AVX512 :
         width == 32 ? VMC_BACKEND_AVX2 : VMC_BACKEND_AESNI, from->bytes);
}

static void store_all(size_t width, struct registers *to)
{
    save(width == 64 ? VMC_BACKEND_AVX512 :
         width == 32 ? VMC_BACKEND_AVX2 : VMC_BACKEND_AESNI, to->bytes);
}

static unsigned int differing(const struct registers *one, const struct registers *other)
{
    unsigned int i, count = 0;

    for ( i = 0; i < sizeof(one->bytes); i++ )
        count += one->bytes[i] != other->bytes[i];

    return count;
}

/* Bytes of registers that came back changed; ~0 if something else is wrong. */
static unsigned int lend(unsigned int backend, size_t width, bool stops)
{
    static struct registers before, after, kept;
    static uint64_t page[PAGE_SIZE / 8], copy[PAGE_SIZE / 8];
    struct VmcDomain *domain = aligned_alloc(64, (vmc_domain_size() + 63) & ~63ul);
    bool passed, wide;
    unsigned int i;

    vmc_domain_init(domain);
    fill(page, 0, sizeof(page));
    fill(&before, 0, sizeof(before));
    fill(&after, 0, sizeof(after));
    for ( i = 0; i < (width == 64 ? 32 : 16) * width; i++ )
        before.bytes[i] = 1 + i % 251;
    vmcrypt_backend = backend;

    load_all(width, &before);
    vmcrypt_vector_enter();
    wide = !task_switched && (xcr0 & vmcrypt_vector_xcr0(backend)) == vmcrypt_vector_xcr0(backend);
    passed = vmc_backend_passes(backend, domain, (Page *)page, (Page *)copy);
    if ( stops )
        vmcrypt_cpu_stops();
    else
        vmcrypt_vector_leave();
    store_all(width, &after);

    free(domain);
    if ( stops )
    {
        /* As when the machine went down: nothing is given back. */
        vmcrypt_vector_wipe();
        stts();
        xcr0 = XSTATE_FP_SSE;
        fill(&before, 0, sizeof(before));
    }
    fill(&kept, 0, sizeof(kept));
    for ( i = 0; i < sizeof(kept.bytes); i++ )
        kept.bytes[i] = vector_states[0].registers[i];
    if ( !passed || !wide || !task_switched || xcr0 != XSTATE_FP_SSE )
        return ~0u;

    fill(&page, 0, sizeof(page));
    return differing(&before, &after) + differing(&kept, &(struct registers){});
}

static unsigned int passed_count, failed_count;

static void check(const char *what, const char *name, bool ok)
{
    printf("%4s  vectors: %s, %s\n", ok ? "ok" : "FAIL", name, what);
    ok ? passed_count++ : failed_count++;
}

static void backend(const char *name, unsigned int number, size_t width, bool possible)
{
    if ( !possible )
    {
        printf("SKIP  vectors: this CPU has no %s\n", name);
        return;
    }
    check("registers come back", name, lend(number, width, false) == 0);
    check("a CPU that stops leaves none", name, lend(number, width, true) == 0);
    opt_canary = true;
    check("a changed bit is noticed", name, lend(number, width, false) == 1);
    opt_canary = false;
}

int main(void)
{
    bool ni = __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
    bool halves = ni && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("vaes");
    bool avx2 = halves && __builtin_cpu_supports("vpclmulqdq");

    vmcrypt_vector_init();
    fill(vector_states, 0, sizeof(*vector_states));
    backend("AES-NI", VMC_BACKEND_AESNI, 16, ni);
    backend("256 bits, in halves", VMC_BACKEND_HALVES, 32, halves);
    backend("256 bits", VMC_BACKEND_AVX2, 32, avx2);
    backend("512 bits", VMC_BACKEND_AVX512, 64, avx2 && __builtin_cpu_supports("avx512vl"));
    printf("%u passed, %u failed\n", passed_count, failed_count);
    return failed_count != 0;
}
