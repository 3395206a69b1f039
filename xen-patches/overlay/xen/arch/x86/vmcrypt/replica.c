// SPDX-License-Identifier: GPL-2.0-only
/*
 * Replica frames: what dom0 maps in place of a guest's page.
 *
 * All of them are taken from the heap at boot and never go back, so a TLB entry
 * that outlives its mapping can show only another replica: content that dom0
 * may see anyway.  They belong to a domain of their own, which no hypercall can
 * name, and have no entry in the M2P.
 */
#include <xen/init.h>
#include <xen/domain.h>
#include <xen/err.h>
#include <xen/event.h>
#include <xen/param.h>
#include <xen/vmap.h>
#include <asm/p2m.h>

#include "private.h"

/* Not a domid that DOMID_* of public/xen.h knows; above all ordinary ones. */
#define DOMID_VMCRYPT 0x7ff8

/*
 * xl maps batches of 1,024 pages and keeps the P2M leaves, one page for each
 * 2 MiB of guest memory, mapped during a whole save.
 */
#define POOL_BATCHES 8192

/* Replicas that a CPU may keep at hand, so that CPUs do not wait for each other. */
#define CACHED 32

static unsigned int __initdata opt_pool;
integer_param("vmcrypt-pool", opt_pool);

struct replica {
    struct page_info *frame;
    struct page_info *source;  /* NULL: free; holds a reference otherwise */
    unsigned int next;         /* of the free list */
    bool p2m;                  /* content is renewed when the domain suspends */
};

/* Of every CPU; one that is off keeps what it had. */
struct cache {
    unsigned int count;
    unsigned int replica[CACHED];
} __cacheline_aligned;

struct domain *__read_mostly vmcrypt_replica_owner;

static struct cache *__read_mostly caches;
static DEFINE_SPINLOCK(pool_lock);
static struct replica *__read_mostly pool;
static unsigned int __read_mostly pool_size;
static unsigned int pool_free, pool_low, first_free;
static unsigned long pool_exhausted;

bool vmcrypt_is_replica(const struct page_info *page)
{
    return vmcrypt_replica_owner &&
           page_get_owner(page) == vmcrypt_replica_owner;
}

static struct replica *replica_of(const struct page_info *frame)
{
    return &pool[frame->list.next];
}

/* A free replica, or NULL. */
static struct replica *take(void)
{
    struct cache *c = &caches[smp_processor_id()];

    if ( !c->count )
    {
        spin_lock(&pool_lock);
        for ( ; pool_free && c->count < CACHED / 2; pool_free-- )
        {
            c->replica[c->count++] = first_free;
            first_free = pool[first_free].next;
        }
        pool_low = min(pool_low, pool_free);
        pool_exhausted += !c->count;
        spin_unlock(&pool_lock);
    }

    return c->count ? &pool[c->replica[--c->count]] : NULL;
}

static void give_back(const struct replica *r)
{
    struct cache *c = &caches[smp_processor_id()];

    if ( c->count == CACHED )
    {
        spin_lock(&pool_lock);
        for ( ; c->count > CACHED / 2; pool_free++ )
        {
            unsigned int i = c->replica[--c->count];

            pool[i].next = first_free;
            first_free = i;
        }
        spin_unlock(&pool_lock);
    }
    c->replica[c->count++] = r - pool;
}

/* Whoever renews contents must find those of P2M leaves as they are. */
static void set(struct replica *r, struct page_info *source, bool p2m)
{
    bool renewed = r->p2m || p2m;

    if ( renewed )
        spin_lock(&pool_lock);
    r->source = source;
    r->p2m = p2m;
    if ( renewed )
        spin_unlock(&pool_lock);
}

/* A replica for @source, whose reference moves to it; NULL if none is free. */
struct page_info *vmcrypt_replica_get(struct page_info *source, bool p2m)
{
    struct replica *r = take();

    if ( !r )
        return NULL;

    set(r, source, p2m);
    atomic_inc(&vmcrypt_of(page_get_owner(source))->replicas);

    return r->frame;
}

/* Frees a replica and gives back the frame whose reference it held. */
struct page_info *vmcrypt_replica_put(struct page_info *frame)
{
    struct replica *r = replica_of(frame);
    struct page_info *source = r->source;

    set(r, NULL, false);
    give_back(r);
    atomic_dec(&vmcrypt_of(page_get_owner(source))->replicas);

    return source;
}

/*
 * xl maps the P2M leaves before the guest suspends and reads them afterwards:
 * copy the final content.  Runs in the guest's own suspend hypercall.
 */
int vmcrypt_replica_refresh(struct vmcrypt_domain *vm)
{
    void *scratch = vmcrypt_scratch();
    int rc = 0;

    while ( vm->refresh_cursor < pool_size )
    {
        struct replica *r = &pool[vm->refresh_cursor];

        if ( !(++vm->refresh_cursor % 256) && hypercall_preempt_check() )
            rc = -ERESTART;
        if ( !ACCESS_ONCE(r->p2m) )
            goto next;

        spin_lock(&pool_lock);
        if ( r->source && r->p2m && page_get_owner(r->source) == vm->d )
        {
            vmcrypt_copy_from(scratch, page_to_mfn(r->source));
            if ( vmcrypt_is_leaf(scratch, ~0UL) )
                vmcrypt_copy_to(page_to_mfn(r->frame), scratch);
        }
        spin_unlock(&pool_lock);

 next:
        if ( rc )
            break;
    }
    clear_page(scratch);
    if ( !rc )
        vm->refresh_cursor = 0;

    return rc;
}

void vmcrypt_replica_describe(struct VmcHostInfo *info)
{
    unsigned int cpu;

    spin_lock(&pool_lock);
    info->pool_frames = pool_size;
    info->pool_free = pool_free;
    for ( cpu = 0; cpu < nr_cpu_ids; cpu++ )
        info->pool_free += ACCESS_ONCE(caches[cpu].count);
    info->pool_low = pool_low;
    info->pool_exhausted = pool_exhausted;
    spin_unlock(&pool_lock);
}

int __init vmcrypt_replica_init(void)
{
    unsigned int i, size = opt_pool ?: POOL_BATCHES + total_pages / 512;

    /* More than the machine has frames is asked for by mistake. */
    size = min_t(unsigned long, size, total_pages) + CACHED * nr_cpu_ids;

    vmcrypt_replica_owner = domain_create(DOMID_VMCRYPT, NULL, 0);
    if ( IS_ERR(vmcrypt_replica_owner) )
        panic("VMCrypt: cannot create the replicas' owner\n");

    pool = vzalloc(size * sizeof(*pool));
    caches = xzalloc_array(struct cache, nr_cpu_ids);
    if ( !pool || !caches )
        return -ENOMEM;

    for ( i = 0; i < size; i++ )
    {
        struct page_info *pg = alloc_domheap_page(NULL, 0);

        if ( !pg )
            return -ENOMEM;

        set_gpfn_from_mfn(mfn_x(page_to_mfn(pg)), INVALID_M2P_ENTRY);
        page_set_owner(pg, vmcrypt_replica_owner);
        pg->count_info = PGC_allocated | 1;
        pg->list.next = i;
        pool[i].frame = pg;
        pool[i].next = i + 1;
    }
    pool_size = pool_free = pool_low = size;

    return 0;
}
