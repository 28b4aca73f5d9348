// A plugin in memory and the one instance made of it.
#pragma once

#include "core/plugin/handover.h"
#include "core/plugin/host.h"
#include "core/plugin/judgement.h"
#include "core/plugin/services.h"

namespace gantry {

/// Loads a judged file and returns its entry; the library stays for the rest of the process.
const struct gantry_plugin_entry &load_entry(const std::string &path);

/// State machine of one plugin: loaded -> initialised -> ended. deinit comes with the destructor, which
/// no call that still runs lets happen, and only after a good init.
class LoadedPlugin {
  public:
    LoadedPlugin(const struct gantry_plugin_entry &entry, std::string file);
    ~LoadedPlugin();
    LoadedPlugin(const LoadedPlugin &) = delete;
    LoadedPlugin &operator=(const LoadedPlugin &) = delete;

    void init(const gantry_host *host, const Call &call);
    void deinit() noexcept;

    const struct gantry_plugin_entry &entry;
    const std::string file;
    const std::shared_ptr<CallRecord> record;
    std::atomic<bool> starting{false}; // init or create is under way, perhaps for ever

    /// Set while initialised by an engine.
    std::shared_ptr<PluginServices> services() const;
    void set_services(std::shared_ptr<PluginServices> services);

  private:
    bool initialised_ = false; // touched by whoever starts or ends the plugin, one at a time
    mutable std::mutex mutex_;
    std::shared_ptr<PluginServices> services_;
};

/// What create gets, owned.
struct DriverStart {
    std::string root, run, libexec, engine_id;
    std::shared_ptr<const gantry_value> config;
};

/// A driver made by create; ends with destroy.
class Instance {
  public:
    Instance(std::shared_ptr<LoadedPlugin> plugin, const DriverStart &start, const Call &call);
    ~Instance();
    Instance(const Instance &) = delete;
    Instance &operator=(const Instance &) = delete;

    template <typename Table> const Table &table() const {
        return *static_cast<const Table *>(plugin->entry.table);
    }
    const void *ability(const char *id) const noexcept;
    std::string name() const { return plugin->entry.name; }

    const std::shared_ptr<LoadedPlugin> plugin;
    gantry_driver *driver = nullptr;
};

/// init and create on a call thread, within the limit. A start that was given up and succeeds later is
/// undone there.
std::shared_ptr<Instance> start_instance(const std::shared_ptr<LoadedPlugin> &plugin, DriverStart start,
                                         Db *db, const DriverHosting &hosting,
                                         std::shared_ptr<const LentBlobs> blobs = nullptr);
/// Asks the plugin whether create could work. Empty: nothing speaks against it.
std::optional<Error> probe_plugin(const std::shared_ptr<LoadedPlugin> &plugin, DriverStart start);

std::shared_ptr<StorageDriver> make_storage_proxy(std::shared_ptr<Instance> instance);
std::shared_ptr<NetworkDriver> make_network_proxy(std::shared_ptr<Instance> instance);
std::shared_ptr<RegistryDriver> make_registry_proxy(std::shared_ptr<Instance> instance);

} // namespace gantry
