/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Drives the Rust library through its C header as Xen does: one domain is
 * exported page by page, its record sealed, and another domain restored from
 * both. Compiled with AddressSanitizer; every buffer has its exact size, so
 * that one byte read or written beyond its end is seen.
 */
#define _GNU_SOURCE
#include "checks.h"
#include "guest.h"
#include "backends.h"

/* States by the numbers that cross the boundary. */
enum { BUILDING = 1, SEALING, RUNNING, SUSPENDED, DYING, REFUSED };

/* A domain's death, with a page in flight. */
static void wiped(struct guest *g)
{
    static const uint8_t nothing[16];
    struct VmcTicket ticket;
    bool again = false;
    size_t size = vmc_domain_size();

    CHECK("a page in flight", vmc_page_begin(g->domain, 4, PAGES, VMC_HELD_PAGES, &ticket, &again) == 0 && !again);
    CHECK("it is said", vmc_page_in_flight(g->domain));
    CHECK("keys stay while it is", !vmc_domain_kill(g->domain));
    CHECK("but nothing else begins", vmc_page_begin(g->domain, 5, PAGES, VMC_HELD_PAGES, &ticket, &again) != 0);
    vmc_page_abandon(g->domain, &ticket);
    CHECK("nothing is in flight", !vmc_page_in_flight(g->domain));
    CHECK("the domain is at rest", vmc_domain_kill(g->domain) && vmc_domain_kill(g->domain));
    memset(g->tags, 0x77, 16);
    vmc_domain_wipe(g->domain);
    CHECK("its tags are the caller's again", g->tags[0] == 0x77);
    CHECK("it never runs", !vmc_domain_enter(g->domain, RUNNING));
    /* Keys and their schedules are by far the most of it. */
    for ( size_t at = 0, zeros = 0; at + 16 <= size; at += 16 )
    {
        zeros += !memcmp((uint8_t *)g->domain + at, nothing, 16);
        if ( at + 32 > size )
            CHECK("keys are gone", zeros * 16 >= 1248);
    }
}

/* Whether a domain that began no session holds a key. */
static bool holds_keys(const struct guest *g)
{
    struct VmcDomain *fresh = buffer(vmc_domain_size());
    size_t differ = 0;

    vmc_domain_init(fresh);
    for ( size_t at = 0; at < vmc_domain_size(); at++ )
        differ += ((const uint8_t *)g->domain)[at] != ((const uint8_t *)fresh)[at];
    free(fresh);
    /* State, generation, the pointers to sets and tags: keys and their schedules are more. */
    return differ > 100;
}

/* A domain that is refused, or whose record is, keeps no key until it is destroyed. */
static void refused(const struct image *image)
{
    struct guest g = create();
    uint8_t *record = malloc(image->size);
    struct VmcFacts facts;
    const uint8_t (*handle)[16] = (const uint8_t (*)[16])uuid;

    memcpy(record, image->record, image->size);
    CHECK("nothing yet", !holds_keys(&g));
    CHECK("a record is opened", vmc_record_open(g.domain, handle, record, image->size, &facts) == 0);
    CHECK("the domain holds its keys", holds_keys(&g));
    CHECK("the record's number comes back", facts.sequence == image->sequence);
    memcpy(record, image->record, image->size);
    record[image->size - 1] ^= 1;
    CHECK("a record that does not open", vmc_record_open(g.domain, handle, record, image->size, &facts) != 0);
    CHECK("leaves no key", !holds_keys(&g));

    memcpy(record, image->record, image->size);
    CHECK("a record is opened", vmc_record_open(g.domain, handle, record, image->size, &facts) == 0);
    vmc_record_forget(g.domain);
    CHECK("one that is forgotten leaves none", !holds_keys(&g));

    memcpy(record, image->record, image->size);
    CHECK("a record is opened", vmc_record_open(g.domain, handle, record, image->size, &facts) == 0);
    CHECK("sealing", vmc_domain_enter(g.domain, SEALING) && holds_keys(&g));
    CHECK("refused", vmc_domain_enter(g.domain, REFUSED));
    CHECK("a refused domain holds none", !holds_keys(&g));
    free(record);
    destroy(&g);
}

static const uint8_t other_uuid[16] = "another's handle";

/* Restore an image into a new domain; 0 if everything in it held. */
static Verdict restore(const struct image *image, const uint8_t *handle,
                       size_t size, int wrong_pfn, const struct guest *same_as)
{
    struct guest g = create();
    uint8_t *record = malloc(size ? size : 1);
    uint64_t *plain = calloc(WORDS, 8);
    struct VmcFacts facts;
    Verdict verdict;

    memcpy(record, image->record, size);
    memcpy(g.pages, image->pages, PAGES * PAGE_BYTES);
    verdict = vmc_record_open(g.domain, (const uint8_t (*)[16])handle, record, size, &facts);
    if ( !verdict )
        verdict = vmc_record_begin(g.domain, record, size, plain, WORDS);
    if ( !verdict )
    {
        for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
        {
            bool noted = plain[pfn / 64] >> (pfn % 64) & 1;
            PageTag tag;
            Page copy;

            CHECK("plain pages are noted as such", noted == is_plain(pfn));
            memcpy(&copy, &g.pages[pfn], PAGE_BYTES);
            vmc_page_restore(g.domain, (const SessionId *)&facts.session,
                             (int)pfn == wrong_pfn ? pfn ^ 1 : pfn, kind_of(pfn),
                             noted ? &copy : &g.pages[pfn], &tag);
            vmc_page_restored(g.domain, kind_of(pfn), &tag);
        }
        verdict = vmc_record_verify_plain(g.domain, record, size);
    }
    if ( !verdict )
    {
        if ( same_as )
        {
            CHECK("restored memory is the exported memory",
                  !memcmp(g.pages, same_as->pages, PAGES * PAGE_BYTES));
            CHECK("vCPU states come back",
                  record[VMC_RECORD_STATES] == 0xc3 &&
                  record[VMC_RECORD_STATES + VCPUS * VCPU_SIZE - 1] == 0xc3);
            CHECK("facts come back",
                  facts.start_info == 7 && facts.console == 8 &&
                  facts.store == 9 && facts.states == VCPUS && facts.pages == PAGES);
        }
        verdict = vmc_record_verify(g.domain, record, size);
    }
    free(plain);
    free(record);
    destroy(&g);
    return verdict;
}

static void maps(struct guest *g)
{
    uint32_t view = ~0u;

    CHECK("private page: cipher view",
          !vmc_map_judge(g->domain, VMC_FRAME_ORDINARY, false, true, &view) &&
          view == VMC_VIEW_CIPHER);
    CHECK("writable map is refused",
          vmc_map_judge(g->domain, VMC_FRAME_ORDINARY, true, true, &view));
    CHECK("uncached map is refused",
          vmc_map_judge(g->domain, VMC_FRAME_ORDINARY, false, false, &view));
    CHECK("an unknown kind of frame is private",
          !vmc_map_judge(g->domain, 12345, false, true, &view) && view == VMC_VIEW_CIPHER);
}

static void cycle(uint32_t backend)
{
    struct guest g = create();
    struct image image = { .pages = calloc(PAGES, PAGE_BYTES) };
    Page again;
    struct VmcTicket ticket;

    CHECK("the host draws its key", vmc_host_init(backend, (const uint8_t *)"boot", 4) == 0);
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
        memset(&g.pages[pfn], 'A' + pfn % 26, PAGE_BYTES);
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
        if ( is_plain(pfn) )
            vmc_plain_gain(g.domain, pfn, 2);

    CHECK("life begins in Building", vmc_domain_state(g.domain) == BUILDING);
    CHECK("no step from Building to Running", !vmc_domain_enter(g.domain, RUNNING));
    CHECK("no unknown state", !vmc_domain_enter(g.domain, 77));
    CHECK("sealing", vmc_domain_enter(g.domain, SEALING));
    CHECK("running", vmc_domain_enter(g.domain, RUNNING));
    maps(&g);
    CHECK("suspended", vmc_domain_enter(g.domain, SUSPENDED));

    image.capacity = vmc_record_capacity(g.domain, VCPUS, VCPU_SIZE);
    image.record = calloc(1, image.capacity);
    memset(image.record + VMC_RECORD_STATES, 0xc3, VCPUS * VCPU_SIZE);
    CHECK("no record before every page was exported", seal(&g, &image) != 0);
    for ( unsigned int pfn = 0; pfn < PAGES; pfn++ )
    {
        CHECK("page is exported", export_page(&g, pfn, &image.pages[pfn]));
        if ( is_plain(pfn) )
            memcpy(&image.pages[pfn], &g.pages[pfn], PAGE_BYTES);
    }
    CHECK("ciphertext shows nothing of the page",
          !memmem(&image.pages[3], PAGE_BYTES, "DDDD", 4));
    CHECK("equal pages differ in ciphertext", memcmp(&image.pages[0], &image.pages[26], PAGE_BYTES));
    CHECK("a page exported twice looks the same",
          export_page(&g, 3, &again) && !memcmp(&again, &image.pages[3], PAGE_BYTES));
    /* Neither reads nor writes beyond the tags, whatever number dom0 names. */
    vmc_plain_gain(g.domain, PAGES + 1000, 2);
    vmc_plain_lose(g.domain, ~0ull, 2);
    vmc_page_forget(g.domain, ~0ull);
    vmc_page_freed(g.domain, ~0ull, 2, true);
    CHECK("a page that does not exist is not plain", !vmc_plain_has(g.domain, ~0ull));

    vmc_plain_lose(g.domain, 64, 2);
    vmc_plain_gain(g.domain, 64, 2);
    CHECK("no record before a page that changed its class was exported again", seal(&g, &image) != 0);
    CHECK("page is exported", export_page(&g, 64, &again));
    vmc_page_dirtied(g.domain, 9);
    vmc_page_dirtied(g.domain, ~0ull);
    CHECK("no record of a page that was written since", seal(&g, &image) != 0);
    CHECK("page is exported", export_page(&g, 9, &again));
    vmc_page_begin(g.domain, 10, PAGES, VMC_HELD_PAGES, &ticket, &(bool){ 0 });
    vmc_page_tracking(g.domain, true);
    vmc_page_encrypt_from(g.domain, &ticket, &g.pages[10], &again);
    vmc_page_end(g.domain, &ticket);
    CHECK("no record of a page that was read before the log was emptied", seal(&g, &image) != 0);
    vmc_page_begin(g.domain, 10, PAGES, VMC_HELD_PAGES, &ticket, &(bool){ 0 });
    vmc_page_dirtied(g.domain, 10);
    vmc_page_tracking(g.domain, true);
    CHECK("page is exported", export_page(&g, 10, &again));
    vmc_page_encrypt_from(g.domain, &ticket, &g.pages[11], &again);
    vmc_page_end(g.domain, &ticket);

    CHECK("no record of a page whose later export one from before the log was emptied overtook",
          seal(&g, &image) != 0);
    CHECK("page is exported", export_page(&g, 10, &again));

    CHECK("record is sealed", seal(&g, &image) == 0);
    CHECK("record is known as one", vmc_record_is(image.record, image.size));
    CHECK("nothing is known as a record", !vmc_record_is((const uint8_t *)"", 0));
    CHECK("record fits", image.size <= image.capacity);
    CHECK("vCPU states are not in clear",
          !memmem(image.record, image.size, "\xc3\xc3\xc3\xc3\xc3\xc3", 6));

    CHECK("restore", restore(&image, uuid, image.size, -1, &g) == 0);
    refused(&image);
    CHECK("restore once more", restore(&image, uuid, image.size, -1, &g) == 0);
    CHECK("another domain's record", restore(&image, other_uuid, image.size, -1, NULL) != 0);
    for ( size_t size = 0; size < image.size; size += size < 200 ? 1 : 61 )
        CHECK("truncated record", restore(&image, uuid, size, -1, NULL) != 0);
    for ( size_t byte = 0; byte < image.size; byte++ )
    {
        image.record[byte] ^= 1u << byte % 8;
        CHECK("one bit of the record changed",
              restore(&image, uuid, image.size, -1, NULL) != 0);
        image.record[byte] ^= 1u << byte % 8;
    }
    ((uint8_t *)&image.pages[17])[4095] ^= 0x80;
    CHECK("one bit of a page changed", restore(&image, uuid, image.size, -1, NULL) != 0);
    ((uint8_t *)&image.pages[17])[4095] ^= 0x80;
    ((uint8_t *)&image.pages[64])[8] ^= 1;
    CHECK("one bit of a plain page changed", restore(&image, uuid, image.size, -1, NULL) != 0);
    ((uint8_t *)&image.pages[64])[8] ^= 1;
    CHECK("a page at a wrong place", restore(&image, uuid, image.size, 17, NULL) != 0);
    memcpy(&again, &image.pages[10], PAGE_BYTES);
    memcpy(&image.pages[10], &image.pages[11], PAGE_BYTES);
    CHECK("a page in two places", restore(&image, uuid, image.size, -1, NULL) != 0);
    memcpy(&image.pages[10], &again, PAGE_BYTES);
    CHECK("the good image still restores", restore(&image, uuid, image.size, -1, &g) == 0);

    vmc_domain_enter(g.domain, RUNNING);
    vmc_domain_enter(g.domain, SUSPENDED);
    CHECK("after running on, the old session exports nothing", seal(&g, &image) != 0);
    CHECK("a new session begins",
          export_page(&g, 3, &again) && memcmp(&again, &image.pages[3], PAGE_BYTES));

    {
        bool later = false;

        CHECK("a page in flight",
              vmc_page_begin(g.domain, 4, PAGES, VMC_HELD_PAGES, &ticket, &later) == 0 && !later);
        vmc_domain_enter(g.domain, RUNNING);
        CHECK("keys do not change under a page in flight",
              vmc_page_begin(g.domain, 5, PAGES, VMC_HELD_PAGES, &(struct VmcTicket){ 0 }, &later) == 0 && later);
        vmc_page_encrypt_from(g.domain, &ticket, &g.pages[4], &again);
        vmc_page_end(g.domain, &ticket);
    }

    {
        bool later = false;
        uint64_t limit = 64 * PAGES + 4096, count = 0;
        Verdict full = 0;

        while ( !full && count <= limit )
        {
            full = vmc_page_begin(g.domain, 3, PAGES, VMC_HELD_PAGES, &ticket, &later);
            if ( !full && !later )
                vmc_page_abandon(g.domain, &ticket), count++;
        }
        CHECK("a session has an end", full == VMC_REFUSAL_SESSION_FULL + 1 && count <= limit);
        CHECK("as long as something is held",
              vmc_page_begin(g.domain, 3, PAGES, 77, &ticket, &later) == full);
        CHECK("then there is another", !vmc_page_begin(g.domain, 3, PAGES, VMC_HELD_NOTHING, &ticket, &later) && !later);
        vmc_page_abandon(g.domain, &ticket);
    }

    CHECK("the host draws another key", vmc_host_init(backend, (const uint8_t *)"boot", 4) == 0);
    CHECK("another boot's image", restore(&image, uuid, image.size, -1, NULL) != 0);
    CHECK("a page in flight when the host goes down",
          vmc_page_begin(g.domain, 6, PAGES, VMC_HELD_PAGES, &ticket, &(bool){ 0 }) == 0);
    vmc_host_wipe();
    vmc_page_encrypt_from(g.domain, &ticket, &g.pages[6], &again);
    CHECK("what a wiped key made is not shown", vmc_page_end(g.domain, &ticket) != 0);
    CHECK("nor is a record opened", restore(&image, uuid, image.size, -1, NULL) != 0);
    CHECK("the host draws a third key", vmc_host_init(backend, (const uint8_t *)"boot", 4) == 0);
    wiped(&g);
    destroy(&g);
    free(image.pages);
    free(image.record);
}

/* Owners' keys, as far as they come without an owner. */
static void keys(void)
{
    static const char digits[] =
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
    struct VmcKeyLoad *load = buffer(sizeof(*load));
    struct VmcDomain *domain = buffer(vmc_domain_size());
    const uint8_t handle[16] = {7}, measured[32] = {9};

    CHECK("an owner has 64 digits", !vmc_owner_add((const uint8_t *)digits, 63) &&
                                        vmc_owner_add((const uint8_t *)digits, 64));
    load->size = ~0u;
    CHECK("a key larger than its room is refused",
          vmc_key_load(load) == VMC_REFUSAL_KEY_FORMAT + 1 && load->refusal == VMC_REFUSAL_KEY_FORMAT + 1);
    load->size = sizeof(load->bytes);
    CHECK("zeros are no key", vmc_key_load(load) == VMC_REFUSAL_KEY_FORMAT + 1);
    load->size = 136 + 112 + 32;
    memcpy(load->bytes, "VMCKEY\r\n\1\0\0\0\1", 13);
    CHECK("a key of the first version is refused", vmc_key_load(load) == VMC_REFUSAL_KEY_VERSION + 1);
    memcpy(load->bytes, "VMCKEY\r\n\2\0\0\0\2\0\0\0\1", 17);
    CHECK("a key for another cipher is refused", vmc_key_load(load) == VMC_REFUSAL_KEY_CIPHER + 1);
    load->bytes[12] = 1;
    CHECK("a key of nobody's is refused", vmc_key_load(load) == VMC_REFUSAL_KEY_OWNER + 1);
    for ( unsigned int i = 0; i < 32; i++ )
        sscanf(digits + 2 * i, "%2hhx", load->bytes + 40 + i);
    load->bytes[136] = 1;
    CHECK("a key for another host is refused", vmc_key_load(load) == VMC_REFUSAL_KEY_HOST + 1);
    free(load);

    struct VmcDomainInfo info = {};
    static const uint8_t nobody[sizeof(info.owner)];

    vmc_domain_init(domain);
    CHECK("a domain without an owner's key is taken",
          vmc_domain_own(domain, (const uint8_t (*)[16])handle, (const uint8_t (*)[32])measured) == 0);
    vmc_domain_describe(domain, &info);
    CHECK("and is under the host's key", memcmp(info.owner, nobody, sizeof(nobody)) == 0);
    CHECK("and its images are as good as the ledger says",
          vmc_domain_unvouched(domain, (const uint8_t (*)[16])handle, 1, VMC_RESTORE_DONE) == VMC_REFUSAL_SPENT + 1);
    struct VmcAnswer answer = { .state = 77, .tag = { 1 }, .owner = { 1 } };

    CHECK("it is told of itself", vmc_domain_answer(domain, &answer) == 0 && answer.state == BUILDING);
    CHECK("and nothing by which it could prove it",
          !memcmp(answer.tag, (uint8_t[32]){ 0 }, 32) && !memcmp(answer.owner, nobody, sizeof(nobody)));
    CHECK("and goes on under it after a restore",
          vmc_domain_renew(domain, (const uint8_t (*)[16])handle, (const uint8_t (*)[32])measured) == 0);
    vmc_domain_wipe(domain);
    free(domain);
    vmc_keyring_wipe();
}

static void texts(void)
{
    struct VmcDomain *domain = buffer(vmc_domain_size());
    const uint8_t *text;

    vmc_domain_init(domain);
    for ( uint32_t refusal = 0; refusal < 300; refusal++ )
    {
        size_t len = vmc_refusal_text(refusal, &text);
        int32_t errno_value = vmc_domain_refuse(domain, refusal);

        CHECK("a refusal has an errno", errno_value > 0 && errno_value < 200);
        for ( size_t i = 0; i < len; i++ )
            CHECK("a refusal's text is printable", text[i] >= ' ' && text[i] < 127);
    }
    free(domain);
}

static void doors(void)
{
    /* Numbers of Xen's public headers. */
    enum { PLATFORM = 7, SYSCTL = 35, DOMCTL = 36 };
    const uint8_t *text = NULL;

    for ( uint32_t state = 0; state < 10; state++ )
    {
        bool building = state == BUILDING;

        CHECK("a handle is never changed", vmc_door_denies(DOMCTL, 17, state));
        CHECK("a domain is listed", !vmc_door_denies(DOMCTL, 5, state));
        CHECK("MSRs are set while it is built",
              vmc_door_denies(DOMCTL, 73, state) == !building);
        CHECK("an operation that nobody judged", vmc_door_denies(DOMCTL, 90, state));
        CHECK("one of a huge number", vmc_door_denies(DOMCTL, UINT64_MAX, state));
        CHECK("one whose lower half is good",
              vmc_door_denies(DOMCTL, 5 + (UINT64_C(1) << 32), state));
        CHECK("a hypercall that nobody judged", vmc_door_denies(5, 0, state) &&
              vmc_door_denies(64, 5, state) && vmc_door_denies(UINT32_MAX, 5, state));
    }
    CHECK("Xen's log is read", !vmc_door_denies(SYSCTL, 1, 0));
    CHECK("microcode is not changed", vmc_door_denies(PLATFORM, 66, 0));
    CHECK("debug keys", !vmc_door_denies(VMC_DEBUG_KEYS, 'd', 0) &&
          vmc_door_denies(VMC_DEBUG_KEYS, 'C', 0) &&
          vmc_door_denies(VMC_DEBUG_KEYS, 0xff, 0));

    CHECK("a family's name", vmc_door_name(DOMCTL, &text) == 6 && !memcmp(text, "domctl", 6));
    CHECK("none", vmc_door_name(5, &text) == 0 && vmc_door_name(UINT32_MAX, &text) == 0);
    for ( uint32_t weakness = 0; weakness < 40; weakness++ )
    {
        size_t len = vmc_weakness_text(weakness, &text);

        CHECK("a weakness has a text", (len > 0) == (weakness <= VMC_WEAKNESS_NO_ACPI));
        for ( size_t i = 0; i < len; i++ )
            CHECK("a weakness's text is printable", text[i] >= ' ' && text[i] < 127);
    }
}

static void backend(const char *name, uint32_t number, bool possible)
{
    group_name = name;
    if ( possible )
    {
        cycle(number);
        end_of_group();
    }
    else
        printf("SKIP  this CPU has no %s\n", name);
}

int main(void)
{
    group_name = "refusals";
    texts();
    end_of_group();
    group_name = "hypercalls";
    doors();
    end_of_group();
    group_name = "owners' keys";
    keys();
    end_of_group();
    each_backend(backend);
    return end_of_program();
}
