/* SPDX-License-Identifier: GPL-2.0-only */
/* A domain and its image, for programs that call the Rust library as Xen does. */
#include <stdlib.h>
#include <string.h>

#include "xen.h"

#define PAGES 96
#define VCPUS 2
#define VCPU_SIZE 512
#define WORDS ((PAGES + 63) / 64)
#define PAGE_BYTES sizeof(Page)

struct guest {
    struct VmcDomain *domain;
    uint64_t *plain, *exported, *fresh;
    uint8_t *tags;
    Page *pages;
};

/* What dom0 carries away. */
struct image {
    Page *pages;
    uint8_t *record;
    size_t capacity, size;
    uint64_t sequence;
};

static const uint8_t uuid[16] = "a guest's handle";

static void *buffer(size_t size)
{
    void *p = aligned_alloc(16, (size + 15) & ~(size_t)15);

    if ( !p )
        abort();
    return memset(p, 0, size);
}

static struct guest create(void)
{
    struct guest g = {
        .domain = buffer(vmc_domain_size()),
        .plain = calloc(WORDS, 8),
        .exported = calloc(WORDS, 8),
        .fresh = calloc(WORDS, 8),
        .tags = calloc(PAGES, 16),
        .pages = calloc(PAGES, PAGE_BYTES),
    };

    vmc_domain_init(g.domain);
    vmc_domain_attach(g.domain, g.plain, g.exported, g.fresh, g.tags, PAGES);
    return g;
}

static void destroy(struct guest *g)
{
    vmc_domain_wipe(g->domain);
    free(g->domain);
    free(g->plain);
    free(g->exported);
    free(g->fresh);
    free(g->tags);
    free(g->pages);
}

static bool is_plain(unsigned int pfn)
{
    return pfn == 5 || pfn == 64;
}

/* 0 for a private page; the plain ones are page tables of level 1. */
static uint64_t kind_of(unsigned int pfn)
{
    return is_plain(pfn);
}

static inline struct VmcFacts facts_of(const uint8_t *handle)
{
    struct VmcFacts facts = {
        .pages = PAGES, .pfns = PAGES, .start_info = 7, .console = 8,
        .store = 9, .states = VCPUS, .state_size = VCPU_SIZE,
    };

    memcpy(facts.uuid, handle, 16);
    return facts;
}

static inline Verdict seal(struct guest *g, struct image *image)
{
    struct VmcFacts facts = facts_of(uuid);
    Verdict verdict = vmc_record_seal(g->domain, &facts, image->record,
                                      image->capacity, &image->size);

    image->sequence = facts.sequence;
    return verdict;
}

/* Account one page, and encrypt it into `out`. */
static inline bool export_page(struct guest *g, unsigned int pfn, Page *out)
{
    struct VmcTicket ticket;
    bool again = true;

    if ( vmc_page_begin(g->domain, pfn, PAGES, VMC_HELD_PAGES, &ticket, &again) || again )
        return false;
    if ( kind_of(pfn) )
    {
        memcpy(out, &g->pages[pfn], PAGE_BYTES);
        vmc_page_encrypt(g->domain, &ticket, kind_of(pfn), out);
    }
    else
        vmc_page_encrypt_from(g->domain, &ticket, &g->pages[pfn], out);
    return vmc_page_end(g->domain, &ticket) == 0;
}
