/* SPDX-License-Identifier: GPL-2.0-only */
/* VMCrypt's own view of a protected domain. */
#ifndef __X86_VMCRYPT_PRIVATE_H__
#define __X86_VMCRYPT_PRIVATE_H__

#include <xen/mm.h>
#include <xen/sched.h>
#include <xen/spinlock.h>
#include <xen/tasklet.h>
#include <xen/vmcrypt-rust.h>
#include <asm/vmcrypt.h>

/* Steps of the first unpause, in order. */
enum seal_step {
    SEAL_QUIESCE,  /* wait until no call that began before is under way */
    SEAL_SIZE,     /* find the largest PFN */
    SEAL_START,    /* get memory */
    SEAL_PAGES,    /* walk the page list: PFNs, types */
    SEAL_RINGS,    /* find the two pages that others may have mapped */
    SEAL_GRANTS,   /* nobody has a grant table frame, or other grants */
    SEAL_SETTLE,   /* wait until no grant that was there before is being mapped */
    SEAL_MAPS,     /* nobody has any other page; from here on nothing changes */
    SEAL_P2M,      /* look at start_info, walk the P2M table */
    SEAL_CLASSES,  /* compare page classes with the record */
    SEAL_MEASURE,  /* hash what dom0 loaded into a new domain */
    SEAL_TAKE,     /* from here on nobody else can restore the session */
    SEAL_BOUND,    /* digest tables and start_info, compare */
    SEAL_DECRYPT,  /* decrypt on all idle CPUs, and digest what comes out */
    SEAL_FINISH,   /* compare the digest, load the registers */
    SEAL_DONE,
    SEAL_SCRUB,    /* instead of the last two, if the domain is refused there */
};

/* Entries of a guest's memory map; libxl writes no more (xenctrl.h, E820MAX). */
#define VMCRYPT_MAP_ENTRIES 128

/* What a page is to the record; page tables by level. */
enum page_kind {
    KIND_PRIVATE, KIND_L1, KIND_L2, KIND_L3, KIND_L4, KIND_DESCRIPTORS,
    KIND_START_INFO,
    KIND_P2M,        /* in a launch measurement alone */
    KIND_PINNED = 8, /* in the tag of a page table, beside its level */
};

/*
 * PFNs leave room for holes, but not for any number somebody likes: the tables of
 * a domain cost 16 bytes for each.
 */
static inline unsigned long vmcrypt_pfn_limit(unsigned long pages)
{
    return 16 * pages + (1UL << 20);
}

/* PFNs that a P2M may cover: 8 TiB of them take 4,096 page tables to look at. */
#define VMCRYPT_P2M_MOST (1UL << 31)

struct p2m_place {
    mfn_t root;              /* page tables in which the P2M is mapped */
    unsigned long va, end;   /* where, and the first PFN that is not saved */
    unsigned long generation; /* as the guest counts its changes */
};

struct vmcrypt_domain {
    struct domain *d;

    /* Leaf lock: guards everything that the Rust part keeps. */
    spinlock_t lock;
    struct VmcDomain *rust;

    /* Refusals that the log has of this domain. */
    DECLARE_BITMAP(told, REFUSALS);

    /* Every write is noticed while log-dirty is on.  Guarded by the paging
     * lock. */
    bool tracking;

    /* Replicas of this domain's pages that are mapped now. */
    atomic_t replicas;
    /* Bumped whenever a page gains or loses a type. */
    atomic_t epoch;

    /* Found at the first unpause; they never change. */
    mfn_t start_info, console, store;

    /* Size of, and memory for, the sets and tags of the Rust part. */
    unsigned long pfns;
    uint64_t *plain, *exported, *fresh;
    uint8_t *tags;
    size_t wiped;  /* bytes of the tags that are wiped already */
    unsigned long beyond; /* a PFN that they do not reach, for the log */

    /* P2M leaves found by the last walk, or INVALID_MFN. */
    spinlock_t p2m_lock;
    mfn_t *leaf;
    unsigned long leaves, p2m_cursor, p2m_walked;
    unsigned int p2m_walker;
    /* The first place, plus one, where it found something else. */
    unsigned long p2m_odd;
    /* Where the P2M was when dom0 began to look at it. */
    struct p2m_place p2m_shown;

    /* Progress of the guest's suspend hypercall, and who made it. */
    bool p2m_marked;
    struct vcpu *suspends;
    unsigned int refresh_cursor;

    /* Under the ledger's lock: the session under which the domain, which did
     * not run since, was saved; and whether it took one and did not run yet. */
    SessionId saved_as;
    bool saved, takes;

    /* SHA-256 of what dom0 loaded before the domain first ran. */
    uint8_t measurement[32];

    /*
     * The record that dom0 brought, opened, or the one that is being sealed:
     * there is a moment at which it is in clear.  And what the former says.
     */
    void *record;
    size_t record_size;
    struct VmcFacts facts;

    /* Progress of the first unpause. */
    struct {
        enum seal_step step;
        int error;                     /* why SEAL_SCRUB was entered */
        s_time_t began, decrypting;    /* when, and how long */
        struct vmcrypt_helper *helpers; /* of each CPU that may help */
        unsigned long helped;          /* pages that they decrypted */
        unsigned long cursor, highest;
        unsigned long total;           /* pages of the domain */
        unsigned long covered, found;  /* pages below the P2M's end, in it */
        uint32_t *mfn;        /* machine frame (plus one) of each PFN */
        uint64_t *plain;      /* plain pages by the record */
        /* Of a new domain, by start_info: the P2M's address, its first page. */
        unsigned long p2m_va, p2m_first;
    } seal;

    /* Runs when everything that was under way at the first unpause is over. */
    struct rcu_head quiet_head;
    enum { QUIET_NO, QUIET_WAIT, QUIET_YES } quiet;

#ifdef CONFIG_DEBUG
    struct tasklet oracle;
    bool oracle_asked;
#endif
};

static inline struct vmcrypt_domain *vmcrypt_of(const struct domain *d)
{
    return d ? d->arch.vmcrypt : NULL;
}

/* One of the two pages that dom0 may have mapped for good. */
static inline bool vmcrypt_is_ring(const struct vmcrypt_domain *vm, mfn_t mfn)
{
    return mfn_eq(mfn, vm->console) || mfn_eq(mfn, vm->store);
}

/* backend.c */
extern unsigned int vmcrypt_backend;
const char *vmcrypt_backend_name(void);
void vmcrypt_backend_init(void);

/* vector.c */
void vmcrypt_vector_enter(void);
void vmcrypt_vector_leave(void);
/* What XCR0 must admit for a backend. */
uint64_t vmcrypt_vector_xcr0(unsigned int backend);
/* Called when no other CPU gives registers back any more; one may still stop. */
void vmcrypt_vector_wipe(void);

/* console.c */
/* X25519, drawn at boot; an owner who seals to another one loses his guest. */
void vmcrypt_public_key(uint8_t key[32]);
void vmcrypt_print_key(void);
void vmcrypt_console_init(void);

/* glue.c */
/* Draws the keys of this boot: 0, or a refusal and one. */
uint32_t vmcrypt_draw_keys(void);
void *vmcrypt_scratch(void);
void vmcrypt_copy_from(void *to, mfn_t from);
void vmcrypt_copy_to(mfn_t to, const void *from);
/* Called when no other CPU gives registers back any more; one may still stop. */
void vmcrypt_wipe_cpus(void);

/* wipe.c */
/* Whatever holds secrets comes by here before it is freed. */
void vmcrypt_wipe(void *area, size_t size);

/* domain.c */
extern bool opt_vmcrypt;
enum VmcState vmcrypt_state(struct vmcrypt_domain *vm);
bool vmcrypt_enter(struct vmcrypt_domain *vm, enum VmcState state);
bool vmcrypt_sealed(struct vmcrypt_domain *vm);
/* Counts and logs a refusal and gives the (negative) errno for it. */
int vmcrypt_refuse(struct vmcrypt_domain *vm, enum VmcRefusal why);
int vmcrypt_attach(struct vmcrypt_domain *vm, unsigned long pfns);
void vmcrypt_detach(struct vmcrypt_domain *vm);
void vmcrypt_domains_describe(struct VmcHostInfo *info);

/* doors.c */
/* An operation on the machine is denied: counted, and told with the reason. */
bool vmcrypt_denied(unsigned int family, unsigned long op, const char *why);
void vmcrypt_find_weaknesses(const struct domain *dom0);
void vmcrypt_doors_describe(struct VmcHostInfo *info);

/* devices.c */
/* Which registers of the chipset's move the one that PM1a_CNT is. */
void vmcrypt_find_power(uint64_t pm1a_control);
/* An argument that Xen's handler of a domctl takes unchecked. */
bool vmcrypt_bad_argument(const struct domain *d, const struct xen_domctl *op);

/* keys.c */
extern spinlock_t vmcrypt_keys_lock;
long vmcrypt_key_load(XEN_GUEST_HANDLE_PARAM(void) arg);
/* Puts a fresh domain under its owner's key, if there is one. */
int vmcrypt_take_key(struct vmcrypt_domain *vm);
/* Puts a restored one under the owner's latest. */
int vmcrypt_renew_key(struct vmcrypt_domain *vm);
/* Whether the owner allows a restore that the ledger does not vouch for. */
int vmcrypt_unvouched(struct vmcrypt_domain *vm, unsigned int stage);

/* classify.c */
/* Plain class by a frame's validated type, or -1. */
int vmcrypt_class_of(unsigned long type);
int vmcrypt_type_class(const struct page_info *page);
mfn_t vmcrypt_walk(const struct domain *d, mfn_t root, unsigned long va);
/* Notes every valid P2M leaf as plain; -ERESTART asks to be called again. */
struct p2m_place vmcrypt_p2m_place(const struct domain *d);
void vmcrypt_p2m_shown(struct vmcrypt_domain *vm, struct p2m_place at);
int vmcrypt_p2m_check(struct vmcrypt_domain *vm, struct p2m_place at);
enum p2m_walker { WALK_MAP, WALK_SUSPEND, WALK_SEAL };
int vmcrypt_mark_p2m(struct vmcrypt_domain *vm, struct p2m_place at,
                     enum p2m_walker who);
unsigned long vmcrypt_count_leaves(struct vmcrypt_domain *vm);
/* True if the page was private before. */
bool vmcrypt_gain(struct vmcrypt_domain *vm, unsigned long pfn,
                  enum VmcClass class);
void vmcrypt_lose(struct vmcrypt_domain *vm, unsigned long pfn,
                  enum VmcClass class);
/* From now on dom0 does not see start_info. */
void vmcrypt_hide_start_info(struct vmcrypt_domain *vm);
/* Whether @page is a P2M leaf; for PFNs from @base on unless that is ~0. */
bool vmcrypt_is_leaf(const void *page, unsigned long base);

/* bound.c */
/* KIND_PRIVATE stands for a plain page that no record binds, too. */
enum page_kind vmcrypt_bound_kind(const struct vmcrypt_domain *vm,
                                  const struct page_info *page);
/* Rewrites a copy; false if it names a frame that is not the domain's. */
bool vmcrypt_normalise(const struct vmcrypt_domain *vm, void *page,
                       enum page_kind kind);
/* What stands for the kind in the page's tag. */
uint64_t vmcrypt_tag_kind(const struct page_info *page, enum page_kind kind);

/* replica.c */
extern struct domain *vmcrypt_replica_owner;
bool vmcrypt_is_replica(const struct page_info *page);
struct page_info *vmcrypt_replica_get(struct page_info *source, bool p2m);
struct page_info *vmcrypt_replica_put(struct page_info *frame);
int vmcrypt_replica_refresh(struct vmcrypt_domain *vm);
void vmcrypt_replica_describe(struct VmcHostInfo *info);

/* map.c */
unsigned int vmcrypt_foreign_maps(mfn_t mfn);
void vmcrypt_reset_maps(mfn_t mfn);
/* Not counting @own replicas; called with the lock held. */
bool vmcrypt_idle(struct vmcrypt_domain *vm, int own);

/* dirty.c */
/* Whether the guest cannot write to a frame, or not without vmcrypt_dirtied(). */
bool vmcrypt_noticed(struct vmcrypt_domain *vm, mfn_t mfn);
/* Whether a save that goes on must ask for a page once more. */
bool vmcrypt_asked_again(struct vmcrypt_domain *vm, mfn_t mfn);

/* ledger.c */
/* The domain was saved; earlier records of this suspend are void. */
int vmcrypt_ledger_saved(struct vmcrypt_domain *vm,
                         const struct VmcFacts *facts);
/* Whether a record may be restored now. */
bool vmcrypt_ledger_has(const struct VmcFacts *facts);
/* Takes the session that the domain's record belongs to; gives it back or ends it. */
int vmcrypt_ledger_take(struct vmcrypt_domain *vm);
void vmcrypt_ledger_settle(struct vmcrypt_domain *vm, bool runs);
/* dom0's last pause of the domain ends: 0 unless its life is somebody else's. */
int vmcrypt_ledger_runs(struct vmcrypt_domain *vm);

/* seal.c */
void vmcrypt_seal_free(struct vmcrypt_domain *vm);
/* The frame at a PFN, as the first unpause found it. */
mfn_t vmcrypt_sealing_mfn(const struct vmcrypt_domain *vm, unsigned long pfn);

/* Whether a page is plain by the record. */
bool vmcrypt_record_plain(const struct vmcrypt_domain *vm, unsigned long pfn);

/* decrypt.c */
/* Takes a page into the digest; a private one comes out decrypted. */
void vmcrypt_restore_page(struct vmcrypt_domain *vm, unsigned long pfn,
                          uint64_t kind, void *page);
/* Decrypts every private page; -ERESTART asks to be called again. */
int vmcrypt_decrypt(struct vmcrypt_domain *vm);
/* After this no CPU decrypts for the domain. */
void vmcrypt_decrypt_stop(struct vmcrypt_domain *vm);

/* measure.c */
int vmcrypt_measure(struct vmcrypt_domain *vm);
/* Whether dom0 set nothing of a vCPU but its context. */
bool vmcrypt_vcpu_fresh(const struct vcpu *v);

/* record.c */
/* Whether dom0 gave a restored domain the CPU policy that it had. */
bool vmcrypt_policy_kept(const struct vmcrypt_domain *vm);
/* The page tables and descriptor tables that a context names, as PFNs. */
void vmcrypt_frames_to_pfns(struct vcpu_guest_context *c);
void vmcrypt_drop_record(struct vmcrypt_domain *vm);
/* Also the keys that came with it. */
void vmcrypt_forget_record(struct vmcrypt_domain *vm);
int vmcrypt_load_state(struct vmcrypt_domain *vm);

/* oracle.c */
#ifdef CONFIG_DEBUG
void vmcrypt_oracle_init(struct vmcrypt_domain *vm);
void vmcrypt_oracle_ask(struct vmcrypt_domain *vm);
#else
static inline void vmcrypt_oracle_init(struct vmcrypt_domain *vm) {}
static inline void vmcrypt_oracle_ask(struct vmcrypt_domain *vm) {}
#endif

#endif /* __X86_VMCRYPT_PRIVATE_H__ */
