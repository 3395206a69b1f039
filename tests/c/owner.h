/* SPDX-License-Identifier: GPL-2.0-only */
/* The key of a domain's owner, for programs whose host draws the same keys at each start. */
#include <stdio.h>

/* To which `cargo xtask` seals the key. */
static void print_public_key(void)
{
    struct VmcHostInfo info;

    boot(VMC_BACKEND_PORTABLE);
    vmc_host_describe(&info);
    for ( size_t i = 0; i < sizeof(info.public_key); i++ )
        printf("%02x", info.public_key[i]);
    putchar('\n');
}

static void read_key(const char *path, struct VmcKeyLoad *load)
{
    FILE *file = fopen(path, "rb");

    if ( !file )
        abort();
    load->size = fread(load->bytes, 1, sizeof(load->bytes), file);
    fclose(file);
}

/* As the command line of Xen does. */
static bool name_owner(const struct VmcKeyLoad *load)
{
    char digits[2 * 32 + 1];

    for ( unsigned int i = 0; i < 32; i++ )
        sprintf(digits + 2 * i, "%02x", load->bytes[40 + i]);
    return vmc_owner_add((const uint8_t *)digits, 64);
}
