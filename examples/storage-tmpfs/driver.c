/* The driver. On the tmpfs: <id>/fs is the layer's tree, <id>/work overlayfs's, <id>/committed says "bytes
 * inodes" of a layer that is read-only for ever. Ids have no dot, so names with one are work that a kill
 * left: "new.N" is half-made, "gone.N" half-removed; the next start sweeps both. */
#include "tmpfs.h"

#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

enum { kMaxParents = 499 }; /* the kernel stacks 500, and a read-only view spends one on the layer */

static const gantry_host *host;

static int valid_id(const char *id) {
    const size_t length = strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789");
    return length > 0 && length <= 32 && id[length] == 0;
}

static gantry_status check_ids(const gantry_call *call, const char *id, const char *const *parents,
                               uint32_t count) {
    uint32_t i;
    if (!valid_id(id))
        return report(call, GANTRY_INVALID_ARGUMENT, 0, "use layer '%.64s': not a layer id", id);
    for (i = 0; i < count; ++i)
        if (!valid_id(parents[i]))
            return report(call, GANTRY_INVALID_ARGUMENT, 0, "use layer '%.64s': not a layer id", parents[i]);
    if (count > kMaxParents)
        return report(call, GANTRY_UNSUPPORTED, 0, "use layer %s: overlayfs stacks at most 500 layers", id);
    return GANTRY_OK;
}

/* A descriptor of the layer's directory, or -1 after a report. */
static int open_layer(gantry_driver *d, const gantry_call *call, const char *id, gantry_status *status) {
    int fd = -1;
    *status = check_ids(call, id, NULL, 0);
    if (*status != GANTRY_OK) return -1;
    fd = openat(d->root, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) *status = report_errno(call, errno, "use layer %s", id);
    return fd;
}

/* 1 with its usage, 0 when the layer is active, -1 when the mark cannot be read. */
static int committed(int layer, gantry_usage *out) {
    char text[64];
    ssize_t n;
    const int fd = openat(layer, "committed", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? 0 : -1;
    n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return -1;
    text[n] = 0;
    return sscanf(text, "%" SCNu64 " %" SCNu64, &out->bytes, &out->inodes) == 2 ? 1 : -1;
}

static gantry_status caps(gantry_driver *d, const gantry_call *call, gantry_storage_caps *out) {
    (void)d, (void)call;
    if (GANTRY_HAS(out, whiteout)) out->whiteout = GANTRY_WHITEOUT_OVERLAY;
    if (GANTRY_HAS(out, independent_layers)) out->independent_layers = 1;
    if (GANTRY_HAS(out, max_parents)) out->max_parents = kMaxParents;
    return GANTRY_OK;
}

/* `fs` looks like the nearest parent's from above: the root of a container is a directory of its image. */
static int make_tree(gantry_driver *d, int layer, const gantry_storage_create *how) {
    struct stat st;
    struct timespec times[2];
    int fs, error = 0;
    char below[48];
    if (mkdirat(layer, "fs", 0755) != 0 || mkdirat(layer, "work", 0700) != 0) return errno;
    fs = openat(layer, "fs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fs < 0) return errno;
    if (how->parent_count == 0) {
        if (fchmod(fs, 0755) != 0) error = errno; /* whatever the umask is */
    } else {
        snprintf(below, sizeof below, "%s/fs", how->parents[0]);
        if (fstatat(d->root, below, &st, AT_SYMLINK_NOFOLLOW) != 0) {
            error = errno;
        } else {
            times[0] = st.st_atim;
            times[1] = st.st_mtim;
            if (fchown(fs, st.st_uid, st.st_gid) != 0 || fchmod(fs, st.st_mode & 07777) != 0 ||
                futimens(fs, times) != 0)
                error = errno;
        }
    }
    close(fs);
    return error;
}

static gantry_status create_layer(gantry_driver *d, const gantry_call *call, const char *id,
                                  const gantry_storage_create *how) {
    char name[48];
    int layer, error = 0;
    gantry_status status = check_ids(call, id, how->parents, how->parent_count);
    if (status == GANTRY_OK && (status = given_up(call)) != GANTRY_OK)
        return report(call, status, 0, "make layer %s: the caller gave up", id);
    if (status != GANTRY_OK) return status;
    if (how->size_limit != 0)
        return report(call, GANTRY_UNSUPPORTED, 0,
                      "limit layer %s: only all layers together are limited, by storage.tmpfs.size", id);
    if (faccessat(d->root, id, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return report(call, GANTRY_ALREADY_EXISTS, 0, "make layer %s: it is there already", id);
    snprintf(name, sizeof name, "new.%lu", __atomic_add_fetch(&d->serial, 1, __ATOMIC_RELAXED));
    if (mkdirat(d->root, name, 0700) != 0) return report_errno(call, errno, "make layer %s", id);
    layer = openat(d->root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    error = layer < 0 ? errno : make_tree(d, layer, how);
    if (layer >= 0) close(layer);
    if (error == 0 && renameat2(d->root, name, d->root, id, RENAME_NOREPLACE) != 0) error = errno;
    if (error == 0) return GANTRY_OK;
    remove_tree(d->root, name); /* the first error counts; the next start sweeps the rest */
    return report_errno(call, error, "make layer %s", id);
}

static gantry_status mounts(gantry_driver *d, const gantry_call *call, const char *id,
                            const char *const *parents, uint32_t parent_count, int32_t read_only,
                            const gantry_mount_sink *sink) {
    const size_t width = strlen(d->path) + 64; /* "lowerdir+=" path "/" id "/work" */
    gantry_usage unused;
    gantry_mount m;
    const char **options = NULL;
    char *text = NULL, *at;
    uint32_t i, n = 0, lines;
    int state, layer;
    gantry_status status = check_ids(call, id, parents, parent_count);
    if (status != GANTRY_OK) return status;
    if ((layer = open_layer(d, call, id, &status)) < 0) return status;
    state = committed(layer, &unused);
    close(layer);
    if (state < 0) return report(call, GANTRY_DATA_LOSS, 0, "mount layer %s: its mark cannot be read", id);
    if (state && !read_only)
        return report(call, GANTRY_FAILED_PRECONDITION, 0, "mount layer %s for writing: it is committed", id);
    lines = parent_count + 3;
    text = malloc(lines * width);
    options = malloc((lines + 4) * sizeof *options);
    if (!text || !options) {
        free(text);
        free(options);
        return report_errno(call, ENOMEM, "mount layer %s", id);
    }
    memset(&m, 0, sizeof m);
    m.struct_size = sizeof m;
    m.target = "";
    m.read_only = read_only;
    at = text;
#define LINE(...) (snprintf(at, width, __VA_ARGS__), options[n++] = at, at += width)
    if (parent_count == 0) {
        snprintf(text, width, "%s/%s/fs", d->path, id);
        m.type = "bind";
        m.source = text;
    } else {
        m.type = m.source = "overlay";
        if (read_only) LINE("lowerdir+=%s/%s/fs", d->path, id);
        for (i = 0; i < parent_count; ++i)
            LINE("lowerdir+=%s/%s/fs", d->path, parents[i]);
        if (!read_only) {
            LINE("upperdir=%s/%s/fs", d->path, id);
            LINE("workdir=%s/%s/work", d->path, id);
        }
        for (i = 0; i < d->overlay_option_count; ++i)
            options[n++] = d->overlay_options[i];
    }
#undef LINE
    m.options = options;
    m.option_count = n;
    status = sink->add(sink->ctx, &m);
    free(text);
    free(options);
    return status;
}

static gantry_status measure(const gantry_call *call, int layer, const char *id, int strip,
                             gantry_usage *out) {
    gantry_usage found;
    int error;
    const int fs = openat(layer, "fs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fs < 0) return report_errno(call, errno, "measure layer %s", id);
    error = measure_tree(fs, call, strip, &found);
    close(fs);
    if (error < 0) return report(call, -error, 0, "measure layer %s: the caller gave up", id);
    if (error > 0) return report_errno(call, error, "measure layer %s", id);
    out->bytes = found.bytes;
    out->inodes = found.inodes;
    return GANTRY_OK;
}

/* `durable` has nothing to add: what must survive a power cut does not belong into memory. */
static gantry_status commit(gantry_driver *d, const gantry_call *call, const char *id,
                            const char *const *parents, uint32_t parent_count, int32_t durable) {
    char text[64];
    gantry_usage usage;
    gantry_status status;
    int state, fd, length, error = 0;
    const int layer = open_layer(d, call, id, &status);
    (void)parents, (void)durable;
    if (layer < 0) return status;
    state = committed(layer, &usage);
    if (state == 0) {
        status = measure(call, layer, id, parent_count == 0, &usage);
        if (status == GANTRY_OK) {
            length = snprintf(text, sizeof text, "%" PRIu64 " %" PRIu64 "\n", usage.bytes, usage.inodes);
            fd = openat(layer, "committing", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
            if (fd < 0 || write(fd, text, (size_t)length) != length ||
                renameat(layer, "committing", layer, "committed") != 0)
                error = errno ? errno : ENOSPC;
            if (fd >= 0) close(fd);
        }
    }
    close(layer);
    if (state < 0) return report(call, GANTRY_DATA_LOSS, 0, "commit layer %s: its mark cannot be read", id);
    return error ? report_errno(call, error, "commit layer %s", id) : status;
}

static gantry_status remove_layer(gantry_driver *d, const gantry_call *call, const char *id) {
    char name[48];
    int error;
    const gantry_status status = check_ids(call, id, NULL, 0);
    if (status != GANTRY_OK) return status;
    snprintf(name, sizeof name, "gone.%lu", __atomic_add_fetch(&d->serial, 1, __ATOMIC_RELAXED));
    if (renameat(d->root, id, d->root, name) != 0)
        return errno == ENOENT ? GANTRY_OK : report_errno(call, errno, "remove layer %s", id);
    error = remove_tree(d->root, name);
    return error ? report_errno(call, error, "remove layer %s", id) : GANTRY_OK;
}

static gantry_status usage(gantry_driver *d, const gantry_call *call, const char *id, gantry_usage *out) {
    gantry_status status;
    int state;
    const int layer = open_layer(d, call, id, &status);
    if (layer < 0) return status;
    state = committed(layer, out);
    if (state == 0) status = measure(call, layer, id, 0, out);
    close(layer);
    return state < 0 ? report(call, GANTRY_DATA_LOSS, 0, "measure layer %s: its mark cannot be read", id)
                     : status;
}

/* Calls `each` with every name; stops at the first status that is not OK. */
static gantry_status each_name(gantry_driver *d, const gantry_call *call,
                               gantry_status (*each)(void *ctx, const char *name), void *ctx) {
    struct dirent *entry;
    gantry_status status = GANTRY_OK;
    const int fd = openat(d->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (!stream) {
        const int error = errno;
        if (fd >= 0) close(fd);
        return report_errno(call, error, "list layers in %s", d->path);
    }
    while (status == GANTRY_OK && (errno = 0, entry = readdir(stream)))
        status = each(ctx, entry->d_name);
    if (status == GANTRY_OK && errno != 0) status = report_errno(call, errno, "list layers in %s", d->path);
    closedir(stream);
    return status;
}

static gantry_status name_layer(void *ctx, const char *name) {
    const gantry_string_sink *sink = ctx;
    return valid_id(name) ? sink->add(sink->ctx, name) : GANTRY_OK;
}
static gantry_status list(gantry_driver *d, const gantry_call *call, const gantry_string_sink *sink) {
    return each_name(d, call, name_layer, (void *)sink);
}

static gantry_status sweep(void *ctx, const char *name) {
    gantry_driver *d = ctx;
    if (strncmp(name, "new.", 4) == 0 || strncmp(name, "gone.", 5) == 0) remove_tree(d->root, name);
    return GANTRY_OK;
}

/* ---- the instance ---- */

/* The mount is the driver's store and stays when the engine ends; layers are mounted by the core alone. */
static gantry_status mount_store(const gantry_call *call, const char *path, int64_t size) {
    struct statfs fs;
    struct stat here, above;
    char options[64] = "mode=0700", up[4096];
    int there;
    if (mkdir(path, 0700) != 0 && errno != EEXIST) return report_errno(call, errno, "make %s", path);
    snprintf(up, sizeof up, "%s/..", path);
    if (statfs(path, &fs) != 0 || stat(path, &here) != 0 || stat(up, &above) != 0)
        return report_errno(call, errno, "look at %s", path);
    there = here.st_dev != above.st_dev && fs.f_type == TMPFS_MAGIC;
    if (size > 0) snprintf(options, sizeof options, "mode=0700,size=%" PRId64, size);
    if (mount("gantry", path, "tmpfs", there ? MS_REMOUNT : 0, options) == 0) return GANTRY_OK;
    if (there && errno == EINVAL)
        return report(call, GANTRY_FAILED_PRECONDITION, EINVAL,
                      "shrink the tmpfs at %s to %" PRId64 " bytes: it holds more", path, size);
    return report_errno(call, errno, "mount a tmpfs at %s", path);
}

static gantry_status create(const gantry_call *call, const gantry_environment *env,
                            const gantry_value *config, gantry_driver **out) {
    static const char *const kQuiet[][2] = {
        {"/sys/module/overlay/parameters/index", "index=off"},
        {"/sys/module/overlay/parameters/redirect_dir", "redirect_dir=off"},
        {"/sys/module/overlay/parameters/metacopy", "metacopy=off"}};
    gantry_driver *d;
    gantry_status status;
    int64_t size = 0;
    uint32_t i;
    for (i = 0; i < config->count; ++i)
        if (strcmp(config->keys[i], "size") == 0) size = config->items[i].as.i;
    if (strpbrk(env->run, ":,\\"))
        return report(call, GANTRY_UNSUPPORTED, 0, "use %s: overlayfs takes no path with ':', ',' or '\\'",
                      env->run);
    d = calloc(1, sizeof *d);
    if (d) d->path = malloc(strlen(env->run) + sizeof "/tmpfs");
    if (!d || !d->path) {
        free(d);
        return report_errno(call, ENOMEM, "make an instance of tmpfs");
    }
    sprintf(d->path, "%s/tmpfs", env->run);
    /* Layers are trees of their own, which redirects and metadata-only copies would end. */
    for (i = 0; i < 3; ++i)
        if (access(kQuiet[i][0], F_OK) == 0) d->overlay_options[d->overlay_option_count++] = kQuiet[i][1];
    status = mount_store(call, d->path, size);
    d->root = -1;
    if (status == GANTRY_OK) {
        d->root = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (d->root < 0) status = report_errno(call, errno, "open %s", d->path);
    }
    if (status == GANTRY_OK) status = each_name(d, call, sweep, d);
    if (status == GANTRY_OK) {
        *out = d;
        return GANTRY_OK;
    }
    if (d->root >= 0) close(d->root);
    free(d->path);
    free(d);
    return status;
}

/* A tmpfs that holds no layer is given back, so that an engine without layers leaves nothing mounted. */
static gantry_status any(void *ctx, const char *name) {
    if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) *(int *)ctx = 1;
    return GANTRY_OK;
}
static void deaf(void *ctx, gantry_status status, int32_t error, const char *message, const char *hint) {
    (void)ctx, (void)status, (void)error, (void)message, (void)hint;
}
static void destroy(gantry_driver *d) {
    const gantry_error_sink sink = {sizeof sink, 0, NULL, deaf};
    gantry_call call;
    int holds = 0;
    memset(&call, 0, sizeof call);
    call.struct_size = sizeof call;
    call.cancel_fd = -1;
    call.error = &sink;
    if (each_name(d, &call, any, &holds) != GANTRY_OK) holds = 1;
    close(d->root);
    if (!holds && umount2(d->path, MNT_DETACH) == 0) rmdir(d->path);
    free(d->path);
    free(d);
}

static gantry_status init(const gantry_host *lent, const gantry_call *call) {
    (void)call;
    host = lent;
    host->log(host->ctx, GANTRY_LOG_DEBUG, "layers live in memory and end with the next reboot");
    return GANTRY_OK;
}
static void deinit(void) { host = NULL; }

static const gantry_storage_v1 table = {sizeof table, 0,     caps, create_layer, mounts, commit,
                                        remove_layer, usage, list};

static const gantry_option options[] = {
    {.struct_size = sizeof(gantry_option),
     .type = GANTRY_TYPE_SIZE,
     .name = "size",
     .default_toml = "0",
     .doc = "most that all layers together may take; 0: half of the memory"}};

GANTRY_PLUGIN_NOTE(GANTRY_KIND_STORAGE);

const struct gantry_plugin_entry gantry_plugin_entry = {.magic = GANTRY_PLUGIN_MAGIC,
                                                        .abi_major = GANTRY_ABI_MAJOR,
                                                        .abi_minor = GANTRY_ABI_MINOR,
                                                        .struct_size = sizeof gantry_plugin_entry,
                                                        .kind = GANTRY_KIND_STORAGE,
                                                        .name = "tmpfs",
                                                        .version = "1.0",
                                                        .description =
                                                            "layers in memory, for throw-away builds",
                                                        .homepage = "",
                                                        .options = options,
                                                        .option_count = 1,
                                                        .table = &table,
                                                        .init = init,
                                                        .deinit = deinit,
                                                        .create = create,
                                                        .destroy = destroy};
