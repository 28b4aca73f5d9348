// A plugin in memory and the one instance made of it.
#pragma once

#include "core/plugin/host.h"
#include "core/plugin/judgement.h"
#include "core/plugin/services.h"

namespace gantry {

/// Loads a judged file and returns its entry; the library stays for the rest of the process.
const struct gantry_plugin_entry &load_entry(const std::string &path);

/// State machine of one plugin: loaded -> initialised -> instances -> ended. deinit comes with the
/// destructor and only after a good init.
class LoadedPlugin {
  public:
    LoadedPlugin(const struct gantry_plugin_entry &entry, std::string file)
        : entry(entry), file(std::move(file)) {}
    ~LoadedPlugin();
    LoadedPlugin(const LoadedPlugin &) = delete;
    LoadedPlugin &operator=(const LoadedPlugin &) = delete;

    void init(Db *db, int64_t timeout_ns);
    void deinit() noexcept;

    const struct gantry_plugin_entry &entry;
    const std::string file;
    std::unique_ptr<PluginServices> services; // set while initialised
};

/// A driver made by create; ends with destroy.
class Instance {
  public:
    Instance(std::shared_ptr<LoadedPlugin> plugin, const gantry_environment &env, const gantry_value &config,
             int64_t timeout_ns);
    ~Instance();
    Instance(const Instance &) = delete;
    Instance &operator=(const Instance &) = delete;

    template <typename Table> const Table &table() const {
        return *static_cast<const Table *>(plugin->entry.table);
    }
    const void *ability(const char *id) const noexcept;
    std::string name() const { return plugin->entry.name; }

    const std::shared_ptr<LoadedPlugin> plugin;
    const int64_t timeout_ns;
    gantry_driver *driver = nullptr;
};

std::shared_ptr<StorageDriver> make_storage_proxy(std::shared_ptr<Instance> instance);
std::shared_ptr<NetworkDriver> make_network_proxy(std::shared_ptr<Instance> instance);
std::shared_ptr<RegistryDriver> make_registry_proxy(std::shared_ptr<Instance> instance);

} // namespace gantry
