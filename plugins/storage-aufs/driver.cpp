// Branches are given one option each ("br:" and then "append:"), never as one long string: whoever mounts
// fills mount(2)'s page with as many as fit, in this order, and appends the rest by remounting, so that 127
// branches (aufs' usual limit) work below any root.
#include "plugins/storage-aufs/driver.h"

#include "plugins/storage/probe.h"
#include "plugins/storage/stacked_changes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {
namespace {

// CONFIG_AUFS_BRANCH_MAX_127, the kernel option that is set where aufs is packaged; one is the layer's.
constexpr uint32_t kMaxParents = 126;

[[noreturn]] void obstacle(const std::string &what) { throw Error(ErrorClass::kUnsupported, what); }

} // namespace

void AufsDriver::judge(const std::string &root, bool load_module) {
    if (!storage::kernel_lists("aufs")) {
        if (!storage::kernel_could_load("aufs")) obstacle("kernel has no aufs");
        if (!load_module) obstacle("aufs is not loaded (modprobe aufs, or load_module = true)");
    }
    // A comma ends an option, a colon a branch, an equals sign a branch's name.
    if (root.find_first_of(":,=\\") != std::string::npos)
        obstacle("the path " + root + " holds ':', ',', '=' or '\\'");
    const UniqueFd dir = storage::nearest_directory(root);
    if (!dir) return;
    const std::string type = storage::filesystem_of(dir.get());
    for (const char *bad : {"aufs", "overlay", "ecryptfs", "ramfs", "vfat"})
        if (type == bad)
            obstacle("the file system of " + root + " (" + type + ") cannot be a branch of aufs");
}

AufsDriver::AufsDriver(const std::string &root, Settings settings)
    : root_(root), quota_(root_), settings_(std::move(settings)) {
    for (const std::string &option : settings_.mount_options)
        for (const char *own : {"br:", "br=", "append", "prepend", "add", "del", "mod", "xino"})
            if (option.starts_with(own))
                throw Error(ErrorClass::kInvalidArgument,
                            "use aufs on " + root + ": mount_options must not hold " + option,
                            "the driver places the branches itself");
    if (settings_.check_kernel) {
        if (settings_.load_module && !storage::kernel_lists("aufs")) storage::kernel_loads("aufs");
        try {
            judge(root, false);
        } catch (const Error &error) {
            throw Error(error.error_class(), "use aufs on " + root + ": " + error.message(),
                        "choose the storage driver overlay or vfs");
        }
        probe();
    }
    caps_.whiteout = GANTRY_WHITEOUT_AUFS;
    caps_.independent_layers = true;
    caps_.quota = quota_.usable();
    caps_.max_parents = kMaxParents;
}

void AufsDriver::probe() const {
    const storage::ProbeDirectory probe(root_.fd(), root_.path());
    if (!UniqueFd(::openat(probe.fd.get(), "lower/file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600)))
        throw Error::from_errno(errno, "write to " + root_.path());
    const auto unsupported = [&](const std::string &why) {
        throw Error(ErrorClass::kUnsupported, "use aufs on " + root_.path() + ": " + why,
                    "choose the storage driver overlay or vfs");
    };
    std::vector<std::string> options{"br:" + probe.below("upper") + "=rw",
                                     "append:" + probe.below("lower") + "=ro+wh"};
    options.insert(options.end(), settings_.mount_options.begin(), settings_.mount_options.end());
    std::string why;
    const UniqueFd mount = storage::try_mount("aufs", options, why);
    if (!mount) unsupported(why);
    if (::unlinkat(mount.get(), "file", 0) != 0)
        unsupported(std::string("a file below cannot be deleted: ") + std::strerror(errno));
}

void AufsDriver::create(const Call &, const std::string &id, const LayerIds &parents, uint64_t size_limit) {
    root_.make(id, [&](int dir) {
        if (size_limit != 0) quota_.limit(dir, id, size_limit);
        root_.make_tree(dir, id, parents);
    });
}

std::vector<Mount> AufsDriver::mounts(const Call &, const std::string &id, const LayerIds &parents,
                                      bool read_only) {
    const UniqueFd dir = root_.open(id);
    if (!read_only && root_.committed(id))
        throw Error(ErrorClass::kFailedPrecondition, "mount layer " + id + " for writing: it is committed");
    Mount mount;
    mount.read_only = read_only;
    if (parents.empty()) {
        mount.type = "bind";
        mount.source = root_.path_of(id, "fs");
        return {mount};
    }
    if (parents.size() > kMaxParents)
        throw Error(ErrorClass::kUnsupported, "mount layer " + id + ": aufs stacks at most 127 layers");
    if (!read_only) quota_.make_room(dir.get());
    mount.type = "aufs";
    mount.source = "none";
    mount.options.push_back("br:" + root_.path_of(id, "fs") + (read_only ? "=ro+wh" : "=rw"));
    // Permissions of a directory are those of its topmost branch, as everywhere else.
    mount.options.push_back("dirperm1");
    // Inode numbers live in a file that aufs makes in the writable branch. Without one it would be
    // /tmp/.aufs.xino for everybody.
    if (read_only) mount.options.push_back("xino=" + root_.path_of(id, "xino"));
    mount.options.insert(mount.options.end(), settings_.mount_options.begin(), settings_.mount_options.end());
    for (const std::string &parent : parents)
        mount.options.push_back("append:" + root_.path_of(parent, "fs") + "=ro+wh");
    return {mount};
}

void AufsDriver::commit(const Call &call, const std::string &id, const LayerIds &parents, bool durable) {
    const auto before = root_.committed(id);
    if (before && !durable) return;
    const UniqueFd fs = open_directory(root_.open(id).get(), "fs");
    const auto stray = parents.empty() ? storage::stray_whiteouts(caps_.whiteout) : storage::StrayWhiteout{};
    root_.commit(id, before ? *before : storage::measure_tree(fs.get(), call, stray), durable);
}

Usage AufsDriver::usage(const Call &call, const std::string &id) {
    if (const auto noted = root_.committed(id)) return *noted;
    const UniqueFd fs = open_directory(root_.open(id).get(), "fs");
    return storage::measure_tree(fs.get(), call);
}

void AufsDriver::changes(const Call &call, const std::string &id, const LayerIds &parents,
                         const std::function<void(const Change &)> &found) {
    storage::stacked_changes(root_, caps_.whiteout, id, parents, call, found);
}

} // namespace gantry
