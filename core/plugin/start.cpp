// Starting and probing a plugin in this process. init and create run on a call thread like every call, so
// a plugin that hangs there is one line in a listing. Apart from load.cpp, because a plugin's own process
// starts it in another way and links no database.
#include "core/plugin/load.h"
#include "core/plugin/proxy.h"

#include <cstring>

namespace gantry {

std::shared_ptr<Instance> start_instance(const std::shared_ptr<LoadedPlugin> &plugin, DriverStart start,
                                         Db *db, const DriverHosting &hosting,
                                         std::shared_ptr<const LentBlobs> blobs) {
    if (plugin->starting.exchange(true))
        throw Error(ErrorClass::kUnavailable,
                    std::string("start plugin ") + plugin->entry.name + ": its last start has not returned");
    struct Job {
        DriverStart start;
        std::shared_ptr<Instance> instance;
        std::shared_ptr<LoadedPlugin> plugin;
        Job(DriverStart start, std::shared_ptr<LoadedPlugin> plugin)
            : start(std::move(start)), plugin(std::move(plugin)) {}
        Job(const Job &) = delete;
        ~Job() {
            instance.reset();
            plugin->starting = false;
        }
    };
    auto job = std::make_shared<Job>(std::move(start), plugin);
    plugin->record->end_limit_ns = std::min(plugin->record->end_limit_ns.load(), hosting.timeout_of("start"));
    const auto services = std::make_shared<PluginServices>(plugin->entry.name, db, std::move(blobs));
    plugin->set_services(services);
    hand_over(plugin->record, {"start", hosting.timeout_of("start"), false},
              [job, services](const Call &call) {
                  LoadedPlugin &p = *job->plugin;
                  try {
                      p.init(services->raw(), call);
                      job->instance = std::make_shared<Instance>(job->plugin, job->start, call);
                  } catch (...) {
                      p.deinit();
                      p.set_services(nullptr);
                      throw;
                  }
              });
    return std::move(job->instance);
}

std::optional<Error> probe_plugin(const std::shared_ptr<LoadedPlugin> &plugin, DriverStart start) {
    const gantry_probe_1 *table = nullptr;
    for (uint32_t i = 0; i < plugin->entry.ability_count; ++i)
        if (std::strcmp(plugin->entry.abilities[i].id, GANTRY_PROBE_1) == 0)
            table = static_cast<const gantry_probe_1 *>(plugin->entry.abilities[i].table);
    if (!table) return std::nullopt;
    try {
        hand_over(plugin->record, {"probe", 2000000000, false},
                  [table, plugin, start = std::move(start)](const Call &call) {
                      const gantry_environment env{sizeof env,
                                                   0,
                                                   start.root.c_str(),
                                                   start.run.c_str(),
                                                   start.libexec.c_str(),
                                                   start.engine_id.c_str()};
                      detail::SubCall sub(call.raw());
                      sub.check(no_throw(plugin->entry.name,
                                         [&] { return table->probe(sub.raw(), &env, start.config.get()); }),
                                std::string("probe plugin ") + plugin->entry.name);
                  });
    } catch (const Error &e) {
        return e;
    }
    return std::nullopt;
}

} // namespace gantry
