/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether a branch or an address depends on a secret, in the machine code that
 * is linked into Xen. Runs under valgrind's memcheck, which follows through every
 * instruction what was computed from bytes that nobody set, and reports a jump or
 * an address made of them. Entropy, guests' pages and vCPU states are such bytes here
 * (A. Langley, "ctgrind", 2010).
 *
 * What follows from a secret and is public all the same the Rust part says itself, at
 * each place, and docs/CRYPTO.md gives the reasons.
 */
#include <valgrind/memcheck.h>
#include <valgrind/valgrind.h>

#include "checks.h"
#include "guest.h"
#include "owner.h"

static void secret(void *p, size_t size)
{
    (void)VALGRIND_MAKE_MEM_UNDEFINED(p, size);
}

static void public(void *p, size_t size)
{
    (void)VALGRIND_MAKE_MEM_DEFINED(p, size);
}

/* Bytes that nothing secret went into. */
static size_t public_bytes(const void *p, size_t size)
{
    size_t count = 0;

    for ( size_t i = 0; i < size; i++ )
    {
        uint8_t bits = 0xff;

        (void)VALGRIND_GET_VBITS((const uint8_t *)p + i, &bits, 1);
        count += bits == 0;
    }
    return count;
}

/*
 * dom0 gets these bytes, which are encrypted. That they are made of secrets
 * shows that memcheck did not lose the trace on the way.
 */
static void publish(void *p, size_t size)
{
    CHECK("what is encrypted is made of secrets", public_bytes(p, size) == 0);
    public(p, size);
}

/*
 * Valgrind calls what follows in place of the functions named so: the two of them through
 * which something becomes secret, or public.
 */

/* Set while Xen draws its keys. Session ids, drawn later, are public: dom0 is told them. */
static bool entropy_is_secret;

unsigned long I_WRAP_SONAME_FNNAME_ZZ(NONE, vmcZucZurandom)(uint64_t *word)
{
    unsigned long drawn;
    OrigFn fn;

    VALGRIND_GET_ORIG_FN(fn);
    CALL_FN_W_W(drawn, fn, word);
    if ( entropy_is_secret )
        secret(word, sizeof(*word));
    return drawn;
}

/* Cleared by a canary. */
static bool disclosed_is_public = true;

/*
 * vmcrypt_core::disclose::disclose(bytes). The slice comes in two registers; should a compiler ever
 * pass it in another way, nothing becomes public and the checks below fail.
 */
unsigned long I_WRAP_SONAME_FNNAME_ZZ(NONE, Za8disclose8disclose)(void *bytes, size_t size)
{
    unsigned long nothing;
    OrigFn fn;

    VALGRIND_GET_ORIG_FN(fn);
    CALL_FN_W_WW(nothing, fn, bytes, size);
    if ( disclosed_is_public )
        public(bytes, size);
    return nothing;
}

/* Uses of secrets that memcheck saw since it was asked before. */
static unsigned int uses(void)
{
    static unsigned int before;
    unsigned int all = VALGRIND_COUNT_ERRORS, since = all - before;

    before = all;
    return since;
}

static void begin(const char *name)
{
    group_name = name;
    VALGRIND_PRINTF("begin %s\n", name);
    uses();
}

static void end(void)
{
    CHECK("nothing secret decides about a jump or an address", uses() == 0);
    end_of_group();
}

static void boot_with_secrets(uint32_t backend)
{
    entropy_is_secret = true;
    boot(backend);
    entropy_is_secret = false;
}

/* Restores an image; 0 if everything in it held. */
static Verdict restore(const struct image *image, const struct guest *same_as)
{
    struct guest g = create();
    uint8_t *record = malloc(image->size);
    uint64_t plain[WORDS] = {0};
    struct VmcFacts facts;
    Verdict verdict;

    memcpy(record, image->record, image->size);
    memcpy(g.pages, image->pages, PAGES * PAGE_BYTES);
    verdict = vmc_record_open(g.domain, &uuid, record, image->size, &facts);
    if ( !verdict )
        verdict = vmc_record_begin(g.domain, record, image->size, plain, WORDS);
    for ( unsigned int pfn = 0; !verdict && pfn < PAGES; pfn++ )
    {
        PageTag tag;
        Page copy;

        memcpy(&copy, &g.pages[pfn], PAGE_BYTES);
        vmc_page_restore(g.domain, (const SessionId *)&facts.session, pfn, kind_of(pfn),
                         is_plain(pfn) ? &copy : &g.pages[pfn], &tag);
        vmc_page_restored(g.domain, kind_of(pfn), &tag);
    }
    if ( !verdict )
        verdict = vmc_record_verify_plain(g.domain, record, image->size);
    if ( !verdict )
        verdict = vmc_record_verify(g.domain, record, image->size);
    if ( !verdict )
    {
        CHECK("a restored page is secret", public_bytes(&g.pages[3], PAGE_BYTES) == 0);
        CHECK("vCPU states are secret",
              public_bytes(record + VMC_RECORD_STATES, VCPUS * VCPU_SIZE) == 0);
        public(g.pages, PAGES * PAGE_BYTES);
        CHECK("restored memory is the exported memory",
              !memcmp(g.pages, same_as->pages, PAGES * PAGE_BYTES));
    }
    free(record);
    destroy(&g);
    return verdict;
}

/* A guest is exported and restored, under its owner's key if there is one. */
static void life(bool owned)
{
    const uint8_t measured[32] = {9};
    struct guest g = create();
    struct image image = { .pages = calloc(PAGES, PAGE_BYTES) };

    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
        memset(&g.pages[pfn], 'A' + pfn % 26, PAGE_BYTES);
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
        if ( is_plain(pfn) )
            vmc_plain_gain(g.domain, pfn, VMC_CLASS_PAGE_TABLE);
    vmc_domain_enter(g.domain, VMC_STATE_SEALING);
    if ( owned )
        CHECK("the domain is its owner's", vmc_domain_own(g.domain, &uuid, &measured) == 0);
    vmc_domain_enter(g.domain, VMC_STATE_RUNNING);
    vmc_domain_enter(g.domain, VMC_STATE_SUSPENDED);

    image.capacity = vmc_record_capacity(g.domain, VCPUS, VCPU_SIZE);
    image.record = calloc(1, image.capacity);
    secret(g.pages, PAGES * PAGE_BYTES);
    secret(image.record + VMC_RECORD_STATES, VCPUS * VCPU_SIZE);
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
    {
        CHECK("page is exported", export_page(&g, pfn, &image.pages[pfn]));
        publish(&image.pages[pfn], PAGE_BYTES);
        if ( is_plain(pfn) )
            memcpy(&image.pages[pfn], &g.pages[pfn], PAGE_BYTES);
    }
    CHECK("a page exported twice", export_page(&g, 3, &image.pages[3]));
    publish(&image.pages[3], PAGE_BYTES);
    CHECK("tags are secret", public_bytes(g.tags, 16 * PAGES) == 0);
    CHECK("record is sealed", seal(&g, &image) == 0);
    CHECK("its header is in clear", public_bytes(image.record, 72) == 72);
    publish(image.record + 72, image.size - 72);

    public(g.pages, PAGES * PAGE_BYTES);
    CHECK("restore", restore(&image, &g) == 0);
    image.pages[17][4095] ^= 0x80;
    CHECK("a changed page is refused", restore(&image, &g) == VMC_REFUSAL_PAGES_DIFFER + 1);
    image.record[image.size - 1] ^= 1;
    CHECK("a changed record is refused", restore(&image, &g) == VMC_REFUSAL_RECORD_CHANGED + 1);

    vmc_domain_kill(g.domain);
    destroy(&g);
    free(image.pages);
    free(image.record);
}

/* An owner's key is taken, and is refused when it was changed. */
static void owner(const struct VmcKeyLoad *genuine)
{
    struct VmcKeyLoad load = *genuine;

    CHECK("an owner is named", name_owner(genuine));
    CHECK("his key is taken", vmc_key_load(&load) == 0);
    load.bytes[load.size - 1] ^= 1;
    CHECK("the tag of the file", vmc_key_load(&load) == VMC_REFUSAL_KEY_CHANGED + 1);
    load = *genuine;
    load.bytes[load.size - 32 - 1] ^= 1;
    CHECK("the tag of an envelope", vmc_key_load(&load) == VMC_REFUSAL_KEY_CHANGED + 1);
    load = *genuine;
    memset(load.bytes + 136 + 32, 0, 32);
    CHECK("a point of small order", vmc_key_load(&load) == VMC_REFUSAL_KEY_CHANGED + 1);
}

/* What a use of a secret looks like: memcheck must see each. */
static void canaries(const struct VmcKeyLoad *genuine)
{
    static const volatile uint8_t table[256];
    struct VmcKeyLoad load = *genuine;
    volatile uint8_t byte = 0x5a;
    unsigned int tags;

    uses();
    secret((void *)&byte, 1);
    (void)table[byte];
    CHECK("an index", uses() > 0);
    if ( byte & 1 )
        __asm__ volatile ( "nop" );
    CHECK("a branch", uses() > 0);

    /* And in the Rust part, with what it made of Xen's entropy. */
    disclosed_is_public = false;
    CHECK("a comparison of tags", vmc_key_load(&load) == 0 && (tags = uses()) > 0);
    boot_with_secrets(VMC_BACKEND_PORTABLE);
    uses();
    CHECK("a public key that follows from a secret, besides", vmc_key_load(&load) == 0 && uses() > tags);
    disclosed_is_public = true;
    public(&load, sizeof(load));
}

/* `public-key`, or a file with the key of an owner that is sealed to that public key. */
int main(int argc, char **argv)
{
    struct VmcKeyLoad key = {0};
    struct VmcHostInfo info;

    if ( argc != 2 )
        return 2;
    if ( !strcmp(argv[1], "public-key") )
    {
        print_public_key();
        return 0;
    }
    if ( !RUNNING_ON_VALGRIND )
    {
        fputs("this means nothing but under valgrind\n", stderr);
        return 2;
    }
    read_key(argv[1], &key);

    begin("keys of the host");
    boot_with_secrets(VMC_BACKEND_PORTABLE);
    vmc_host_describe(&info);
    CHECK("what dom0 is told of them is public", public_bytes(&info, sizeof(info)) == sizeof(info));
    end();
    begin("keys of an owner");
    owner(&key);
    end();
    begin("pages and record, portable");
    life(false);
    end();
    begin("pages and record under an owner's key");
    life(true);
    end();
    if ( __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") )
    {
        begin("pages and record, AES-NI");
        boot_with_secrets(VMC_BACKEND_AESNI);
        life(false);
        end();
    }
    else
        printf("SKIP  this CPU has no AES-NI\n");
    begin("canaries");
    canaries(&key);
    end_of_group();
    return end_of_program();
}
