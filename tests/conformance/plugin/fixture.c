/* A storage plugin in plain C, good or broken in one way by -D. Its option `mode` makes the instance
 * misbehave; every step of the state machine is appended to the file $GANTRY_FIXTURE_LOG. */
#include <gantry/storage.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef NOTE_MAJOR
#define NOTE_MAJOR GANTRY_ABI_MAJOR
#endif
#ifndef NOTE_MINOR
#define NOTE_MINOR GANTRY_ABI_MINOR
#endif
#ifndef NOTE_KIND
#define NOTE_KIND GANTRY_KIND_STORAGE
#endif
#ifndef NOTE_SIZE
#define NOTE_SIZE sizeof(struct gantry_plugin_entry)
#endif
#ifndef ENTRY_SIZE
#define ENTRY_SIZE sizeof(struct gantry_plugin_entry)
#endif
#ifndef MAGIC
#define MAGIC GANTRY_PLUGIN_MAGIC
#endif
#ifndef NAME
#define NAME "plain"
#endif
#ifndef SYMBOL
#define SYMBOL gantry_plugin_entry
#endif

struct gantry_driver {
    char mode[32];
};

static void record(const char *step) {
    const char *path = getenv("GANTRY_FIXTURE_LOG");
    FILE *f = path ? fopen(path, "ae") : NULL;
    if (!f) return;
    fprintf(f, "%s\n", step);
    fclose(f);
}

__attribute__((constructor)) static void loaded(void) { record("load"); }

static gantry_status fail(const gantry_call *call, gantry_status status, const char *message) {
    call->error->set(call->error->ctx, status, 0, message, "try something else");
    return status;
}

static int is(gantry_driver *d, const char *mode) { return strcmp(d->mode, mode) == 0; }

static gantry_status init(const gantry_host *host, const gantry_call *call) {
    const char *how = getenv("GANTRY_FIXTURE_INIT");
    record("init");
    if (how && strcmp(how, "unsupported") == 0)
        return fail(call, GANTRY_UNSUPPORTED, "start fixture: a prerequisite is missing");
    if (how && strcmp(how, "fail") == 0) return fail(call, GANTRY_INTERNAL, "start fixture: it is broken");
    host->count(host->ctx, "inits", 1);
    return GANTRY_OK;
}

static void deinit(void) { record("deinit"); }

static gantry_status create(const gantry_call *call, const gantry_environment *env,
                            const gantry_value *config, gantry_driver **out) {
    gantry_driver *d = calloc(1, sizeof *d);
    uint32_t i;
    (void)env;
    record("create");
    if (!d) return GANTRY_NO_SPACE;
    for (i = 0; i < config->count; ++i)
        if (strcmp(config->keys[i], "mode") == 0)
            snprintf(d->mode, sizeof d->mode, "%s", config->items[i].as.s);
    if (is(d, "create_fails") || is(d, "create_null")) {
        const int silent = is(d, "create_null");
        free(d);
        return silent ? GANTRY_OK : fail(call, GANTRY_UNAVAILABLE, "create fixture: not now");
    }
    *out = d;
    return GANTRY_OK;
}

static void destroy(gantry_driver *d) {
    record("destroy");
    free(d);
}

static gantry_status caps(gantry_driver *d, const gantry_call *call, gantry_storage_caps *out) {
    (void)call;
    record("caps");
    out->whiteout = is(d, "whiteout") ? (gantry_whiteout)9 : GANTRY_WHITEOUT_OVERLAY;
    out->max_parents = 7;
    return GANTRY_OK;
}

static gantry_status layer_create(gantry_driver *d, const gantry_call *call, const char *id,
                                  const gantry_storage_create *how) {
    (void)how;
    if (is(d, "status99")) return 99;
    if (is(d, "mute")) return GANTRY_NO_SPACE;
    /* Each class once: ids "class1" to "class12". */
    if (strncmp(id, "class", 5) == 0) return fail(call, atoi(id + 5), "make layer: as asked");
    if (is(d, "deadline")) return call->deadline_ns ? GANTRY_OK : fail(call, GANTRY_INTERNAL, "no deadline");
    return GANTRY_OK;
}

__attribute__((unused)) static gantry_status mounts(gantry_driver *d, const gantry_call *call, const char *id,
                            const char *const *parents, uint32_t parent_count, int32_t read_only,
                            const gantry_mount_sink *sink) {
    const char *options[2];
    gantry_mount m;
    gantry_status status;
    (void)call;
    (void)id;
    memset(&m, 0, sizeof m);
    m.struct_size = is(d, "short_mount") ? 8 : sizeof m;
    m.type = is(d, "null_type") ? NULL : "overlay";
    m.source = "overlay";
    m.target = is(d, "escape") ? "../../etc" : "";
    m.read_only = read_only;
    options[0] = parent_count ? parents[0] : "none";
    options[1] = NULL;
    m.options = options;
    m.option_count = is(d, "null_option") ? 2 : is(d, "many_options") ? 4000000000u : 1;
    if (is(d, "no_mount")) return GANTRY_OK;
    status = sink->add(sink->ctx, is(d, "null_mount") ? NULL : &m);
    return is(d, "deaf") ? GANTRY_OK : status;
}

static gantry_status commit(gantry_driver *d, const gantry_call *call, const char *id,
                            const char *const *parents, uint32_t parent_count, int32_t durable) {
    (void)d, (void)call, (void)id, (void)parents, (void)parent_count, (void)durable;
    return GANTRY_OK;
}
static gantry_status layer_remove(gantry_driver *d, const gantry_call *call, const char *id) {
    (void)d, (void)call, (void)id;
    return GANTRY_OK;
}
static gantry_status usage(gantry_driver *d, const gantry_call *call, const char *id, gantry_usage *out) {
    (void)call, (void)id;
    out->bytes = is(d, "absurd") ? UINT64_MAX : 42;
    out->inodes = 1;
    return GANTRY_OK;
}
static gantry_status list(gantry_driver *d, const gantry_call *call, const gantry_string_sink *sink) {
    (void)call;
    if (is(d, "null_id")) return sink->add(sink->ctx, NULL);
    if (is(d, "deaf")) {
        sink->add(sink->ctx, NULL);
        sink->add(sink->ctx, "after");
        return GANTRY_OK;
    }
    return sink->add(sink->ctx, "a");
}

static const gantry_storage_v1 table = {sizeof table, 0,
                                        caps,         layer_create,
#ifdef HALF_TABLE
                                        NULL,
#else
                                        mounts,
#endif
                                        commit,       layer_remove,
                                        usage,        list};
#ifdef HALF_ABILITY
static const gantry_storage_diff_1 diff = {sizeof diff, 0, NULL};
static const gantry_ability abilities[] = {{GANTRY_STORAGE_DIFF_1, &diff}};
#define ABILITIES 1, abilities
#else
#define ABILITIES 0, NULL
#endif

static const gantry_option options[] = {{sizeof(gantry_option), GANTRY_TYPE_STRING, "mode", "\"\"",
                                         "how to misbehave", NULL, 0, 0, NULL, 0, 0, NULL}};

#ifndef NO_NOTE
__attribute__((used, section(GANTRY_NOTE_SECTION), aligned(4))) static const gantry_abi_note note = {
    7, 16, GANTRY_NOTE_TYPE, GANTRY_NOTE_NAME, NOTE_MAJOR, NOTE_MINOR, NOTE_KIND, (uint32_t)NOTE_SIZE};
#endif

extern __attribute__((visibility("default"))) const struct gantry_plugin_entry SYMBOL;
const struct gantry_plugin_entry SYMBOL = {MAGIC,
                                           GANTRY_ABI_MAJOR,
                                           GANTRY_ABI_MINOR,
                                           (uint32_t)ENTRY_SIZE,
                                           GANTRY_KIND_STORAGE,
                                           NAME,
                                           "1",
                                           "a fixture",
                                           "",
                                           options,
                                           1,
                                           ABILITIES,
                                           &table,
                                           init,
                                           deinit,
                                           create,
                                           destroy};
