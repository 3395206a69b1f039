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
#include <cpuid.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define PAGE_SIZE 4096
#include <xen/vmcrypt-rust.h>

#include "backends.h"

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
#define __ro_after_init
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
#define cpu_has_avx __builtin_cpu_supports("avx")
#define max(one, other) ((one) > (other) ? (one) : (other))
#define cpu_has_avx512f __builtin_cpu_supports("avx512f")
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
static const uint64_t xfeature_mask = ~0ull;
static bool task_switched = true;
static uint64_t xcr0 = XSTATE_FP_SSE;

static uint64_t read_cr0(void) { return task_switched ? X86_CR0_TS : 0; }
static void clts(void) { task_switched = false; }
static void stts(void) { task_switched = true; }
static bool cpu_has_xgetbv1;
static uint64_t in_use(void)
{
    uint32_t low, high;

    asm volatile ( "xgetbv" : "=a" (low), "=d" (high) : "c" (1) );

    return low | (uint64_t)high << 32;
}
static uint64_t xgetbv(unsigned int index) { return index == 1 ? in_use() & xcr0 : ~0ull; }
static uint64_t get_xcr0(void) { return xcr0; }
static bool set_xcr0(uint64_t value) { xcr0 = value; return true; }

/*
 * Also for the Rust part: the C library's use whatever vector registers there are,
 * Xen's (xen/arch/x86/string.c) none.
 */
void *memset(void *area, int byte, size_t size)
{
    void *to = area;

    asm volatile ( "rep stosb" : "+D" (to), "+c" (size) : "a" (byte) : "memory" );

    return area;
}

void *memcpy(void *area, const void *from, size_t size)
{
    void *to = area;

    asm volatile ( "rep movsb" : "+D" (to), "+S" (from), "+c" (size) :: "memory" );

    return area;
}

int memcmp(const void *one, const void *other, size_t size)
{
    const uint8_t *a = one, *b = other;

    while ( size && *a == *b )
        a++, b++, size--;

    return size ? *a - *b : 0;
}

int bcmp(const void *one, const void *other, size_t size)
{
    return memcmp(one, other, size);
}

static void vmcrypt_wipe(void *area, size_t size) { memset(area, 0, size); }

#include "vector.c"

/* --- The test ----------------------------------------------------------- */

struct registers { uint8_t bytes[32 * 64] __aligned(64); };

/* All registers that the CPU has, whatever the backend may touch of them. */
static enum width widest(void)
{
    return whole == LOW_ZMM ? ZMM : whole;
}

static size_t stride(void)
{
    return whole == LOW_ZMM ? 64 : whole == YMM ? 32 : 16;
}

static unsigned int differing(const struct registers *one, const struct registers *other)
{
    unsigned int i, count = 0;

    for ( i = 0; i < sizeof(one->bytes); i++ )
        count += one->bytes[i] != other->bytes[i];

    return count;
}

/* Bytes that are not zero in the low `width` bytes of the first `count` registers. */
static unsigned int left(const struct registers *regs, unsigned int count, size_t width)
{
    unsigned int i, bytes = 0;

    for ( i = 0; i < count * stride(); i++ )
        bytes += i % stride() < width && regs->bytes[i];

    return bytes;
}

/* What happens in between. */
enum use {
    ENCRYPT, /* the backend is tested */
    CLEAR, /* its registers are cleared, which takes none of the instructions that the cipher needs */
    STOP, /* the CPU stops */
    STOP_LATE, /* it stops when another CPU has wiped what was saved */
};

/* The guest: its XCR0, and whether upper halves have something in them. */
static uint64_t guest_xcr0;
static bool used;

/* Whether the CPU says that upper halves are not used after VZEROUPPER. */
static bool tracked;

static bool upper_in_use(void)
{
    return cpu_has_xgetbv1 && (in_use() & (X86_XCR0_YMM | X86_XCR0_ZMM));
}

static void vzeroupper(void)
{
    if ( whole != XMM )
        asm volatile ( "vzeroupper" );
}

/* What of the registers must be saved, and what of XCR0 that needs: not by vector.c's own tables. */
static bool saves_enough(unsigned int backend)
{
    enum width width = vector_states[0].width;
    uint64_t need = width == XMM ? 0 : width == YMM ? 7 : 0xe7;
    enum width least = backend == VMC_BACKEND_AVX512 ? ZMM :
                       backend != VMC_BACKEND_AESNI ||
                       (used && tracked && (guest_xcr0 & X86_XCR0_YMM)) ? whole : XMM;

    return width == least && (xcr0 & need) == need;
}

/*
 * Bytes of registers that came back changed or, if the CPU stops, that are left
 * of the `count` of `width` that the backend works in; ~0 if something else is
 * wrong.
 */
static unsigned int lend(unsigned int backend, unsigned int count, size_t width, enum use use)
{
    static struct registers before, after, kept;
    static uint64_t page[PAGE_SIZE / 8], copy[PAGE_SIZE / 8];
    struct VmcDomain *domain = aligned_alloc(64, (vmc_domain_size() + 63) & ~63ul);
    const bool ts = !task_switched, stops = use == STOP || use == STOP_LATE;
    bool good, busy_meanwhile, busy;
    unsigned int i;

    vmc_domain_init(domain);
    memset(page, 0, sizeof(page));
    memset(&before, 0, sizeof(before));
    memset(&after, 0, sizeof(after));
    for ( i = 0; i < (widest() == ZMM ? 32 : 16) * stride(); i++ )
        before.bytes[i] = used || i % stride() < 16 || i >= 16 * stride() ? 1 + i % 251 : 0;
    vmcrypt_backend = backend;
    xcr0 = guest_xcr0;
    task_switched = ts;

    load(widest(), before.bytes);
    if ( !used )
        vzeroupper();
    vmcrypt_vector_enter();
    busy_meanwhile = upper_in_use();
    good = !task_switched && saves_enough(backend);
    if ( use == CLEAR )
        vmc_backend_wipe(backend);
    else if ( use == ENCRYPT )
        good &= vmc_backend_passes(backend, domain, (Page *)page, (Page *)copy);
    if ( use == STOP_LATE )
        vmcrypt_vector_wipe();
    if ( stops )
        vmcrypt_cpu_stops();
    else
        vmcrypt_vector_leave();
    busy = upper_in_use();
    save(widest(), after.bytes);

    free(domain);
    memset(&kept, 0, sizeof(kept));
    for ( i = 0; i < sizeof(kept.bytes); i++ )
        kept.bytes[i] = vector_states[0].registers[i];
    if ( stops )
        /* The machine goes down: nothing is given back. */
        vector_states[0].backend = VMC_BACKEND_PORTABLE;
    else
        good &= task_switched == ts && xcr0 == guest_xcr0;
    /* Nobody's SSE instructions have upper halves to keep but his own, and AES-NI's none that it may know of. */
    if ( tracked && backend == VMC_BACKEND_AESNI && (guest_xcr0 & X86_XCR0_YMM) )
        good &= !busy_meanwhile;
    if ( tracked && !stops )
        good &= busy == used;
    if ( !good )
        return ~0u;

    return differing(&kept, &(struct registers){}) +
           (stops ? left(&after, count, width) : differing(&before, &after));
}

static bool has_xgetbv1(void)
{
    unsigned int a, b, c, d;

    return cpu_has_avx && __get_cpuid_count(0xd, 1, &a, &b, &c, &d) && (a & 4);
}

static unsigned int passed_count, failed_count;

static void check(const char *what, const char *name, bool ok)
{
    printf("%4s  vectors: %s, %s\n", ok ? "ok" : "FAIL", name, what);
    ok ? passed_count++ : failed_count++;
}

/* Of every guest that this CPU can have: the most bytes. */
static unsigned int lend_of_each(unsigned int backend, unsigned int count, size_t width, enum use use)
{
    static const uint64_t xcr0s[] = { 3, 7, 0xe7 };
    unsigned int i, most = 0;

    for ( i = 0; i < 2 * (1 + whole); i++ )
    {
        guest_xcr0 = xcr0s[i / 2];
        used = whole != XMM && i % 2;
        most = max(most, lend(backend, count, width, use));
    }

    return most;
}

static void backend(const char *name, uint32_t number, bool possible)
{
    const bool low = number == VMC_BACKEND_AESNI, high = number == VMC_BACKEND_AVX512;
    const unsigned int count = high ? 32 : 16;
    const size_t width = low ? 16 : high ? 64 : 32;

    if ( number == VMC_BACKEND_PORTABLE )
        return;
    if ( low || (__builtin_cpu_supports("avx2") && (!high || __builtin_cpu_supports("avx512f"))) )
    {
        check("cleared registers come back", name, lend_of_each(number, count, width, CLEAR) == 0);
        check("a CPU that stops leaves none", name, lend_of_each(number, count, width, STOP) == 0);
        check("nor one that stops late", name, lend_of_each(number, count, width, STOP_LATE) == 0);
    }
    if ( !possible )
    {
        printf("SKIP  vectors: this CPU has no %s\n", name);
        return;
    }
    check("registers come back", name, lend_of_each(number, count, width, ENCRYPT) == 0);
    opt_canary = true;
    check("a changed bit is noticed", name, lend_of_each(number, count, width, ENCRYPT) == 1);
    opt_canary = false;
}

int main(void)
{
    static const struct registers pattern = { .bytes = { [20] = 1, [40] = 1 } };

    cpu_has_xgetbv1 = has_xgetbv1();
    vmcrypt_vector_init();
    memset(vector_states, 0, sizeof(*vector_states));
    if ( cpu_has_xgetbv1 )
    {
        load(widest(), pattern.bytes);
        tracked = upper_in_use();
        vzeroupper();
        tracked &= !upper_in_use();
    }
    if ( !tracked )
        puts("SKIP  vectors: this CPU does not tell whether upper halves are used");
    each_backend(backend);
    printf("%u passed, %u failed\n", passed_count, failed_count);
    return failed_count != 0;
}
