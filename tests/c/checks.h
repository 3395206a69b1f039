/* SPDX-License-Identifier: GPL-2.0-only */
/* Checks in groups, each of which is one verdict. */
#include <stdio.h>

static const char *group_name;

/* Checks of the group that runs, and groups. */
static unsigned int passed, failed, good_groups, bad_groups;

#define CHECK(what, cond) do {                                          \
    if ( cond )                                                         \
        passed++;                                                       \
    else                                                                \
    {                                                                   \
        failed++;                                                       \
        printf("FAIL  %s:%d: %s\n", group_name, __LINE__, what);      \
    }                                                                   \
} while ( 0 )

static void end_of_group(void)
{
    printf("%s  %s: %u checks passed, %u failed\n", failed ? "FAIL" : "  ok",
           group_name, passed, failed);
    if ( failed )
        bad_groups++;
    else
        good_groups++;
    passed = failed = 0;
}

/* The last line, and what the program returns. */
static int end_of_program(void)
{
    printf("%u passed, %u failed\n", good_groups, bad_groups);
    return bad_groups != 0;
}
