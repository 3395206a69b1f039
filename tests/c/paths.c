/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The paths whose instructions are counted, in the machine code that is linked into
 * Xen. Runs under callgrind, which counts inside the functions of the Rust part alone and
 * is asked for a dump after each path, named as the path is.
 */
#include <valgrind/callgrind.h>

#include "guest.h"

/* A canary makes each call more than once. */
static unsigned int times = 1;

#define CALL(call) do {                                 \
    for ( unsigned int i_ = 0; i_ < times; i_++ )       \
        call;                                           \
} while ( 0 )

/* A refusal would be a shorter path. Not counted: that is done inside the Rust part alone. */
static void must(bool good)
{
    if ( !good )
        abort();
}

static void begin(void)
{
    CALLGRIND_ZERO_STATS;
}

static void end(const char *path)
{
    CALLGRIND_DUMP_STATS_AT(path);
}

/* What map_foreign() of Xen's map.c calls for a private page, in that order. */
static void map_private(struct guest *g, const char *name)
{
    static Page page __attribute__((aligned(64))), scratch __attribute__((aligned(64)));
    struct VmcTicket ticket;
    uint32_t view;
    bool again;

    begin();
    CALL(must(!vmc_plain_has(g->domain, 10)));
    CALL(must(!vmc_map_judge(g->domain, VMC_FRAME_ORDINARY, false, true, &view) && view == VMC_VIEW_CIPHER));
    CALL(must(vmc_domain_state(g->domain) == VMC_STATE_SUSPENDED));
    CALL(must(!vmc_page_begin(g->domain, 10, PAGES, VMC_HELD_PAGES, &ticket, &again) && !again));
    CALL(vmc_page_encrypt_from(g->domain, &ticket, &page, &scratch));
    CALL(must(!vmc_page_end(g->domain, &ticket)));
    end(name);
}

/* What every backend shares. */
static void events(struct guest *g)
{
    enum { DOMCTL = 36, GETDOMAININFO = 5 };
    uint32_t view;

    begin();
    CALL(must(!vmc_plain_has(g->domain, 10)));
    CALL(must(!vmc_map_judge(g->domain, VMC_FRAME_ORDINARY, false, true, &view) && view == VMC_VIEW_CIPHER));
    end("classify a page");
    begin();
    CALL(must(vmc_domain_state(g->domain) == VMC_STATE_SUSPENDED));
    CALL(must(!vmc_door_denies(DOMCTL, GETDOMAININFO, VMC_STATE_RUNNING)));
    end("judge a hypercall");
    begin();
    CALL(vmc_page_dirtied(g->domain, 11));
    end("note a written page");
    begin();
    CALL(vmc_plain_gain(g->domain, 11, VMC_CLASS_PAGE_TABLE));
    CALL(vmc_plain_lose(g->domain, 11, VMC_CLASS_PAGE_TABLE));
    end("page becomes plain and private again");
}

/* A record of the pages that were exported, and what is read from it at restore. */
static struct VmcFacts record(struct guest *g, struct guest *restored, bool counted)
{
    struct VmcFacts facts = {0};
    struct image image;

    image.capacity = vmc_record_capacity(g->domain, VCPUS, VCPU_SIZE);
    image.record = buffer(image.capacity);
    begin();
    CALL(must(!seal(g, &image)));
    if ( counted )
        end("seal a small record");
    begin();
    CALL(vmc_record_open(restored->domain, &uuid, image.record, image.size, &facts));
    if ( counted )
        end("open a small record");
    free(image.record);
    if ( facts.pages != PAGES )
        abort();
    return facts;
}

/* A guest is exported and restored. */
static void life(uint32_t backend, const char *map, const char *restore)
{
    struct guest g = create(), restored = create();
    const bool portable = backend == VMC_BACKEND_PORTABLE;
    struct VmcFacts facts;
    PageTag tag;
    Page scratch;

    boot(backend);
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
        if ( is_plain(pfn) )
            vmc_plain_gain(g.domain, pfn, VMC_CLASS_PAGE_TABLE);
    vmc_domain_enter(g.domain, VMC_STATE_SEALING);
    vmc_domain_enter(g.domain, VMC_STATE_RUNNING);
    vmc_domain_enter(g.domain, VMC_STATE_SUSPENDED);
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
        if ( !export_page(&g, pfn, &scratch) )
            abort();
    facts = record(&g, &restored, portable);
    begin();
    CALL(vmc_page_restore(restored.domain, (const SessionId *)&facts.session, 10, 0, &scratch, &tag);
         vmc_page_restored(restored.domain, 0, &tag));
    end(restore);
    map_private(&g, map);
    if ( portable )
        events(&g);
    destroy(&g);
    destroy(&restored);
}

/* `again` makes each call twice. */
int main(int argc, char **argv)
{
    if ( argc == 2 && !strcmp(argv[1], "again") )
        times = 2;
    life(VMC_BACKEND_PORTABLE, "map a private page, portable", "restore a page, portable");
    if ( __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") )
        life(VMC_BACKEND_AESNI, "map a private page, AES-NI", "restore a page, AES-NI");
    return 0;
}
