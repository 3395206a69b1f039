/* SPDX-License-Identifier: GPL-2.0-only */
/* The backends of the page cipher by name, and whether this CPU can run each. */
#include <stdbool.h>
#include <stdint.h>

static void each_backend(void (*run)(const char *name, uint32_t number, bool possible))
{
    bool ni = __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
    bool halves = ni && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("vaes");
    bool avx2 = halves && __builtin_cpu_supports("vpclmulqdq");

    run("portable", VMC_BACKEND_PORTABLE, true);
    run("AES-NI", VMC_BACKEND_AESNI, ni);
    run("256 bits, in halves", VMC_BACKEND_HALVES, halves);
    run("256 bits", VMC_BACKEND_AVX2, avx2);
    run("512 bits", VMC_BACKEND_AVX512, avx2 && __builtin_cpu_supports("avx512vl"));
}
