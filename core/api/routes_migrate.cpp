// POST /gantry/v1/system/migrate?storage=NAME: moves all layers to another storage driver and restarts the
// engine on it. The answer is a stream of progress as for a pull. Until the switch a client that hangs up
// ends the move, and it can be repeated; after it only the old data are left to remove.
#include "core/api/dialect.h"
#include "core/api/engine.h"
#include "core/api/gate.h"
#include "core/api/render.h"
#include "core/base/log.h"
#include "core/container/containers.h"
#include "core/container/parse.h"
#include "core/layer/migrate.h"
#include "core/plugin/host.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

namespace json = boost::json;

namespace gantry::api {

namespace {

class Told {
  public:
    explicit Told(Exchange &x) : x_(x) {}
    void operator()(const MigrationStep &step) {
        json::object line{{"status", step.doing}};
        if (!step.layer.empty()) line["id"] = "layer " + step.layer;
        if (step.done > 0) {
            line["progressDetail"] = {{"current", step.done}, {"total", step.total}};
            line["progress"] = progress_bar(step.done, step.total);
        }
        send(line, step.done > 0);
    }
    void failed(const Error &error) {
        const std::string text = error_text(error);
        send({{"errorDetail", {{"message", text}}}, {"error", text}});
    }

  private:
    /// A `step` is followed by others that say more. A client that has gone is no reason to stop here: the
    /// hang-up watch cancels what may be cancelled.
    void send(const json::object &line, bool step = false) {
        try {
            if (!x_.response.started()) x_.response.begin(200, "application/json");
            if (step && x_.response.backlog() > 0) return;
            x_.response.offer(json::serialize(line) + "\r\n");
        } catch (const Error &) {
        }
    }
    Exchange &x_;
};

void refuse_running(const std::vector<ContainerInfo> &containers) {
    std::string names;
    for (const ContainerInfo &c : containers)
        if (c.state.running || c.state.paused || c.state.restarting)
            names += (names.empty() ? "" : " ") + (c.name.starts_with("/") ? c.name.substr(1) : c.name);
    if (!names.empty())
        throw Error(ErrorClass::kFailedPrecondition, "move storage: containers are running: " + names,
                    "stop them first: gantry stop " + names);
}

std::map<std::string, uint64_t> limits_of(const std::vector<ContainerInfo> &containers) {
    std::map<std::string, uint64_t> limits;
    for (const ContainerInfo &c : containers)
        if (const auto it = c.config.storage_options.find("size"); it != c.config.storage_options.end())
            limits[c.layer] = parse_bytes(it->second);
    return limits;
}

void migrate(const Engine &e, Exchange &x) {
    const std::string to = x.request.arg("storage");
    if (to.empty()) throw Error(ErrorClass::kInvalidArgument, "move storage: which driver to is needed");
    const std::string from = e.plugins->storage_name();
    const std::string folder = e.settings->engine().root + "/storage/";
    Gate::Closed closed(*e.gate);
    const std::vector<ContainerInfo> containers = e.containers->list(true);
    refuse_running(containers);
    const Migration::Side old{from, e.plugins->storage()};
    CancelSource cancel;
    CallScope::Settings settings;
    settings.cancel = &cancel;
    Told tell(x);
    try {
        HangupWatch watch(x.connection, cancel);
        const CallScope call(settings);
        if (to == from) {
            // Nothing to move; what an interrupted move elsewhere has copied is of no use any more.
            for (const std::string &other : drivers_with_copies(*e.db, from)) {
                tell({"", "Removing what an interrupted move to " + other + " left"});
                Migration(*e.db, old, {other, e.plugins->storage_beside(other)}, folder, {}, {}).forget(call);
            }
            tell({"", "All layers are in storage driver " + from});
            return;
        }
        Migration migration(*e.db, old, {to, e.plugins->storage_beside(to)}, folder, limits_of(containers),
                            [&](const MigrationStep &step) { tell(step); });
        migration.judge(call);
        log_info("move {} layers from storage driver {} to {}", migration.layers(), from, to);
        migration.copy(call);
        migration.switch_over();
    } catch (const Error &error) {
        if (!x.response.started()) throw;
        log_warn("move storage from {} to {}: {}", from, to, error.message());
        return tell.failed(error);
    }
    // From here on this process knows layers by names that are gone: it serves nothing more.
    closed.keep();
    log_info("storage driver {} is in charge; the layers of {} go", to, from);
    try {
        const CallScope call;
        remove_moved(*e.db, old, folder + from, call, [&](const MigrationStep &step) { tell(step); });
    } catch (const Error &error) {
        log_warn("remove layers of storage driver {}: {}", from, error.message());
        tell({"", "Warning: " + error.message() + "; the next start tries again"});
    }
    if (const std::string &driver = e.settings->storage().driver; driver != "auto" && driver != to)
        tell({"", "Note: the configuration still says storage.driver = \"" + driver + "\"; change it to \"" +
                      to + "\" or \"auto\""});
    tell({"", "Moved to " + to + "; the engine restarts"});
    e.restart();
}

} // namespace

void add_migrate_routes(Router &router, const Engine &e) {
    router.add("POST", "/gantry/v1/system/migrate", [&e](Exchange &x) { migrate(e, x); });
}

} // namespace gantry::api
