// The one user of Boost.DLL. Libraries are never unloaded: threads and thread-local destructors of a
// plugin may outlive its last call, and a returned string may point into it.
#include "core/plugin/load.h"

#include "core/base/log.h"
#include "core/plugin/proxy.h"

#include <boost/dll/shared_library.hpp>
#include <cstring>
#include <deque>
#include <mutex>

namespace gantry {
namespace {

void end_bounded(const std::shared_ptr<CallRecord> &record, const char *operation,
                 std::function<void(const Call &)> work) noexcept {
    try {
        hand_over(record, {operation, record->end_limit_ns, false}, std::move(work));
    } catch (const std::exception &e) {
        log_warn("{}", e.what());
    } catch (...) { // a C++ plugin without the veneer; nothing is left to be told
    }
}

} // namespace

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

LoadedPlugin::LoadedPlugin(const struct gantry_plugin_entry &entry, std::string file)
    : entry(entry), file(std::move(file)),
      record(
          std::make_shared<CallRecord>(entry.name, std::string(kind_name(entry.kind)) + "." + entry.name)) {}

LoadedPlugin::~LoadedPlugin() {
    if (!initialised_) return;
    // On a call thread: a deinit that hangs must not take the engine's end along.
    end_bounded(record, "deinit", [end = entry.deinit, services = services()](const Call &) { end(); });
}

void LoadedPlugin::init(const gantry_host *host, const Call &call) {
    if (initialised_) return;
    detail::SubCall sub(call.raw());
    sub.check(no_throw(entry.name, [&] { return entry.init(host, sub.raw()); }),
              std::string("start plugin ") + entry.name);
    initialised_ = true;
}

void LoadedPlugin::deinit() noexcept {
    if (!initialised_) return;
    initialised_ = false;
    try {
        entry.deinit();
    } catch (...) { // a C++ plugin without the veneer; nothing is left to be told
    }
    set_services(nullptr);
}

std::shared_ptr<PluginServices> LoadedPlugin::services() const {
    const std::lock_guard lock(mutex_);
    return services_;
}
void LoadedPlugin::set_services(std::shared_ptr<PluginServices> services) {
    const std::lock_guard lock(mutex_);
    services_.swap(services);
}

Instance::Instance(std::shared_ptr<LoadedPlugin> loaded, const DriverStart &start, const Call &call)
    : plugin(std::move(loaded)) {
    const gantry_environment env{
        sizeof env, 0, start.root.c_str(), start.run.c_str(), start.libexec.c_str(), start.engine_id.c_str()};
    detail::SubCall sub(call.raw());
    gantry_driver *made = nullptr;
    sub.check(no_throw(plugin->entry.name,
                       [&] { return plugin->entry.create(sub.raw(), &env, start.config.get(), &made); }),
              "create driver " + name());
    if (!made)
        throw Error(ErrorClass::kInternal,
                    "create driver " + name() + ": the plugin reported success but made none");
    driver = made;
}

Instance::~Instance() {
    if (!driver) return;
    end_bounded(plugin->record, "destroy",
                [plugin = plugin, driver = driver](const Call &) { plugin->entry.destroy(driver); });
}

const void *Instance::ability(const char *id) const noexcept {
    for (uint32_t i = 0; i < plugin->entry.ability_count; ++i)
        if (std::strcmp(plugin->entry.abilities[i].id, id) == 0) return plugin->entry.abilities[i].table;
    return nullptr;
}

} // namespace gantry
