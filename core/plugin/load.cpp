// The one user of Boost.DLL. Libraries are never unloaded: threads and thread-local destructors of a
// plugin may outlive its last call, and a returned string may point into it.
#include "core/plugin/load.h"

#include "core/base/cancel.h"
#include "core/plugin/proxy.h"

#include <boost/dll/shared_library.hpp>
#include <cstring>
#include <deque>
#include <mutex>

namespace gantry {

const struct gantry_plugin_entry &load_entry(const std::string &path) {
    try {
        // Never destroyed, see above.
        static auto *const libraries = new std::deque<boost::dll::shared_library>;
        static std::mutex mutex;
        std::lock_guard lock(mutex);
        auto *library = &libraries->emplace_back(path, boost::dll::load_mode::rtld_now |
                                                           boost::dll::load_mode::rtld_local);
        return library->get<const struct gantry_plugin_entry>(GANTRY_PLUGIN_SYMBOL);
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &e) {
        throw Error(ErrorClass::kFailedPrecondition, "load plugin " + path + ": " + e.what());
    }
}

LoadedPlugin::~LoadedPlugin() { deinit(); }

void LoadedPlugin::init(Db *db, int64_t timeout_ns) {
    if (services) return;
    services = std::make_unique<PluginServices>(entry.name, db);
    try {
        CallScope::Settings settings;
        settings.timeout_ns = timeout_ns;
        CallScope call(settings);
        call.check(no_throw(entry.name, [&] { return entry.init(services->raw(), call.raw()); }),
                   std::string("start plugin ") + entry.name);
    } catch (...) {
        services.reset();
        throw;
    }
}

void LoadedPlugin::deinit() noexcept {
    if (!services) return;
    try {
        entry.deinit();
    } catch (...) { // a C++ plugin without the veneer; nothing is left to be told
    }
    services.reset();
}

Instance::Instance(std::shared_ptr<LoadedPlugin> loaded, const gantry_environment &env,
                   const gantry_value &config, int64_t timeout)
    : plugin(std::move(loaded)), timeout_ns(timeout) {
    CallScope::Settings settings;
    settings.timeout_ns = timeout;
    CallScope call(settings);
    gantry_driver *made = nullptr;
    call.check(no_throw(name(), [&] { return plugin->entry.create(call.raw(), &env, &config, &made); }),
               "create driver " + name());
    if (!made)
        throw Error(ErrorClass::kInternal,
                    "create driver " + name() + ": the plugin reported success but made none");
    driver = made;
}

Instance::~Instance() {
    if (!driver) return;
    try {
        plugin->entry.destroy(driver);
    } catch (...) { // as in deinit
    }
}

const void *Instance::ability(const char *id) const noexcept {
    for (uint32_t i = 0; i < plugin->entry.ability_count; ++i)
        if (std::strcmp(plugin->entry.abilities[i].id, id) == 0) return plugin->entry.abilities[i].table;
    return nullptr;
}

} // namespace gantry
