// SPDX-License-Identifier: GPL-2.0-only
/*
 * The serial console, from which owners read the host's public key.
 *
 * dom0 writes to the same line, and as it likes by default, since people log in
 * there.  So it can paint a key of its own.  What counts is what Xen prints
 * before there is a dom0, and what it prints when it is asked at the line itself.
 */
#include <xen/console.h>
#include <xen/init.h>
#include <xen/keyhandler.h>
#include <xen/param.h>
#include <xen/time.h>
#include <xen/vmcrypt.h>

#include "private.h"

/* Nothing of dom0's follows the key for so long: time to read it. */
#define HELD SECONDS(20)

/* dom0's lines are cut where a terminal would go on at the left margin. */
#define WIDTH 72
#define MARK "(d0) "

/* Each line of dom0's is marked, and nothing but text gets through. */
static bool __read_mostly marked;

/* Guarded by the console's lock. */
static s_time_t held_until;

static int __init cf_check parse_console(const char *s)
{
    if ( !strcmp(s, "marked") )
        marked = true;
    else if ( strcmp(s, "raw") )
        return -EINVAL;

    return 0;
}
custom_param("vmcrypt-console", parse_console);

/* The one place where the key is got to be shown, or to be measured. */
void vmcrypt_public_key(uint8_t key[32])
{
    struct VmcHostInfo info = {};

    vmc_host_describe(&info);
    memcpy(key, info.public_key, sizeof(info.public_key));
}

void vmcrypt_print_key(void)
{
    uint8_t key[32];

    vmcrypt_public_key(key);
    printk("VMCrypt: host public key %*phN\n", (int)sizeof(key), key);
}

/*
 * Whatever dom0 left the terminal in: an unfinished control sequence is cancelled
 * (CAN, ST), then the terminal is reset (RIS, ECMA-48 and DEC VT510).
 */
static void cf_check show_key(unsigned char key)
{
    unsigned long flags = console_lock_recursive_irqsave();

    held_until = NOW() + HELD;
    printk("\030\033\\\033c\n");
    printk("VMCrypt: '%c' was typed at the serial line; dom0's output is left out for %u s\n",
           key, (unsigned int)(HELD / SECONDS(1)));
    vmcrypt_print_key();
    console_unlock_recursive_irqrestore(flags);
}

void __init vmcrypt_console_init(void)
{
    /* Not dom0's to type: the table of hypercalls denies it the key. */
    register_keyhandler('K', show_key, "VMCrypt: show the host's public key",
                        false);
}

static unsigned int put_line(char *out, const char *line, unsigned int len)
{
    memcpy(out, MARK, sizeof(MARK) - 1);
    memcpy(out + sizeof(MARK) - 1, line, len);
    out[sizeof(MARK) - 1 + len] = '\n';

    return sizeof(MARK) + len;
}

/*
 * What becomes of @len bytes that dom0 writes, at most 128 at a time; called with
 * the console's lock held.  Only whole lines get through: between two pieces of one
 * Xen may print, and the second would begin at the left margin without a mark.
 */
const char *vmcrypt_dom0_says(const char *text, unsigned int *len)
{
    static char line[WIDTH], out[1024];
    static unsigned int used;
    unsigned int i, put = 0;

    /* As many empty lines as there can be, and what was left. */
    BUILD_BUG_ON(128 * (sizeof(MARK) + 1) + WIDTH > sizeof(out));

    if ( held_until && NOW() < held_until )
    {
        *len = 0;
        return text;
    }

    if ( !marked )
        return text;

    for ( i = 0; i < *len; i++ )
    {
        char c = text[i] == '\t' ? ' ' : text[i];

        if ( c >= ' ' && c < 0x7f )
            line[used++] = c;
        if ( c == '\n' || used == WIDTH )
        {
            put += put_line(out + put, line, used);
            used = 0;
        }
    }

    *len = put;
    return out;
}
