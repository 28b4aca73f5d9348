// The drivers under test and the few moves every case makes. A case never asks for a driver's name, only
// for its capabilities: a new driver is one line in kDrivers.
#pragma once

#include "core/config/config.h"
#include "core/plugin/host.h"
#include "plugins/storage-btrfs/driver.h"
#include "plugins/storage-overlay/driver.h"
#include "plugins/storage-vfs/driver.h"
#include "tests/integration/layer/btrfs_world.h"
#include "tests/integration/layer/trees.h"

#include <gtest/gtest.h>

namespace gantry::test {

/// An instance and what keeps it alive.
template <typename Driver> std::shared_ptr<StorageDriver> linked(const std::string &root) {
    if constexpr (requires { Driver(root, {}); })
        return std::make_shared<Driver>(root, typename Driver::Settings{});
    else
        return std::make_shared<Driver>(root);
}
/// The same driver out of the plugin's file, through the C ABI. The engine's call threads are left out:
/// cases fork, and a thread does not survive that.
inline std::shared_ptr<StorageDriver> loaded(const std::string &name, const std::string &root) {
    const std::string part = "/storage/" + name;
    const std::string engine = root.substr(0, root.size() - part.size());
    const auto settings = EngineSettings::load({.file = "",
                                                .flags = {{"engine.root", engine},
                                                          {"engine.run", engine + "/run"},
                                                          {"engine.plugin_dirs", GANTRY_PLUGIN_DIR},
                                                          {"storage.driver", name},
                                                          {"storage." + name + ".isolation", "none"}}});
    struct Both {
        PluginHost host;
        std::shared_ptr<StorageDriver> driver;
        explicit Both(const EngineSettings &s) : host(s, nullptr), driver(host.storage()) {}
    };
    const auto both = std::make_shared<Both>(*settings);
    return {both, both->driver.get()};
}

struct DriverCase {
    const char *name;
    std::shared_ptr<StorageDriver> (*make)(const std::string &root);
    /// Where the driver's root lies, given a fresh directory of the case. A driver that needs a file system
    /// of its own answers with a fresh directory there.
    std::string (*home)(const std::string &dir) = [](const std::string &dir) { return dir + "/driver"; };
};
inline std::ostream &operator<<(std::ostream &out, const DriverCase &c) { return out << c.name; }

/// A fresh directory on the one btrfs of this process and case, which ends with it: quotas are turned on
/// for a file system as a whole.
template <bool kQuota> std::string on_btrfs(const char *below) {
    static const BtrfsLoop world;
    const std::string dir = world.path + "/" + random_hex(4) + below;
    make_directories(dir.substr(0, dir.rfind('/')), 0755);
    return dir;
}

inline const DriverCase kDrivers[] = {
    {"overlay", linked<OverlayDriver>},
    {"vfs", linked<VfsDriver>},
    {"overlay_so", [](const std::string &root) { return loaded("overlay", root); },
     [](const std::string &dir) { return dir + "/storage/overlay"; }},
    {"vfs_so", [](const std::string &root) { return loaded("vfs", root); },
     [](const std::string &dir) { return dir + "/storage/vfs"; }},
    {"btrfs",
     [](const std::string &root) -> std::shared_ptr<StorageDriver> {
         return std::make_shared<BtrfsDriver>(root, BtrfsDriver::Settings{.quota = true}, CallScope());
     },
     [](const std::string &) { return on_btrfs<true>("/driver"); }},
    {"btrfs_so", [](const std::string &root) { return loaded("btrfs", root); },
     [](const std::string &) { return on_btrfs<false>("/storage/btrfs"); }},
};

template <typename Work> ErrorClass class_of(Work work) {
    try {
        work();
    } catch (const Error &error) {
        return error.error_class();
    }
    ADD_FAILURE() << "nothing was thrown";
    return ErrorClass::kInternal;
}

/// A detached tree as a path.
struct View {
    UniqueFd fd;
    std::string path() const { return "/proc/self/fd/" + std::to_string(fd.get()) + "/"; }
    std::string itself() const { return path() + "."; }
};

} // namespace gantry::test
