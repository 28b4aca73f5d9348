#include "storage_bench.h"

#include "core/base/files.h"
#include "core/layer/layers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry::kit {

namespace {

std::vector<const char *> pointers(const LayerIds &ids) {
    std::vector<const char *> out;
    for (const std::string &id : ids)
        out.push_back(id.c_str());
    return out;
}

} // namespace

StorageBench::~StorageBench() {
    try {
        for (const std::string &id : list()) {
            const RecordedCall call;
            remove(call, id);
        }
    } catch (...) {
        // The case has its verdict; what stays shows when its directory is removed.
    }
}

gantry_storage_caps StorageBench::caps() {
    gantry_storage_caps out{};
    out.struct_size = sizeof out;
    const RecordedCall call;
    call.require_ok(table<gantry_storage_v1>().caps(driver(), call.raw(), &out), "caps");
    return out;
}

gantry_status StorageBench::create(const RecordedCall &call, const std::string &id, const LayerIds &parents,
                                   uint64_t limit) {
    const std::vector<const char *> raw = pointers(parents);
    gantry_storage_create how{};
    how.struct_size = sizeof how;
    how.parents = raw.data();
    how.parent_count = static_cast<uint32_t>(raw.size());
    how.size_limit = limit;
    return table<gantry_storage_v1>().create(driver(), call.raw(), id.c_str(), &how);
}

gantry_status StorageBench::mounts(const RecordedCall &call, const std::string &id, const LayerIds &parents,
                                   bool read_only, std::vector<Mount> &out) {
    const std::vector<const char *> raw = pointers(parents);
    gantry_mount_sink sink{};
    sink.struct_size = sizeof sink;
    sink.ctx = &out;
    sink.add = [](void *ctx, const gantry_mount *mount) -> gantry_status {
        if (!mount || mount->struct_size < sizeof *mount || !mount->type || !mount->source || !mount->target)
            return GANTRY_INTERNAL;
        Mount copy{mount->type, mount->source, mount->target, {}, mount->read_only != 0};
        for (uint32_t i = 0; i < mount->option_count; ++i)
            copy.options.emplace_back(mount->options[i]);
        static_cast<std::vector<Mount> *>(ctx)->push_back(std::move(copy));
        return GANTRY_OK;
    };
    return table<gantry_storage_v1>().mounts(driver(), call.raw(), id.c_str(), raw.data(),
                                             static_cast<uint32_t>(raw.size()), read_only, &sink);
}

gantry_status StorageBench::commit(const RecordedCall &call, const std::string &id, const LayerIds &parents,
                                   bool durable) {
    const std::vector<const char *> raw = pointers(parents);
    return table<gantry_storage_v1>().commit(driver(), call.raw(), id.c_str(), raw.data(),
                                             static_cast<uint32_t>(raw.size()), durable);
}

gantry_status StorageBench::remove(const RecordedCall &call, const std::string &id) {
    return table<gantry_storage_v1>().remove(driver(), call.raw(), id.c_str());
}

gantry_status StorageBench::usage(const RecordedCall &call, const std::string &id, Usage &out) {
    gantry_usage raw{};
    raw.struct_size = sizeof raw;
    const gantry_status status = table<gantry_storage_v1>().usage(driver(), call.raw(), id.c_str(), &raw);
    out = {raw.bytes, raw.inodes};
    return status;
}

std::set<std::string> StorageBench::list() {
    std::set<std::string> out;
    gantry_string_sink sink{};
    sink.struct_size = sizeof sink;
    sink.ctx = &out;
    sink.add = [](void *ctx, const char *id) -> gantry_status {
        if (!id) return GANTRY_INTERNAL;
        return static_cast<std::set<std::string> *>(ctx)->insert(id).second ? GANTRY_OK : GANTRY_INTERNAL;
    };
    const RecordedCall call;
    call.require_ok(table<gantry_storage_v1>().list(driver(), call.raw(), &sink), "list");
    return out;
}

bool StorageBench::has_changes() const { return instance()->ability(GANTRY_STORAGE_DIFF_1) != nullptr; }

gantry_status StorageBench::changes(const RecordedCall &call, const std::string &id, const LayerIds &parents,
                                    std::vector<Change> &out) {
    const auto *diff = static_cast<const gantry_storage_diff_1 *>(instance()->ability(GANTRY_STORAGE_DIFF_1));
    if (!diff) return GANTRY_UNSUPPORTED;
    const std::vector<const char *> raw = pointers(parents);
    gantry_change_sink sink{};
    sink.struct_size = sizeof sink;
    sink.ctx = &out;
    sink.add = [](void *ctx, gantry_change_kind kind, const char *path) -> gantry_status {
        if (!path || kind < GANTRY_CHANGE_MODIFIED || kind > GANTRY_CHANGE_DELETED) return GANTRY_INTERNAL;
        static_cast<std::vector<Change> *>(ctx)->push_back({kind, path});
        return GANTRY_OK;
    };
    return diff->changes(driver(), call.raw(), id.c_str(), raw.data(), static_cast<uint32_t>(raw.size()),
                         &sink);
}

void StorageBench::make(const std::string &id, const LayerIds &parents) {
    const RecordedCall call;
    call.require_ok(create(call, id, parents), "create " + id);
}
void StorageBench::seal(const std::string &id, const LayerIds &parents) {
    const RecordedCall call;
    call.require_ok(commit(call, id, parents), "commit " + id);
}
void StorageBench::drop(const std::string &id) {
    const RecordedCall call;
    call.require_ok(remove(call, id), "remove " + id);
}

UniqueFd StorageBench::view(const std::string &id, const LayerIds &parents, bool read_only) {
    std::vector<Mount> list;
    const RecordedCall call;
    call.require_ok(mounts(call, id, parents, read_only, list), "mounts " + id);
    require(!list.empty(), "mounts " + id + ": no mount was returned");
    return mount_detached(list);
}

void StorageBench::layer(const std::string &id, const LayerIds &parents,
                         const std::function<void(int)> &work) {
    make(id, parents);
    work(view(id, parents, false).get());
    seal(id, parents);
}

std::vector<Change> StorageBench::changes_of(const std::string &id, const LayerIds &parents) {
    std::vector<Change> out;
    const RecordedCall call;
    call.require_ok(changes(call, id, parents, out), "changes " + id);
    return out;
}

std::set<std::string> StorageBench::files() const {
    std::set<std::string> out;
    const std::function<void(const std::string &)> walk = [&](const std::string &at) {
        for (const std::string &name : list_directory(root() + at)) {
            out.insert(at + "/" + name);
            struct stat facts {};
            if (lstat((root() + at + "/" + name).c_str(), &facts) == 0 && S_ISDIR(facts.st_mode))
                walk(at + "/" + name);
        }
    };
    walk("");
    return out;
}

void write_file(int root, const std::string &path, const std::string &content) {
    const UniqueFd file(openat(root, path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!file) throw Error::from_errno(errno, "write " + path);
    write_all(file.get(), content, path);
}

std::string read_file_at(int root, const std::string &path) {
    const UniqueFd file(openat(root, path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return "(absent)";
    return read_all(file.get(), 1u << 20, path);
}

} // namespace gantry::kit
