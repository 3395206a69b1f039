/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What work with keys leaves on the stack, in the machine code that is linked
 * into Xen: nothing but addresses, small numbers, and names that images carry in
 * clear, in any frame. Every function that Xen calls is run so, or has its reason here.
 */
#include <ucontext.h>

#include "checks.h"
#include "guest.h"
#include "owner.h"
#include "backends.h"

/* From `cargo xtask`, which reads the header: the functions' names, and whether each was called. */
extern const char *const exports[];
extern uint8_t called[];

#define MOST 256
/* Those that were called while the stack was looked at. */
static bool seen[MOST];

/* What is not run, because it meets neither a key nor anything that was computed from one. */
static const struct {
    const char *names, *reason;
} left_out[] = {
    { "vmc_domain_size vmc_domain_init vmc_domain_attach vmc_domain_state vmc_domain_refuse",
      "numbers, and memory that is empty yet" },
    { "vmc_refusal_text vmc_weakness_text vmc_door_name vmc_door_denies vmc_map_judge "
      "vmc_door_denies_all vmc_door_denies_frames vmc_machine_right",
      "tables and texts" },
    { "vmc_measure_begin vmc_measure_add vmc_measure_page vmc_measure_end",
      "an unkeyed hash of what dom0 loaded" },
    { "vmc_plain_gain vmc_plain_lose vmc_plain_has vmc_p2m_is_leaf vmc_p2m_saved_end", "classes of frames" },
    { "vmc_page_in_flight vmc_page_unnoticed vmc_page_dirtied vmc_page_tracking",
      "sets of page numbers" },
    { "vmc_record_capacity vmc_record_is", "sizes" },
    { "vmc_owner_add", "an owner's public key" },
    { "vmc_backend_use", "stores a number" },
    { "vmc_restore_attempt", "counts" },
    { "vmc_record_forget", "wipes keys, and makes nothing of them" },
    { "vmc_backend_wipe", "has no stack: registers alone" },
};

static uint64_t stack[8192] __attribute__((aligned(64)));
static ucontext_t here, there;

static Page page __attribute__((aligned(64))), copy __attribute__((aligned(64)));
static Page empty __attribute__((aligned(64)));
static uint32_t number;
static struct guest *subject, *restored, *spare;
static struct VmcTicket ticket;
static SessionId session;
static PageTag tag, kept;
static struct image sealed, opened;
static struct VmcFacts facts;
static struct VmcHostInfo host;
static struct VmcDomainInfo info;
static struct VmcAnswer answer;
/* As it came, and as it is handed in. */
static struct VmcKeyLoad file, load;
static uint64_t words[WORDS];

static void must(bool right)
{
    if ( !right )
        abort();
}

static void passes(void)
{
    must(vmc_backend_passes(number, spare->domain, &empty, &copy));
}

static void encrypts(void)
{
    vmc_page_encrypt(subject->domain, &ticket, kind_of(5), &page);
}

static void encrypts_copy(void)
{
    vmc_page_encrypt_from(subject->domain, &ticket, &page, &copy);
}

/* From the beginning to the end, in a session of its own: the guest runs. */
static void exports_page(void)
{
    bool again;

    must(!vmc_page_begin(subject->domain, 10, PAGES, VMC_HELD_IDLE, &ticket, &again) && !again);
    vmc_page_encrypt_from(subject->domain, &ticket, &page, &copy);
    must(!vmc_page_end(subject->domain, &ticket));
}

static void abandons(void)
{
    bool again;

    must(!vmc_page_begin(subject->domain, 10, PAGES, VMC_HELD_IDLE, &ticket, &again) && !again);
    vmc_page_encrypt_from(subject->domain, &ticket, &page, &copy);
    vmc_page_abandon(subject->domain, &ticket);
}

/* Takes out of the digest what was in it. */
static void forgets(void)
{
    exports_page();
    vmc_page_forget(subject->domain, 10);
}

/* A page that dom0 has is the domain's no more. */
static void frees(void)
{
    exports_page();
    vmc_page_freed(subject->domain, 10, VMC_CLASS_P2M, true);
}

static void ends_session(void)
{
    exports_page();
    vmc_domain_exporting(subject->domain, true);
}

static void restores(void)
{
    vmc_page_restore(subject->domain, &session, 10, 0, &page, &tag);
}

static void boots(void)
{
    boot(VMC_BACKEND_PORTABLE);
}

static void describes_host(void)
{
    vmc_host_describe(&host);
}

static void loads(void)
{
    load = file;
    must(!vmc_key_load(&load));
}

static void owns(void)
{
    static const uint8_t measured[32] = {9};

    must(!vmc_domain_own(subject->domain, &uuid, &measured));
}

/* A restored domain goes under its owner's latest key. */
static void renews(void)
{
    static const uint8_t measured[32] = {9};

    vmc_domain_renew(subject->domain, &uuid, &measured);
}

static void answers(void)
{
    must(!vmc_domain_answer(subject->domain, &answer));
}

static void describes(void)
{
    vmc_domain_describe(subject->domain, &info);
}

static void seals(void)
{
    must(!seal(subject, &sealed));
}

static void opens(void)
{
    memcpy(opened.record, sealed.record, sealed.size);
    must(!vmc_record_open(restored->domain, &uuid, opened.record, sealed.size, &facts));
}

static void asks_for_leave(void)
{
    vmc_domain_unvouched(restored->domain, &uuid, PAGES, VMC_RESTORE_OPENED);
}

static void begins(void)
{
    memset(words, 0, sizeof(words));
    must(!vmc_record_begin(restored->domain, opened.record, sealed.size, words, WORDS));
}

static void takes_in(void)
{
    memcpy(&tag, &kept, sizeof(tag));
    vmc_page_restored(restored->domain, 0, &tag);
}

static void verifies_plain(void)
{
    must(!vmc_record_verify_plain(restored->domain, opened.record, sealed.size));
}

static void verifies(void)
{
    must(!vmc_record_verify(restored->domain, opened.record, sealed.size));
}

/* A session ends with that, whose keys are wiped. */
static void runs_on(void)
{
    bool again;

    vmc_domain_enter(subject->domain, VMC_STATE_SUSPENDED);
    must(!vmc_page_begin(subject->domain, 10, PAGES, VMC_HELD_PAGES, &ticket, &again) && !again);
    vmc_page_abandon(subject->domain, &ticket);
    must(vmc_domain_enter(subject->domain, VMC_STATE_RUNNING));
}

static void dies(void)
{
    must(vmc_domain_kill(subject->domain));
}

static void wipes(void)
{
    vmc_domain_wipe(restored->domain);
}

static void wipes_keyring(void)
{
    vmc_keyring_wipe();
}

static void wipes_host(void)
{
    vmc_host_wipe();
}

/* Wipes nothing, which must be seen. */
static void leaves(void)
{
    volatile uint8_t secret[64];

    for ( size_t i = 0; i < sizeof(secret); i++ )
        secret[i] = 0x5a;
}

/* Whether it stands somewhere in these bytes. */
static bool is_in(const void *bytes, size_t size, uint64_t word)
{
    for ( size_t at = 0; at + sizeof(word) <= size; at++ )
        if ( !memcmp((const uint8_t *)bytes + at, &word, sizeof(word)) )
            return true;
    return false;
}

static bool is_public(uint64_t word)
{
    /* Small or flags; an address of the program or of a library, as Linux places them. */
    if ( word < 1 << 20 || !(word & ~0x0101010101010101) ||
         (word >> 40 >= 0x55 && word >> 40 <= 0x56) || (word >> 40 >= 0x7e && word >> 40 <= 0x7f) )
        return true;

    /* How many vCPU states there are of which size, a backend's number as the upper half. */
    if ( word == ((uint64_t)VCPU_SIZE << 32 | VCPUS) || word == (uint64_t)number << 32 )
        return true;

    /* What images, sealed keys and hypercalls say in clear. */
    return is_in(uuid, sizeof(uuid), word) || is_in(&facts.session, sizeof(facts.session), word) ||
           is_in(&ticket.tweak, sizeof(ticket.tweak), word) || is_in(&host, sizeof(host), word) ||
           is_in(&file, sizeof(file), word);
}

/* Words that may be secrets. */
static unsigned int suspicious(void)
{
    unsigned int count = 0;

    for ( size_t i = 0; i < sizeof(stack) / sizeof(*stack); i++ )
        count += !is_public(stack[i]);
    return count;
}

/* Those that some work leaves. */
static unsigned int residue(void (*work)(void))
{
    for ( size_t i = 0; exports[i]; i++ )
        called[i] = 0;
    /* The first call may have the dynamic linker do something. */
    work();
    memset(stack, 0, sizeof(stack));
    getcontext(&there);
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = sizeof(stack);
    there.uc_link = &here;
    makecontext(&there, work, 0);
    swapcontext(&here, &there);
    for ( size_t i = 0; exports[i] && i < MOST; i++ )
        seen[i] |= called[i];
    return suspicious();
}

static void suspended(struct guest *g)
{
    vmc_domain_enter(g->domain, VMC_STATE_SEALING);
    vmc_domain_enter(g->domain, VMC_STATE_RUNNING);
    vmc_domain_enter(g->domain, VMC_STATE_SUSPENDED);
}

static void records(const char *name, bool owned)
{
    struct guest from = create(), to = create();
    Page *image = buffer(PAGES * PAGE_BYTES);

    group_name = name;
    subject = &from;
    restored = &to;
    if ( owned )
        CHECK("becoming the owner's", residue(owns) == 0);
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
        if ( is_plain(pfn) )
            vmc_plain_gain(from.domain, pfn, VMC_CLASS_PAGE_TABLE);
    suspended(&from);
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
        must(export_page(&from, pfn, &image[pfn]));
    sealed.capacity = vmc_record_capacity(from.domain, VCPUS, VCPU_SIZE);
    sealed.record = buffer(sealed.capacity);
    opened.record = buffer(sealed.capacity);
    seals();
    opens();
    CHECK("describing", residue(describes) == 0);
    CHECK("going under the latest key", residue(renews) == 0);
    CHECK("an answer to the guest", residue(answers) == 0);
    CHECK("sealing", residue(seals) == 0);
    CHECK("opening", residue(opens) == 0);
    CHECK("asking whether a record may be restored", residue(asks_for_leave) == 0);
    begins();
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
    {
        memcpy(&page, is_plain(pfn) ? &from.pages[pfn] : &image[pfn], PAGE_BYTES);
        vmc_page_restore(to.domain, &facts.session, pfn, kind_of(pfn), &page, &tag);
        memcpy(&kept, &tag, sizeof(tag));
        vmc_page_restored(to.domain, kind_of(pfn), &tag);
    }
    CHECK("verifying plain pages", residue(verifies_plain) == 0);
    CHECK("verifying private pages", residue(verifies) == 0);
    CHECK("taking in a page", residue(takes_in) == 0);
    CHECK("beginning a restore", residue(begins) == 0);
    CHECK("running on", residue(runs_on) == 0);
    CHECK("wiping a domain", residue(wipes) == 0);
    CHECK("the end of a domain", residue(dies) == 0);
    free(sealed.record);
    free(opened.record);
    free(image);
    destroy(&from);
    destroy(&to);
    end_of_group();
}

static void backend(const char *name, uint32_t backend_number, bool possible)
{
    struct guest g = create(), other = create();
    bool again;

    if ( !possible )
    {
        printf("SKIP  this CPU has no %s\n", name);
        return;
    }
    group_name = name;
    number = backend_number;
    subject = &g;
    spare = &other;
    boot(number);
    CHECK("the test at boot", residue(passes) == 0);
    suspended(&g);
    must(!vmc_page_begin(g.domain, 10, PAGES, VMC_HELD_PAGES, &ticket, &again) && !again);
    memset(&page, 0x5a, sizeof(page));
    CHECK("encrypting in place", residue(encrypts) == 0);
    CHECK("encrypting a copy", residue(encrypts_copy) == 0);
    CHECK("restoring", residue(restores) == 0);
    CHECK("canary: what is not wiped", residue(leaves) == 8);
    vmc_page_abandon(g.domain, &ticket);
    vmc_domain_enter(g.domain, VMC_STATE_RUNNING);
    CHECK("a page's export as a whole", residue(exports_page) == 0);
    CHECK("an export that is abandoned", residue(abandons) == 0);
    CHECK("forgetting a page", residue(forgets) == 0);
    CHECK("a page that is freed", residue(frees) == 0);
    CHECK("ending a session", residue(ends_session) == 0);
    destroy(&g);
    destroy(&other);
    end_of_group();
}

/* Whether there is a reason not to run it. */
static bool is_left_out(const char *name)
{
    size_t length = strlen(name);

    for ( size_t i = 0; i < sizeof(left_out) / sizeof(*left_out); i++ )
        for ( const char *at = left_out[i].names; (at = strstr(at, name)); at += length )
            if ( (at == left_out[i].names || at[-1] == ' ') && (at[length] == ' ' || !at[length]) )
                return true;
    return false;
}

/* Each was run, or is left out for a reason, and not both. */
static bool is_covered(const char *name, bool was_run)
{
    return was_run != is_left_out(name);
}

static void coverage(void)
{
    size_t count = 0, reasons = 0;

    group_name = "every function that Xen calls";
    for ( ; exports[count] && count < MOST; count++ )
    {
        CHECK(exports[count], is_covered(exports[count], seen[count]));
        reasons += is_left_out(exports[count]);
    }
    CHECK("no more than there is room for", !exports[count]);
    for ( size_t i = 0; i < sizeof(left_out) / sizeof(*left_out); i++ )
        for ( const char *at = left_out[i].names; at; at = strchr(at + 1, ' ') )
            reasons--;
    CHECK("what is left out exists", reasons == 0);
    CHECK("canary: neither run nor left out", !is_covered("vmc_domain", false));
    CHECK("canary: left out, and run", !is_covered("vmc_domain_size", true));
    end_of_group();
}

/* `public-key`, or a file with the key of an owner that is sealed to that public key. */
int main(int argc, char **argv)
{
    if ( argc != 2 )
        return 2;
    if ( !strcmp(argv[1], "public-key") )
    {
        print_public_key();
        return 0;
    }
    read_key(argv[1], &file);
    must(name_owner(&file));
    boots();
    vmc_host_describe(&host);

    group_name = "keys";
    CHECK("a host key", residue(boots) == 0);
    CHECK("its name", residue(describes_host) == 0);
    CHECK("an owner's key", residue(loads) == 0);
    end_of_group();
    records("records under the host's key", false);
    records("records under an owner's key", true);
    each_backend(backend);
    group_name = "the machine goes down";
    CHECK("wiping the keyring", residue(wipes_keyring) == 0);
    CHECK("wiping the host key", residue(wipes_host) == 0);
    end_of_group();
    coverage();
    return end_of_program();
}
