/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What work with keys leaves on the stack, in the machine code that is linked
 * into Xen: nothing but addresses, small numbers, and names that images carry in
 * clear, in any frame.
 */
#include <ucontext.h>

#include "checks.h"
#include "guest.h"
#include "backends.h"

static uint64_t stack[8192] __attribute__((aligned(64)));
static ucontext_t here, there;

static Page page __attribute__((aligned(64))), copy __attribute__((aligned(64)));
static struct guest *subject;
static struct VmcTicket ticket;
static SessionId session;
static PageTag tag;

static void encrypts(void)
{
    vmc_page_encrypt(subject->domain, &ticket, kind_of(5), &page);
}

static void encrypts_copy(void)
{
    vmc_page_encrypt_from(subject->domain, &ticket, &page, &copy);
}

/* From the beginning to the end, in a session of its own: the guest runs. */
static void exports(void)
{
    bool again;

    if ( vmc_page_begin(subject->domain, 10, PAGES, VMC_HELD_IDLE, &ticket, &again) || again )
        abort();
    vmc_page_encrypt_from(subject->domain, &ticket, &page, &copy);
    if ( vmc_page_end(subject->domain, &ticket) )
        abort();
}

static void restores(void)
{
    vmc_page_restore(subject->domain, &session, 10, 0, &page, &tag);
}

static struct guest *restored;
static struct image sealed, opened;
static struct VmcFacts facts;

static void boots(void)
{
    boot(VMC_BACKEND_PORTABLE);
}

static void seals(void)
{
    if ( seal(subject, &sealed) )
        abort();
}

static void opens(void)
{
    memcpy(opened.record, sealed.record, sealed.size);
    if ( vmc_record_open(restored->domain, &uuid, opened.record, sealed.size, &facts) )
        abort();
}

/* Wipes nothing, which must be seen. */
static void leaves(void)
{
    volatile uint8_t secret[64];

    for ( size_t i = 0; i < sizeof(secret); i++ )
        secret[i] = 0x5a;
}

static bool is_public(uint64_t word)
{
    uint64_t handle[2], name[2];

    memcpy(handle, uuid, sizeof(handle));
    memcpy(name, &facts.session, sizeof(name));

    /* Small or flags; an address of the program or of a library, as Linux places them. */
    if ( word < 1 << 20 || !(word & ~0x0101010101010101) ||
         (word >> 40 >= 0x55 && word >> 40 <= 0x56) || (word >> 40 >= 0x7e && word >> 40 <= 0x7f) )
        return true;

    /* How many vCPU states there are of which size, a domain's handle, a session. */
    return word == ((uint64_t)VCPU_SIZE << 32 | VCPUS) || word == handle[0] || word == handle[1] ||
           word == name[0] || word == name[1];
}

/* Words that may be secrets. */
static unsigned int residue(void (*work)(void))
{
    unsigned int words = 0;

    /* The first call may have the dynamic linker do something. */
    work();
    memset(stack, 0, sizeof(stack));
    getcontext(&there);
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = sizeof(stack);
    there.uc_link = &here;
    makecontext(&there, work, 0);
    swapcontext(&here, &there);
    for ( size_t i = 0; i < sizeof(stack) / sizeof(*stack); i++ )
        words += !is_public(stack[i]);

    return words;
}

static void suspended(struct guest *g)
{
    vmc_domain_enter(g->domain, VMC_STATE_SEALING);
    vmc_domain_enter(g->domain, VMC_STATE_RUNNING);
    vmc_domain_enter(g->domain, VMC_STATE_SUSPENDED);
}

static void records(void)
{
    struct guest from = create(), to = create();
    Page out;

    group_name = "keys and records";
    subject = &from;
    restored = &to;
    CHECK("a host key", residue(boots) == 0);
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
        if ( is_plain(pfn) )
            vmc_plain_gain(from.domain, pfn, VMC_CLASS_PAGE_TABLE);
    suspended(&from);
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
        if ( !export_page(&from, pfn, &out) )
            abort();
    sealed.capacity = vmc_record_capacity(from.domain, VCPUS, VCPU_SIZE);
    sealed.record = buffer(sealed.capacity);
    opened.record = buffer(sealed.capacity);
    seals();
    opens();
    CHECK("sealing", residue(seals) == 0);
    CHECK("opening", residue(opens) == 0);
    free(sealed.record);
    free(opened.record);
    destroy(&from);
    destroy(&to);
    end_of_group();
}

static void backend(const char *name, uint32_t number, bool possible)
{
    struct guest g = create();
    bool again;

    if ( !possible )
    {
        printf("SKIP  this CPU has no %s\n", name);
        return;
    }
    group_name = name;
    subject = &g;
    boot(number);
    suspended(&g);
    if ( vmc_page_begin(g.domain, 10, PAGES, VMC_HELD_PAGES, &ticket, &again) || again )
        abort();
    memset(&page, 0x5a, sizeof(page));
    CHECK("encrypting in place", residue(encrypts) == 0);
    CHECK("encrypting a copy", residue(encrypts_copy) == 0);
    CHECK("restoring", residue(restores) == 0);
    CHECK("canary: what is not wiped", residue(leaves) == 8);
    vmc_page_abandon(g.domain, &ticket);
    vmc_domain_enter(g.domain, VMC_STATE_RUNNING);
    CHECK("a page's export as a whole", residue(exports) == 0);
    destroy(&g);
    end_of_group();
}

int main(void)
{
    records();
    each_backend(backend);
    return end_of_program();
}
