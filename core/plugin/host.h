// Finds, judges, loads and instantiates plugins. The one user of Boost.DLL is load.cpp.
#pragma once

#include "core/base/fd.h"
#include "core/config/config.h"

#include <gantry/network.hpp>
#include <gantry/registry.hpp>
#include <gantry/storage.hpp>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace gantry {

class Db;

enum class PluginState { kOk, kSkipped, kFailed, kAvailable }; // available: judged, not in use

struct PluginInfo {
    std::string file, name, version, description, homepage;
    gantry_kind kind = GANTRY_KIND_STORAGE;
    uint32_t abi_major = 0, abi_minor = 0;
    PluginState state = PluginState::kAvailable;
    std::string reason; // for skipped and failed
    bool in_use = false;
    std::vector<std::string> abilities;
    const gantry_option *options = nullptr; // valid while the host lives
    uint32_t option_count = 0;
    DriverHosting::Isolation isolation = DriverHosting::Isolation::kThread;
    int pid = 0;            // of the process it runs in now; 0: none of its own
    uint32_t restarts = 0;  // of that process
    int calls_given_up = 0; // that have not returned
};

/// One per process. Thread-safe after construction. Libraries are never unloaded.
class PluginHost {
  public:
    /// Looks at every *.so of plugin_dirs; a bad file is listed with its reason and stops nobody.
    /// `db` serves the key-value store and may be null (plugin ls without an engine).
    PluginHost(const EngineSettings &settings, Db *db);
    ~PluginHost();

    /// With a probe of those that nobody uses; bounded, whatever a plugin does.
    std::vector<PluginInfo> list() const;
    /// Judges one file outside of the directories (plugin inspect FILE). Throws with the verdict.
    PluginInfo inspect_file(const std::string &path);
    std::vector<DriverSchema> schemas() const;

    /// Instances chosen by the configuration, made on first use. A driver named in TOML that is
    /// absent or fails is an Error; "auto" takes the first of `prefer` that works, and an existing
    /// root written by another driver is kFailedPrecondition with the way out.
    std::shared_ptr<StorageDriver> storage();
    std::string storage_name() const; // after storage()
    /// Another storage driver beside the one in use, for a move between the two.
    std::shared_ptr<StorageDriver> storage_beside(const std::string &name);
    std::shared_ptr<NetworkDriver> network();
    std::string network_name() const;
    /// The chain of registry.drivers (registry_chain.h), or the one driver itself.
    std::shared_ptr<RegistryDriver> registry();
    std::vector<std::string> registry_names() const; // in the order of the chain; after registry()

    /// What drivers get from gantry_host::blob_open: a whole, verified blob, with its size. Null takes it
    /// back and waits for those who open one; whoever lends does so before what it lends ends.
    void lend_blobs(std::function<UniqueFd(const std::string &digest, uint64_t &size)> open);

    struct Metric {
        std::string name;
        int64_t value;
    };
    std::vector<Metric> metrics() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// True while a call that was given up still runs somewhere: then exit() would pull the ground away from
/// under it, and the process should end by _exit.
bool plugin_calls_hang() noexcept;

} // namespace gantry
