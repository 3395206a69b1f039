/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What Xen gives to the Rust part, for programs into which the very objects are
 * linked that the hypervisor is made of.
 */
#include <stdio.h>
#include <stdlib.h>

#include "xen.h"

/*
 * As Xen has them on a CPU with fast string instructions. Those of the C library
 * differ from CPU to CPU, so that instructions could not be counted, and memcheck
 * replaces them.
 */
__asm__ (
    ".text\n"
    ".globl memcpy, memset, memcmp, __x86_return_thunk\n"
    ".type memcpy, @function\n"
    "memcpy: mov %rdi, %rax\n"
    "mov %rdx, %rcx\n"
    "rep movsb\n"
    "ret\n"
    ".size memcpy, . - memcpy\n"
    ".type memset, @function\n"
    "memset: mov %rdi, %r8\n"
    "mov %esi, %eax\n"
    "mov %rdx, %rcx\n"
    "rep stosb\n"
    "mov %r8, %rax\n"
    "ret\n"
    ".size memset, . - memset\n"
    ".type memcmp, @function\n"
    "memcmp: mov %rdx, %rcx\n"
    "xor %eax, %eax\n"
    "cmp %rax, %rax\n"
    "repe cmpsb\n"
    "setb %al\n"
    "seta %dl\n"
    "movzbl %dl, %edx\n"
    "sub %edx, %eax\n"
    "ret\n"
    ".size memcmp, . - memcmp\n"
    ".type __x86_return_thunk, @function\n"
    "__x86_return_thunk: ret\n"
    ".size __x86_return_thunk, . - __x86_return_thunk\n"
);

void vmc_c_panic(void)
{
    fputs("the Rust part panicked\n", stderr);
    abort();
}

static uint64_t drawn;

void boot(uint32_t backend)
{
    drawn = 0;
    if ( vmc_host_init(backend, (const uint8_t *)"boot", 4) )
        abort();
}

/* The same numbers at each boot: SplitMix64 (G. L. Steele et al., OOPSLA 2014). */
bool vmc_c_random(uint64_t *word)
{
    uint64_t z = drawn += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    *word = z ^ z >> 31;
    return true;
}

/* The same keys at each boot. */
uint64_t vmc_c_cycles(void)
{
    return 0;
}
