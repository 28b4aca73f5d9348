#include "plugins/storage-overlay/driver.h"

#include "plugins/storage-overlay/probe.h"
#include "plugins/storage/probe.h"
#include "plugins/storage/stacked_changes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace gantry {
namespace {

using storage::Fd;

// The kernel takes 500 lower directories; a read-only view spends one on the layer itself.
constexpr uint32_t kMaxParents = 499;

bool module_has(const char *parameter) {
    return ::access((std::string("/sys/module/overlay/parameters/") + parameter).c_str(), F_OK) == 0;
}

} // namespace

OverlayDriver::OverlayDriver(const std::string &root, Settings settings)
    : root_(root), quota_(root_), settings_(std::move(settings)) {
    if (root.find_first_of(":,\\") != std::string::npos)
        throw Error(ErrorClass::kUnsupported,
                    "use overlayfs on " + root + ": the path holds ':', ',' or '\\'");
    // Layers are trees of their own, which redirects and metadata-only copies would end.
    for (const std::string &option : settings_.mount_options)
        for (const char *feature : {"index=on", "redirect_dir=on", "redirect_dir=follow", "metacopy=on",
                                    "userxattr", "lowerdir", "upperdir", "workdir"})
            if (option.starts_with(feature))
                throw Error(ErrorClass::kInvalidArgument,
                            "use overlayfs on " + root + ": mount_options must not hold " + option,
                            "a layer has to be readable without the others");
    storage::kernel_loads("overlay"); // the module's parameters show what it knows
    for (const char *feature : {"index", "redirect_dir", "metacopy"})
        if (module_has(feature)) quiet_options_.push_back(std::string(feature) + "=off");
    std::vector<std::string> options = quiet_options_;
    options.insert(options.end(), settings_.mount_options.begin(), settings_.mount_options.end());
    if (settings_.volatile_mounts) options.push_back("volatile");
    probe_overlay(root_.fd(), root, options);
    caps_.quota = quota_.usable();
    caps_.whiteout = GANTRY_WHITEOUT_OVERLAY;
    caps_.independent_layers = true;
    caps_.max_parents = kMaxParents;
}

void OverlayDriver::create(const Call &, const std::string &id, const LayerIds &parents,
                           uint64_t size_limit) {
    root_.make(id, [&](int dir) {
        // First: what is made below inherits the project, and overlayfs renames between the two.
        if (size_limit != 0) quota_.limit(dir, id, size_limit);
        root_.make_tree(dir, id, parents);
        if (::mkdirat(dir, "work", 0700) != 0) throw Error::from_errno(errno, "make layer " + id);
    });
}

std::vector<Mount> OverlayDriver::mounts(const Call &, const std::string &id, const LayerIds &parents,
                                         bool read_only) {
    const Fd dir = root_.open(id);
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
        throw Error(ErrorClass::kUnsupported, "mount layer " + id + ": overlayfs stacks at most 500 layers");
    mount.type = "overlay";
    mount.source = "overlay";
    if (read_only) mount.options.push_back("lowerdir+=" + root_.path_of(id, "fs"));
    for (const std::string &parent : parents)
        mount.options.push_back("lowerdir+=" + root_.path_of(parent, "fs"));
    if (!read_only) {
        quota_.make_room(dir.get());
        mount.options.push_back("upperdir=" + root_.path_of(id, "fs"));
        mount.options.push_back("workdir=" + root_.path_of(id, "work"));
        if (settings_.volatile_mounts) {
            // The kernel refuses a second volatile mount until this is gone; whoever asked for volatile
            // gave up the writable layer's fate in a power cut.
            ::unlinkat(dir.get(), "work/work/incompat/volatile", AT_REMOVEDIR);
            mount.options.push_back("volatile");
        }
    }
    mount.options.insert(mount.options.end(), quiet_options_.begin(), quiet_options_.end());
    mount.options.insert(mount.options.end(), settings_.mount_options.begin(), settings_.mount_options.end());
    return {mount};
}

void OverlayDriver::commit(const Call &call, const std::string &id, const LayerIds &parents, bool durable) {
    const auto before = root_.committed(id);
    if (before && !durable) return;
    const Fd fs = storage::open_directory(root_.open(id).get(), "fs");
    const auto stray = parents.empty() ? storage::stray_whiteouts(caps_.whiteout) : storage::StrayWhiteout{};
    root_.commit(id, before ? *before : storage::measure_tree(fs.get(), call, stray), durable);
}

Usage OverlayDriver::usage(const Call &call, const std::string &id) {
    if (const auto noted = root_.committed(id)) return *noted;
    const Fd fs = storage::open_directory(root_.open(id).get(), "fs");
    return storage::measure_tree(fs.get(), call);
}

void OverlayDriver::changes(const Call &call, const std::string &id, const LayerIds &parents,
                            const std::function<void(const Change &)> &found) {
    storage::stacked_changes(root_, caps_.whiteout, id, parents, call, found);
}

} // namespace gantry
