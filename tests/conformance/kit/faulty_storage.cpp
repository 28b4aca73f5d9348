// Storage with one fault: over vfs, or over overlay for what needs a native diff.
#include "faulty.h"

#ifdef FAULTY_DIFF
#include "plugins/storage-overlay/driver.h"
#else
#include "plugins/storage-vfs/driver.h"
#endif

#include <functional>
#include <map>
#include <mutex>
#include <string_view>
#include <sys/mount.h>
#include <sys/xattr.h>
#include <vector>

namespace {

using faulty::is;
const gantry_storage_v1 &good = gantry::detail::kStorageTable;
std::string root; // of the one instance
std::mutex mutex;
std::map<std::string, std::vector<std::string>> parents_of;

std::string quiet_source(gantry_driver *d, const gantry_call *call, const char *id,
                         const char *const *parents, uint32_t count) {
    std::string out;
    gantry_mount_sink sink{sizeof sink, 0, &out, [](void *ctx, const gantry_mount *m) -> gantry_status {
                               *static_cast<std::string *>(ctx) = m->source;
                               return GANTRY_OK;
                           }};
    gantry_call silent = *call;
    silent.error = nullptr;
    good.mounts(d, &silent, id, parents, count, 1, &sink);
    return out;
}

void each_file(const std::string &tree, const char *shell) {
    if (tree.empty()) return;
    const std::string command = "cd '" + tree +
                                "' && find . -mindepth 1 -maxdepth 2 -type f | while read -r f; do " + shell +
                                "; done 2>/dev/null";
    if (system(command.c_str()) != 0) return; // an empty tree
}

gantry_status caps(gantry_driver *d, const gantry_call *call, gantry_storage_caps *out) {
    if (is("caps-overrun")) {
        gantry_storage_caps whole{};
        whole.struct_size = sizeof whole;
        const gantry_status status = good.caps(d, call, &whole);
        memcpy(out, &whole, sizeof whole);
        return status;
    }
    const gantry_status status = good.caps(d, call, out);
    if (is("wrong-whiteout")) out->whiteout = GANTRY_WHITEOUT_OVERLAY;
    return status;
}

gantry_status create(gantry_driver *d, const gantry_call *call, const char *id,
                     const gantry_storage_create *how) {
    faulty::at_call();
    {
        const std::lock_guard lock(mutex);
        parents_of[id] = {how->parents, how->parents + how->parent_count};
    }
    const gantry_call deaf = faulty::deaf(call);
    gantry_storage_create changed = *how;
    if (is("many-layers") && how->parent_count > 100)
        return faulty::fail(call, GANTRY_UNSUPPORTED, "create: too many parents");
    if (is("quota-ignored")) changed.size_limit = 0;
    if (is("id-is-path") && strchr(id, '/')) {
        mkdir((root + "/" + id).c_str(), 0755);
        return GANTRY_OK;
    }
    if (is("mounts-at-create") && mount("none", root.c_str(), "tmpfs", 0, "size=1M") != 0) abort();
    if (is("duplicate-accepted") || is("reports-twice") || is("reports-never") || is("wrong-class")) {
        gantry_call silent = *call;
        silent.error = nullptr;
        const gantry_status status = good.create(d, &silent, id, &changed);
        if (status == GANTRY_OK || (is("duplicate-accepted") && status == GANTRY_ALREADY_EXISTS))
            return GANTRY_OK;
        if (is("reports-twice")) faulty::fail(call, status, "create: no");
        if (is("reports-never")) return status;
        return faulty::fail(call, is("wrong-class") ? GANTRY_INTERNAL : status, "create: no");
    }
    if (is("half-create") && how->parent_count > 0) {
        // In place, name by name: a kill leaves a layer that is listed and is not whole.
        const std::string from =
            quiet_source(d, call, how->parents[0], how->parents + 1, how->parent_count - 1);
        changed.parent_count = 0;
        const gantry_status status = good.create(d, call, id, &changed);
        const std::string to = quiet_source(d, call, id, nullptr, 0);
        for (const char *name : {"a", "b", "c"}) {
            const int in = open((from + "/" + name).c_str(), O_RDONLY | O_CLOEXEC),
                      out = open((to + "/" + name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
            char buffer[64];
            const ssize_t n = read(in, buffer, sizeof buffer);
            if (n > 0 && write(out, buffer, size_t(n)) < 0) abort();
            close(in);
            close(out);
        }
        return status;
    }
    return good.create(d, is("cancel-ignored") ? &deaf : call, id, &changed);
}

gantry_status mounts(gantry_driver *d, const gantry_call *call, const char *id, const char *const *parents,
                     uint32_t count, int32_t read_only, const gantry_mount_sink *sink) {
    if (is("race")) {
        static char current[64]; // of all threads
        snprintf(current, sizeof current, "%s", id);
        usleep(300);
        std::string mine = current;
        return good.mounts(d, call, mine.c_str(), parents, count, read_only, sink);
    }
    struct Writable {
        const gantry_mount_sink *to;
        bool changes;
    } writable{sink, false};
    gantry_mount_sink flip{sizeof flip, 0, &writable, [](void *ctx, const gantry_mount *m) -> gantry_status {
                               gantry_mount copy = *m;
                               copy.read_only = 0;
                               const auto *to = static_cast<Writable *>(ctx)->to;
                               return to->add(to->ctx, &copy);
                           }};
    if (is("committed-writable")) return good.mounts(d, call, id, parents, count, 1, &flip);
    if (is("writes-to-parent") && count > 0 && !read_only)
        return good.mounts(d, call, parents[0], parents + 1, count - 1, 1, &flip);
    if (is("mounts-vary")) {
        static int turn = 0;
        static const char *const kEach[] = {"noatime", "nodiratime"};
        struct Add {
            const gantry_mount_sink *to;
            const char *option;
        } add{sink, kEach[turn++ % 2]};
        gantry_mount_sink more{sizeof more, 0, &add, [](void *ctx, const gantry_mount *m) -> gantry_status {
                                   const Add &a = *static_cast<Add *>(ctx);
                                   gantry_mount copy = *m;
                                   copy.options = &a.option;
                                   copy.option_count = 1;
                                   return a.to->add(a.to->ctx, &copy);
                               }};
        return good.mounts(d, call, id, parents, count, read_only, &more);
    }
    return good.mounts(d, call, id, parents, count, read_only, sink);
}

gantry_status commit(gantry_driver *d, const gantry_call *call, const char *id, const char *const *parents,
                     uint32_t count, int32_t durable) {
    const std::string tree = getenv("GANTRY_FAULT") ? quiet_source(d, call, id, parents, count) : "";
    if (is("commit-copies")) each_file(tree, "cp -p \"$f\" \"$f.new\" && mv \"$f.new\" \"$f\"");
    if (is("times-lost")) each_file(tree, "touch \"$f\"");
    if (is("attributes-lost")) each_file(tree, "cp \"$f\" \"$f.n\" && mv \"$f.n\" \"$f\"");
    if (is("holes-filled")) each_file(tree, "cat \"$f\" > \"$f.n\"; mv \"$f.n\" \"$f\"");
    if (is("commit-moves-away") && !tree.empty()) {
        rename(tree.c_str(), (tree + std::to_string(getpid())).c_str());
        rename((tree + std::to_string(getpid())).c_str(), tree.c_str());
    }
#ifdef FAULTY_DIFF
    if (is("opaque-lost"))
        removexattr((root + "/" + id + "/fs/e").c_str(), "trusted.overlay.opaque"); // the case's directory
#endif
    return good.commit(d, call, id, parents, count, durable);
}

gantry_status remove(gantry_driver *d, const gantry_call *call, const char *id) {
    if (is("remove-once")) {
        const std::lock_guard lock(mutex);
        if (parents_of.erase(id) == 0) return faulty::fail(call, GANTRY_NOT_FOUND, "remove: no such layer");
    }
    if (is("remove-leaves")) mkdir((root + "/LEFT-" + id).c_str(), 0755);
    if (is("stale-lock"))
        return faulty::with_stale_lock(call, root + "/LOCK", [&] { return good.remove(d, call, id); });
    return good.remove(d, call, id);
}

gantry_status usage(gantry_driver *d, const gantry_call *call, const char *id, gantry_usage *out) {
    if (is("leak-in-call") && open("/dev/null", O_RDONLY | O_CLOEXEC) < 0) abort();
    if (is("process-in-call") && fork() == 0) {
        pause();
        _exit(0);
    }
    const gantry_call deaf = faulty::deaf(call);
    const gantry_status status = good.usage(d, is("cancel-ignored") ? &deaf : call, id, out);
    if (is("usage-of-parents")) {
        std::vector<std::string> parents;
        {
            const std::lock_guard lock(mutex);
            parents = parents_of[id];
        }
        for (const std::string &parent : parents) {
            gantry_usage more{};
            more.struct_size = sizeof more;
            if (good.usage(d, call, parent.c_str(), &more) == GANTRY_OK) out->bytes += more.bytes;
        }
    }
    if (is("inodes-wrong")) out->inodes = 1;
    return status;
}

gantry_status list(gantry_driver *d, const gantry_call *call, const gantry_string_sink *sink) {
    if (is("list-forgets")) return GANTRY_OK;
    if (is("sink-ignored")) {
        gantry_string_sink stubborn{sizeof stubborn, 0, const_cast<gantry_string_sink *>(sink),
                                    [](void *ctx, const char *id) -> gantry_status {
                                        const auto *to = static_cast<gantry_string_sink *>(ctx);
                                        to->add(to->ctx, id);
                                        return GANTRY_OK;
                                    }};
        return good.list(d, call, &stubborn);
    }
    return good.list(d, call, sink);
}

const gantry_storage_v1 kTable{
    sizeof(gantry_storage_v1), 0, caps, create, mounts, commit, remove, usage, list};

#ifdef FAULTY_DIFF
gantry_status changes(gantry_driver *d, const gantry_call *call, const char *id, const char *const *parents,
                      uint32_t count, const gantry_change_sink *sink) {
    gantry_change_sink filter{sizeof filter, 0, const_cast<gantry_change_sink *>(sink),
                              [](void *ctx, gantry_change_kind kind, const char *path) -> gantry_status {
                                  const auto *to = static_cast<gantry_change_sink *>(ctx);
                                  if (is("diff-forgets") && kind == GANTRY_CHANGE_DELETED) return GANTRY_OK;
                                  // As if equal size and time said it all.
                                  if (is("diff-believes-times") && strcmp(path, "/f") == 0) return GANTRY_OK;
                                  if (is("diff-twice")) to->add(to->ctx, kind, path);
                                  return to->add(to->ctx, kind, path);
                              }};
    if (is("diff-tells-more")) sink->add(sink->ctx, GANTRY_CHANGE_MODIFIED, "/etc");
    return gantry::detail::kStorageDiffTable.changes(d, call, id, parents, count, &filter);
}
const gantry_storage_diff_1 kDiff{sizeof(gantry_storage_diff_1), 0, changes};
const gantry_ability kAbilities[] = {{GANTRY_STORAGE_DIFF_1, &kDiff}, {GANTRY_PROBE_1, &faulty::kProbe}};
using Base = gantry::OverlayDriver;
#else
const gantry_ability kAbilities[] = {{GANTRY_PROBE_1, &faulty::kProbe}};
using Base = gantry::VfsDriver;
#endif

std::unique_ptr<gantry::StorageDriver> make(const gantry::Environment &env) {
    faulty::at_create(env);
    root = env.root;
    if (is("start-removes") && system(("rm -rf '" + root + "'/*").c_str()) < 0) abort();
#ifdef FAULTY_DIFF
    return std::make_unique<Base>(env.root, Base::Settings{});
#else
    return std::make_unique<Base>(env.root);
#endif
}

} // namespace

GANTRY_PLUGIN_ENTRY_(GANTRY_KIND_STORAGE, gantry::StorageDriver, kTable, kAbilities, std::size(kAbilities),
                     "faulty", "1", faulty::kText, faulty::kOptions,
                     [](const gantry::Environment &env, const gantry::Config &, const gantry::Call &) {
                         return make(env);
                     });
GANTRY_PLUGIN_PROBE([](const gantry::Environment &, const gantry::Config *, const gantry::Call &) {});
