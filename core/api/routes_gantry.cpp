// /gantry/v1: what Docker has no endpoint for. And what this version refuses, in words.
#include "core/api/dialect.h"
#include "core/api/gate.h"
#include "core/api/render.h"
#include "core/container/containers.h"
#include "core/plugin/host.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>
#include <fmt/format.h>

namespace json = boost::json;

namespace gantry::api {

namespace {

const char *kind_word(gantry_kind kind) {
    switch (kind) {
    case GANTRY_KIND_STORAGE: return "storage";
    case GANTRY_KIND_NETWORK: return "network";
    case GANTRY_KIND_REGISTRY: return "registry";
    }
    return "unknown";
}

const char *isolation_word(DriverHosting::Isolation isolation) {
    switch (isolation) {
    case DriverHosting::Isolation::kNone: return "none";
    case DriverHosting::Isolation::kThread: return "thread";
    case DriverHosting::Isolation::kProcess: return "process";
    }
    return "unknown";
}

const char *state_word(PluginState state) {
    switch (state) {
    case PluginState::kOk: return "ok";
    case PluginState::kSkipped: return "skipped";
    case PluginState::kFailed: return "failed";
    case PluginState::kAvailable: return "available";
    }
    return "unknown";
}

const char *type_word(gantry_type type) {
    switch (type) {
    case GANTRY_TYPE_BOOL: return "bool";
    case GANTRY_TYPE_INT: return "int";
    case GANTRY_TYPE_FLOAT: return "float";
    case GANTRY_TYPE_STRING: return "string";
    case GANTRY_TYPE_DURATION: return "duration";
    case GANTRY_TYPE_SIZE: return "size";
    case GANTRY_TYPE_LIST: return "list";
    case GANTRY_TYPE_TABLE: return "table";
    case GANTRY_TYPE_MAP: return "map";
    }
    return "unknown";
}

json::array options_json(const gantry_option *options, uint32_t count, int depth = 0) {
    json::array out;
    for (uint32_t i = 0; i < count && depth < 8; ++i) {
        const gantry_option &option = options[i];
        json::object entry{{"Name", option.name ? option.name : ""},
                           {"Type", type_word(option.type)},
                           {"Default", nullptr},
                           {"Doc", option.doc ? option.doc : ""},
                           {"Required", (option.flags & GANTRY_OPTION_REQUIRED) != 0},
                           {"Secret", (option.flags & GANTRY_OPTION_SECRET) != 0}};
        if (option.default_toml) entry["Default"] = option.default_toml;
        if (option.choices) {
            json::array choices;
            for (const char *const *choice = option.choices; *choice; ++choice)
                choices.emplace_back(*choice);
            entry["Choices"] = std::move(choices);
        }
        if (option.min || option.max) {
            entry["Min"] = option.min;
            entry["Max"] = option.max;
        }
        if (option.child_count)
            entry["Children"] = options_json(option.children, option.child_count, depth + 1);
        out.push_back(std::move(entry));
    }
    return out;
}

json::object plugin_json(const PluginInfo &plugin) {
    return {{"File", plugin.file},
            {"Name", plugin.name},
            {"Kind", kind_word(plugin.kind)},
            {"Version", plugin.version},
            {"Description", plugin.description},
            {"Homepage", plugin.homepage},
            {"Abi", fmt::format("{}.{}", plugin.abi_major, plugin.abi_minor)},
            {"State", state_word(plugin.state)},
            {"Reason", plugin.reason},
            {"InUse", plugin.in_use},
            {"Isolation", isolation_word(plugin.isolation)},
            {"Pid", plugin.pid},
            {"Restarts", plugin.restarts},
            {"CallsGivenUp", plugin.calls_given_up},
            {"Abilities", strings_json(plugin.abilities)},
            {"Options", options_json(plugin.options, plugin.option_count)}};
}

void config(const Engine &engine, Exchange &x) {
    json::array out;
    for (const ShownOption &option : engine.settings->show(engine.plugins->schemas()))
        out.push_back({{"Key", option.key},
                       {"Value", option.value},
                       {"Doc", option.doc},
                       {"Origin",
                        {{"Source", option.origin.source},
                         {"Line", option.origin.line},
                         {"Column", option.origin.column}}}});
    reply(x, 200, out);
}

void metrics(const Engine &engine, Exchange &x) {
    const Containers::Counts counts = engine.containers->counts();
    std::string out =
        fmt::format("gantry_containers{{state=\"running\"}} {}\ngantry_containers{{state=\"paused\"}} {}\n"
                    "gantry_containers{{state=\"stopped\"}} {}\n",
                    counts.running, counts.paused, counts.stopped);
    for (const PluginHost::Metric &metric : engine.plugins->metrics()) {
        std::string name = metric.name;
        for (char &c : name)
            if (!isalnum(static_cast<unsigned char>(c)) && c != '_' && c != ':') c = '_';
        out += fmt::format("{} {}\n", name, metric.value);
    }
    x.response.send(200, out, "text/plain; version=0.0.4; charset=utf-8");
}

} // namespace

void add_gantry_routes(Router &router, const Engine &e) {
    router.add("GET", "/gantry/v1/plugins", [&e](Exchange &x) {
        json::array out;
        for (const PluginInfo &plugin : e.plugins->list())
            out.push_back(plugin_json(plugin));
        reply(x, 200, out);
    });
    router.add("GET", "/gantry/v1/plugins/inspect", [&e](Exchange &x) {
        if (x.request.arg("file").empty())
            throw Error(ErrorClass::kInvalidArgument, "inspect plugin: file is needed");
        reply(x, 200, plugin_json(e.plugins->inspect_file(x.request.arg("file"))));
    });
    router.add("GET", "/gantry/v1/config", [&e](Exchange &x) { config(e, x); });
    router.add("GET", "/gantry/v1/metrics", [&e](Exchange &x) { metrics(e, x); });
}

void add_refusals(Router &router) {
    auto refuse = [&](const char *methods, const char *pattern, const char *what) {
        router.add(methods, pattern, [what](Exchange &) {
            throw Error(ErrorClass::kUnsupported,
                        std::string(what) + ": this version of gantry cannot do that yet");
        });
    };
    refuse("POST", "/build", "build image");
    refuse("POST", "/build/prune", "prune build cache");
    refuse("GET", "/containers/{name}/stats", "read container statistics");
    refuse("GET", "/containers/{name}/attach/ws", "attach over a web socket");
    refuse("POST", "/session", "open build session");

    router.add("GET", "/plugins", [](Exchange &x) { x.response.json(200, "[]\n"); });
    router.add("GET", "/plugins/{name...}/json", [](Exchange &x) {
        x.response.error(404, "plugin \"" + x.request.params[0] + "\" not found");
    });
    // dockerd's words: the CLI and testers of swarm look at the status.
    for (const char *path : {"/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs"})
        router.add("GET", path, [](Exchange &x) {
            x.response.error(503, "This node is not a swarm manager. Use \"docker swarm init\" or \"docker "
                                  "swarm join\" to connect this node to swarm and try again.");
        });
}

std::shared_ptr<const Router> make_router(const Engine &engine) {
    auto router = std::make_shared<Router>();
    add_system_routes(*router, engine);
    add_container_routes(*router, engine);
    add_container_stream_routes(*router, engine);
    add_archive_routes(*router, engine);
    add_exec_routes(*router, engine);
    add_image_routes(*router, engine);
    add_image_archive_routes(*router, engine);
    add_network_volume_routes(*router, engine);
    add_gantry_routes(*router, engine);
    add_mirror_routes(*router, engine);
    add_migrate_routes(*router, engine);
    add_check_routes(*router, engine);
    if (engine.gate) router->guard([&engine](const Request &request) { return engine.gate->enter(request); });
    add_refusals(*router);
    return router;
}

} // namespace gantry::api
