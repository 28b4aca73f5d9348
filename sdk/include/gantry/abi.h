/* The ground every gantry driver stands on: status classes, calls, values, sinks, host services and
 * the one symbol a plugin exports.
 *
 * Rules that hold for every header of this ABI:
 *  - The ABI is C11, append-only. A struct that begins with `struct_size` may grow at its end in a
 *    later minor version; whoever reads a field first checks that `struct_size` covers it
 *    (GANTRY_HAS). A NULL slot, or one beyond `struct_size`, means "unsupported".
 *  - Memory never changes allocator. Pointers passed in are borrowed for the duration of the call.
 *    Results leave through sinks that the caller supplied, or into structs that the caller owns.
 *    Long-lived objects are opaque handles that are destroyed through the table that made them.
 *  - File descriptors passed in stay the caller's unless the slot says `takes`. Descriptors that a
 *    driver opens are close-on-exec.
 *  - No exception, longjmp or signal handler crosses the edge.
 *  - Strings are UTF-8, zero-terminated, never NULL unless stated. Times are nanoseconds of
 *    CLOCK_MONOTONIC unless stated, sizes are bytes.
 *  - Thread tags: [main] called by one thread while no other call of that driver runs;
 *    [any] called by any thread, concurrently with every other [any] call, also on the same id
 *    unless the slot says that the host serialises by id; [call] a function of the host's that the
 *    driver calls within the call it was handed to, from one thread at a time. The host holds no lock
 *    and no database transaction while it calls a driver.
 *  - Memory marks of a struct or member: [borrowed] what it points to lives until the call or sink call
 *    that received it returns; [static] data of the plugin, there as long as the library; [frozen] the
 *    struct has no size and never changes; [handle] destroyed through the table that made it.
 *    Descriptors: [fd borrowed, CLOEXEC] stays the giver's, [fd taken, CLOEXEC] becomes the receiver's.
 */
#ifndef GANTRY_ABI_H
#define GANTRY_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GANTRY_ABI_MAJOR 1u
#define GANTRY_ABI_MINOR 1u

/* First eight bytes of the entry, for ever. */
#define GANTRY_PLUGIN_MAGIC "GANTRY\x01\n"
#define GANTRY_PLUGIN_MAGIC_SIZE 8

/* True when `ptr->field` lies within the size that the other side declared. */
#define GANTRY_HAS(ptr, field)                                                                               \
    ((ptr) != NULL &&                                                                                        \
     (size_t)(ptr)->struct_size >=                                                                           \
         (size_t)((const char *)&(ptr)->field - (const char *)(ptr)) + sizeof((ptr)->field))

/* What a caller does next, in one word. The list is closed for ABI major 1. */
typedef int32_t gantry_status;
enum {
    GANTRY_OK = 0,
    GANTRY_NOT_FOUND = 1,           /* the named thing is not there */
    GANTRY_ALREADY_EXISTS = 2,      /* the name or id is taken */
    GANTRY_FAILED_PRECONDITION = 3, /* the thing is in a state that forbids this; change that first */
    GANTRY_INVALID_ARGUMENT = 4,    /* the request itself is wrong; repeating it cannot help */
    GANTRY_UNSUPPORTED = 5,         /* this driver or kernel cannot do it */
    GANTRY_UNAVAILABLE = 6,         /* a remote or a resource is out of reach now; retry later */
    GANTRY_PERMISSION_DENIED = 7,   /* not allowed, or credentials missing or refused */
    GANTRY_NO_SPACE = 8,            /* disk, inodes, quota, addresses or ports are used up */
    GANTRY_DATA_LOSS = 9,           /* stored or transferred bytes are not what they must be */
    GANTRY_CANCELLED = 10,          /* the caller asked to stop */
    GANTRY_DEADLINE = 11,           /* the time given is over */
    GANTRY_INTERNAL = 12            /* a bug; report it */
};

enum { GANTRY_LOG_DEBUG = 0, GANTRY_LOG_INFO = 1, GANTRY_LOG_WARN = 2, GANTRY_LOG_ERROR = 3 };

/* ---- values: typed configuration, already validated against the driver's option schema ---- */

typedef enum gantry_type {
    GANTRY_TYPE_BOOL = 1,     /* as.b */
    GANTRY_TYPE_INT = 2,      /* as.i */
    GANTRY_TYPE_FLOAT = 3,    /* as.f */
    GANTRY_TYPE_STRING = 4,   /* as.s */
    GANTRY_TYPE_DURATION = 5, /* as.i, nanoseconds; TOML "30s", "1m30s", "250ms" */
    GANTRY_TYPE_SIZE = 6,     /* as.i, bytes; TOML "64MiB", "10MB", 4096 */
    GANTRY_TYPE_LIST = 7,     /* items[0..count), keys is NULL */
    GANTRY_TYPE_TABLE = 8,    /* keys[i] -> items[i]; keys fixed by the schema */
    GANTRY_TYPE_MAP = 9       /* keys[i] -> items[i]; keys chosen by the administrator */
} gantry_type;

/* One value. Every key of a TABLE that has a default is present; one without default that was not
 * set is absent. [frozen] [borrowed] */
typedef struct gantry_value {
    gantry_type type;
    uint32_t count;
    union {
        int32_t b;
        int64_t i;
        double f;
        const char *s;
    } as;
    const char *const *keys;
    const struct gantry_value *items;
} gantry_value;

enum {
    GANTRY_OPTION_REQUIRED = 1u, /* a missing value is an error */
    GANTRY_OPTION_SECRET = 2u    /* never logged, printed as "***" */
};

/* Schema of one option. [static] */
typedef struct gantry_option {
    uint32_t struct_size;
    gantry_type type;
    const char *name;           /* TOML key, snake_case; for the element of a LIST or MAP: "" */
    const char *default_toml;   /* TOML text of the default ("\"x\"", "4", "[]"), or NULL for none */
    const char *doc;            /* one line */
    const char *const *choices; /* STRING: NULL-terminated list of allowed values, or NULL */
    int64_t min, max;           /* INT, DURATION, SIZE: inclusive bounds; both 0 for none */
    const struct gantry_option *children; /* TABLE: its keys. LIST, MAP: exactly one, the element */
    uint32_t child_count;
    uint32_t flags;
    const char *shorthand; /* TABLE as an element: a plain TOML string `x` stands for
                              { <shorthand> = x }; NULL for none */
} gantry_option;

/* ---- calls ---- */

/* [frozen] [borrowed] */
typedef struct gantry_label {
    const char *key;
    const char *value;
} gantry_label;

/* Where a driver reports why it fails: once, before it returns the same class. Host-owned. */
typedef struct gantry_error_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [any] `message`: one sentence "verb object: cause"; `hint`: what the user can do, or NULL. */
    void (*set)(void *ctx, gantry_status status, int32_t errno_value, const char *message, const char *hint);
} gantry_error_sink;

/* Accompanies every call. [borrowed] */
typedef struct gantry_call {
    uint32_t struct_size;
    int32_t cancel_fd;              /* becomes readable when the caller gives up; -1 if never. Do not read it.
                                       [fd borrowed, CLOEXEC] */
    int64_t deadline_ns;            /* CLOCK_MONOTONIC; 0 for none */
    const gantry_error_sink *error; /* never NULL */
    void *ctx;
    /* [any] may be NULL. `done` and `total` in units of the operation (bytes unless the slot says
     * otherwise), total 0 when unknown. `what` names the thing that progresses. Cheap. */
    void (*progress)(void *ctx, const char *what, uint64_t done, uint64_t total);
    /* [any] may be NULL. Log line that belongs to this call. */
    void (*log)(void *ctx, int32_t level, const char *message);
    const char *subject;        /* id of the container or image this is for; "" if none */
    const gantry_label *labels; /* its labels */
    uint32_t label_count;
    uint32_t reserved;
} gantry_call;

/* Receives bytes. Returns GANTRY_OK to go on; any other status must end the call with it. */
typedef struct gantry_byte_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] */
    gantry_status (*write)(void *ctx, const void *data, size_t size);
} gantry_byte_sink;

/* Receives strings, one call each; the string is copied by the receiver. */
typedef struct gantry_string_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] */
    gantry_status (*add)(void *ctx, const char *value);
} gantry_string_sink;

/* ---- services that the host lends; valid from init until deinit ---- */

/* One write of a key-value transaction. [frozen] [borrowed] */
typedef struct gantry_kv_write {
    const char *key;
    const void *value; /* NULL: delete */
    size_t value_size;
    const void *expect; /* NULL: unconditional; else the key's present value must equal this */
    size_t expect_size; /* SIZE_MAX with expect != NULL: the key must be absent */
} gantry_kv_write;

typedef struct gantry_host {
    uint32_t struct_size;
    uint32_t abi_major;
    uint32_t abi_minor;
    uint32_t reserved;
    void *ctx;
    /* [any] */
    void (*log)(void *ctx, int32_t level, const char *message);

    /* A small transactional key-value store of this plugin's own, kept in the engine's database and
     * as durable as it. Keys up to 512 bytes, values up to 1 MiB.
     * [any] kv_get calls sink->write once with the value; GANTRY_NOT_FOUND if absent. */
    gantry_status (*kv_get)(void *ctx, const gantry_call *call, const char *key,
                            const gantry_byte_sink *sink);
    /* [any] All writes happen, or none: GANTRY_FAILED_PRECONDITION when an `expect` does not hold. */
    gantry_status (*kv_apply)(void *ctx, const gantry_call *call, const gantry_kv_write *writes,
                              uint32_t count);
    /* [any] Keys that begin with `prefix`, in byte order. */
    gantry_status (*kv_list)(void *ctx, const gantry_call *call, const char *prefix,
                             const gantry_string_sink *sink);

    /* [any] Runs argv[0] (absolute path) without a shell, environment PATH and LANG=C only, and
     * waits for it within the call's deadline; kills it when cancelled. `input` may be NULL.
     * stdout and stderr go to the sinks (NULL: discarded). `exit_code`: 0..255, or 128+signal. */
    gantry_status (*run)(void *ctx, const gantry_call *call, const char *const *argv, const void *input,
                         size_t input_size, const gantry_byte_sink *out, const gantry_byte_sink *err,
                         int32_t *exit_code);

    /* [any] Adds to a counter named "gantry_<plugin>_<name>". Cheap, lock-free. */
    void (*count)(void *ctx, const char *name, int64_t delta);
    /* [any] Sets a gauge of such a name. Cheap, lock-free. */
    void (*gauge)(void *ctx, const char *name, int64_t value);

    /* ABI 1.1. [any] Opens a blob that the engine keeps whole and verified. *fd is read-only and becomes
     * the plugin's [fd taken, CLOEXEC]; *size is the blob's, in bytes. GANTRY_NOT_FOUND: the engine has not
     * got it (layers are kept only with storage.retain_blobs); GANTRY_UNSUPPORTED: this host keeps no
     * blobs. */
    gantry_status (*blob_open)(void *ctx, const gantry_call *call, const char *digest, int32_t *fd,
                               uint64_t *size);
} gantry_host;

/* ---- what a plugin is ---- */

typedef enum gantry_kind {
    GANTRY_KIND_STORAGE = 1, /* table: struct gantry_storage_v1  (storage.h) */
    GANTRY_KIND_NETWORK = 2, /* table: struct gantry_network_v1  (network.h) */
    GANTRY_KIND_REGISTRY = 3 /* table: struct gantry_registry_v1 (registry.h) */
} gantry_kind;

/* An ability beyond the kind's base table, asked for by "id/revision". A table is complete: every
 * slot within its first released size is set, or the plugin is refused at load. [frozen] [static] */
typedef struct gantry_ability {
    const char *id;    /* "gantry.storage.diff/1" */
    const void *table; /* begins with uint32_t struct_size */
} gantry_ability;

/* An instance of a driver, made by create from validated options. */
typedef struct gantry_driver gantry_driver;

/* What create gets besides its options. [borrowed] */
typedef struct gantry_environment {
    uint32_t struct_size;
    uint32_t reserved;
    const char *root;      /* absolute directory that belongs to this driver alone; exists, 0700 */
    const char *run;       /* the same for things that do not outlive a reboot */
    const char *libexec;   /* directory where the plugin's package keeps helper programs */
    const char *engine_id; /* stable name of this engine, [a-z0-9]{8}: part of the names of kernel
                              objects, so that engines beside each other never collide */
} gantry_environment;

/* Optional ability of every kind: says whether create could work here, so that a listing can name the
 * missing prerequisite of a driver that nobody has chosen. */
#define GANTRY_PROBE_1 "gantry.probe/1"

typedef struct gantry_probe_1 {
    uint32_t struct_size;
    uint32_t reserved;
    /* [any] Also before init and without an instance, so no host service is there. Arguments as for
     * create, but the directories of `env` may not exist yet. Free of side effects: makes, mounts,
     * loads and changes nothing; ends within two seconds. GANTRY_OK: nothing speaks against create.
     * GANTRY_UNSUPPORTED or GANTRY_FAILED_PRECONDITION with the missing prerequisite and nothing else
     * as message ("kernel has no aufs"): shown as "skipped: <message>". Any other class is a failure
     * of the probe itself. `config` is NULL when the driver's table is not valid. */
    gantry_status (*probe)(const gantry_call *call, const gantry_environment *env,
                           const gantry_value *config);
} gantry_probe_1;

/* The one exported symbol, and it is data. Magic, version and size keep their place for ever, so it
 * is [frozen] up to them and grows behind; what it points to is [static]. */
struct gantry_plugin_entry {
    uint8_t magic[GANTRY_PLUGIN_MAGIC_SIZE];
    uint32_t abi_major;
    uint32_t abi_minor;
    uint32_t struct_size;
    gantry_kind kind;
    const char *name;             /* [a-z][a-z0-9-]{0,31}: the word after `driver =` and `[storage.` */
    const char *version;          /* of the plugin, free form */
    const char *description;      /* one line */
    const char *homepage;         /* or "" */
    const gantry_option *options; /* keys of [<kind>.<name>] */
    uint32_t option_count;
    uint32_t ability_count;
    const gantry_ability *abilities;
    const void *table; /* base table of the kind */
    /* load -> init -> create -> use -> destroy -> deinit; failure at any step leaves nothing.
     * [main] once per process. GANTRY_UNSUPPORTED: a prerequisite is missing; shown as
     * "skipped: <message>". */
    gantry_status (*init)(const gantry_host *host, const gantry_call *call);
    /* [main] */
    void (*deinit)(void);
    /* [main] `config` is a TABLE value. *out, a [handle], is valid only on GANTRY_OK. */
    gantry_status (*create)(const gantry_call *call, const gantry_environment *env,
                            const gantry_value *config, gantry_driver **out);
    /* [main] Ends the instance; leaves everything on disk and in the kernel as it is. */
    void (*destroy)(gantry_driver *driver);
};

/* The ELF note by which a host judges the file without loading it: section ".note.gantry.abi",
 * name "gantry", type 1, descriptor { u32 abi_major, u32 abi_minor, u32 kind, u32 entry_size }.
 * GANTRY_PLUGIN writes both; use it once, at file scope. */
#define GANTRY_NOTE_SECTION ".note.gantry.abi"
#define GANTRY_NOTE_NAME "gantry"
#define GANTRY_NOTE_TYPE 1u

/* [frozen] */
typedef struct gantry_abi_note {
    uint32_t name_size, desc_size, type;
    char name[8];
    uint32_t abi_major, abi_minor, kind, entry_size;
} gantry_abi_note;

#define GANTRY_PLUGIN_NOTE(kind_value)                                                                       \
    __attribute__((used, section(GANTRY_NOTE_SECTION),                                                       \
                   aligned(4))) static const gantry_abi_note gantry_abi_note_ = {                            \
        7,                                                                                                   \
        16,                                                                                                  \
        GANTRY_NOTE_TYPE,                                                                                    \
        GANTRY_NOTE_NAME,                                                                                    \
        GANTRY_ABI_MAJOR,                                                                                    \
        GANTRY_ABI_MINOR,                                                                                    \
        (uint32_t)(kind_value),                                                                              \
        (uint32_t)sizeof(struct gantry_plugin_entry)}

/* The exported symbol is declared here so that every plugin gives it the same linkage:
 *   GANTRY_PLUGIN_NOTE(GANTRY_KIND_STORAGE);
 *   const struct gantry_plugin_entry gantry_plugin_entry = { ... };
 * Everything else is hidden by a version script (GantrySDK's gantry_add_plugin passes one). */
#define GANTRY_PLUGIN_SYMBOL "gantry_plugin_entry"
extern __attribute__((visibility("default"))) const struct gantry_plugin_entry gantry_plugin_entry;

#ifdef __cplusplus
}
#endif

#endif
