/* Storage drivers: where layers live.
 *
 * The core owns names, parents, reference counts and transactions. A driver owns directories under
 * opaque ids ([a-z0-9]{1,32}) that are never used twice, and is told the ordered parent ids
 * (nearest parent first, the base layer last) with each call that needs them. It keeps no database
 * of its own.
 *
 * Vocabulary: a layer is *active* from create until commit (writable), and *committed* afterwards
 * (read-only for ever). Only committed layers are parents.
 *
 *   image layer:      create(id, {})  -> mounts(id, {}, write) -> core unpacks -> commit(id, parents)
 *                     when the driver says independent_layers; otherwise create(id, parents) and
 *                     layers of one image are made one after the other.
 *   container:        create(id, parents) -> mounts(id, parents, write) -> run ... -> remove(id)
 *   container commit: create, run, then commit(id, parents) of a copy, or a diff to a new layer.
 *
 * Drivers return mounts and never mount. The core realises them in the container's mount namespace
 * or as a detached mount, so nothing leaks into the host's table.
 *
 * A process may be killed at any instruction. After it, an id is either whole or can be removed:
 * list() names every id of which anything is left, and the core removes those it does not know.
 */
#ifndef GANTRY_STORAGE_H
#define GANTRY_STORAGE_H

#include <gantry/abi.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How a layer's directory says "the name below is deleted". */
typedef enum gantry_whiteout {
    GANTRY_WHITEOUT_NONE = 0,    /* directories are complete trees; deleting really deletes */
    GANTRY_WHITEOUT_OVERLAY = 1, /* character device 0:0; directory xattr trusted.overlay.opaque=y */
    GANTRY_WHITEOUT_AUFS = 2     /* .wh.NAME files, .wh..wh..opq */
} gantry_whiteout;

typedef struct gantry_storage_caps {
    uint32_t struct_size; /* set by the caller */
    gantry_whiteout whiteout;
    int32_t independent_layers; /* layers can be unpacked without, and in parallel to, their parents */
    int32_t idmapped;           /* id-mapped mounts work on this root */
    int32_t quota;              /* create honours size_limit */
    int32_t reflink;
    uint32_t max_parents; /* 0: no limit */
    uint32_t reserved;
} gantry_storage_caps;

/* [borrowed] */
typedef struct gantry_storage_create {
    uint32_t struct_size;
    uint32_t parent_count;
    const char *const *parents;
    uint64_t size_limit; /* bytes the layer may hold; 0: unlimited. GANTRY_UNSUPPORTED without quota */
} gantry_storage_create;

/* A mount to be made by the core. `options` are those of mount(8) without "ro"; for type "overlay"
 * the key "lowerdir+" may repeat, nearest first, with "upperdir" and "workdir" once. Type "bind"
 * binds `source`. `target` is relative to the layer's root ("" for the root itself).
 * [borrowed] */
typedef struct gantry_mount {
    uint32_t struct_size;
    int32_t read_only;
    const char *type;
    const char *source;
    const char *target;
    const char *const *options;
    uint32_t option_count;
    uint32_t reserved;
} gantry_mount;

typedef struct gantry_mount_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] In the order of mounting. */
    gantry_status (*add)(void *ctx, const gantry_mount *mount);
} gantry_mount_sink;

typedef struct gantry_usage {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t bytes; /* allocated to this layer alone, parents excluded */
    uint64_t inodes;
} gantry_usage;

typedef struct gantry_storage_v1 {
    uint32_t struct_size;
    uint32_t reserved;

    /* [any] Facts probed on the driver's root when the instance was made. Cheap. */
    gantry_status (*caps)(gantry_driver *driver, const gantry_call *call, gantry_storage_caps *out);

    /* [any; serialised by id] Makes an active layer. GANTRY_ALREADY_EXISTS when the id is there in
     * any state. Cost: a few mkdirs where layers are independent or snapshots exist, a copy of the
     * parent otherwise. */
    gantry_status (*create)(gantry_driver *driver, const gantry_call *call, const char *id,
                            const gantry_storage_create *how);

    /* [any] The mounts that show the layer's tree. For an active layer read_only may be 0 or 1; a
     * committed one requires 1. Idempotent, touches no disk beyond stat, returns at least one. */
    gantry_status (*mounts)(gantry_driver *driver, const gantry_call *call, const char *id,
                            const char *const *parents, uint32_t parent_count, int32_t read_only,
                            const gantry_mount_sink *sink);

    /* [any; serialised by id] Makes the layer read-only for ever; idempotent. Moves no data. With
     * `durable` everything in the layer has reached the disk when this returns. */
    gantry_status (*commit)(gantry_driver *driver, const gantry_call *call, const char *id,
                            const char *const *parents, uint32_t parent_count, int32_t durable);

    /* [any; serialised by id] Removes all traces of the id, whatever state a crash left it in.
     * Idempotent: an unknown id is GANTRY_OK. The core has unmounted everything first. May defer
     * the work so long as list() no longer names the id. */
    gantry_status (*remove)(gantry_driver *driver, const gantry_call *call, const char *id);

    /* [any] Blocks no writer; obeys cancellation; for a committed layer the answer never changes. */
    gantry_status (*usage)(gantry_driver *driver, const gantry_call *call, const char *id, gantry_usage *out);

    /* [any] Every id of which anything exists. */
    gantry_status (*list)(gantry_driver *driver, const gantry_call *call, const gantry_string_sink *sink);
} gantry_storage_v1;

/* ---- ability "gantry.storage.diff/1": changes known without walking both trees ---- */

#define GANTRY_STORAGE_DIFF_1 "gantry.storage.diff/1"

typedef enum gantry_change_kind {
    GANTRY_CHANGE_MODIFIED = 0,
    GANTRY_CHANGE_ADDED = 1,
    GANTRY_CHANGE_DELETED = 2
} gantry_change_kind;

typedef struct gantry_change_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] `path` is absolute within the layer ("/etc/passwd"). Parents before children. */
    gantry_status (*add)(void *ctx, gantry_change_kind kind, const char *path);
} gantry_change_sink;

typedef struct gantry_storage_diff_1 {
    uint32_t struct_size;
    uint32_t reserved;
    /* [any] Must agree with a walk of both trees; may be called on an active layer in use. */
    gantry_status (*changes)(gantry_driver *driver, const gantry_call *call, const char *id,
                             const char *const *parents, uint32_t parent_count,
                             const gantry_change_sink *sink);
} gantry_storage_diff_1;

#ifdef __cplusplus
}
#endif

#endif
