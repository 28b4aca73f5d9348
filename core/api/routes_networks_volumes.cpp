// /networks (the predefined ones, so far) and /volumes.
#include "core/api/dialect.h"
#include "core/api/render.h"
#include "core/base/files.h"
#include "core/base/log.h"
#include "core/container/containers.h"
#include "core/network/networks.h"
#include "core/volume/volumes.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <boost/json.hpp>
#include <fmt/format.h>

namespace json = boost::json;

namespace gantry::api {

namespace {

bool predefined(const std::string &name) { return name == "bridge" || name == "host" || name == "none"; }

void list_networks(const Engine &engine, Exchange &x) {
    Filters filters(x.request.arg("filters"), {"dangling", "driver", "id", "label", "name", "scope", "type"});
    json::array out;
    for (const Network &network : engine.networks->list()) {
        if (!filters.match_pattern("name", network.name) || !filters.match("driver", network.driver))
            continue;
        if (filters.has("id") && !filters.match_pattern("id", network.id)) continue;
        if (!filters.match("scope", "local") || filters.has("label")) continue;
        if (!filters.match("type", predefined(network.name) ? "builtin" : "custom")) continue;
        if (filters.boolean("dangling") == 1 &&
            (predefined(network.name) || !engine.networks->endpoints_on(network.id).empty()))
            continue;
        out.push_back(render_network(engine, network, false));
    }
    reply(x, 200, out);
}

[[noreturn]] void no_user_networks(const std::string &verb) {
    throw Error(ErrorClass::kUnsupported,
                verb + ": this version of gantry has the networks bridge, host and none only");
}

std::map<std::string, std::string> string_map(const json::object &body, const char *name) {
    std::map<std::string, std::string> out;
    const json::value *value = body.if_contains(name);
    if (!value || value->is_null()) return out;
    if (!value->is_object())
        throw Error(ErrorClass::kInvalidArgument, fmt::format("invalid JSON: {} must be an object", name));
    for (const auto &[key, item] : value->get_object()) {
        if (!item.is_string())
            throw Error(ErrorClass::kInvalidArgument,
                        fmt::format("invalid JSON: {} must hold strings", name));
        out[std::string(key)] = std::string(item.get_string());
    }
    return out;
}

std::string string_field(const json::object &body, const char *name) {
    const json::value *value = body.if_contains(name);
    if (!value || value->is_null()) return {};
    if (!value->is_string())
        throw Error(ErrorClass::kInvalidArgument, fmt::format("invalid JSON: {} must be a string", name));
    return std::string(value->get_string());
}

void list_volumes(const Engine &engine, Exchange &x) {
    Filters filters(x.request.arg("filters"), {"dangling", "driver", "label", "name"});
    const int dangling = filters.boolean("dangling");
    json::array out;
    for (const Volume &volume : engine.volumes->list()) {
        if (dangling >= 0 && (volume.users == 0) != (dangling == 1)) continue;
        if (!filters.match("driver", volume.driver) || !filters.match_pattern("name", volume.name)) continue;
        if (!filters.match_labels("label", volume.labels)) continue;
        out.push_back(render_volume(volume));
    }
    reply(x, 200, {{"Volumes", std::move(out)}, {"Warnings", nullptr}});
}

void create_volume(const Engine &engine, Exchange &x) {
    const json::object body = body_object(x, true);
    const std::string driver = string_field(body, "Driver");
    if (!driver.empty() && driver != "local")
        throw Error(
            ErrorClass::kNotFound,
            fmt::format("error looking up volume plugin {}: plugin \"{}\" not found", driver, driver));
    const Volume volume = engine.volumes->create(string_field(body, "Name"), string_map(body, "Labels"),
                                                 string_map(body, "DriverOpts"));
    reply(x, 201, render_volume(volume));
}

void prune_volumes(const Engine &engine, Exchange &x) {
    Filters filters(x.request.arg("filters"), {"all", "label", "label!"});
    // Since 1.42 named volumes are spared unless all is given.
    const bool named = x.request.api_minor < 42 || filters.boolean("all") == 1;
    json::array deleted;
    uint64_t reclaimed = 0;
    for (const Volume &volume : engine.volumes->list()) {
        if (volume.users > 0 || (!volume.anonymous && !named)) continue;
        if (!filters.match_labels("label", volume.labels)) continue;
        if (filters.has("label!") && filters.match_labels("label!", volume.labels)) continue;
        try {
            const uint64_t size = engine.volumes->size(volume.name);
            engine.volumes->remove(volume.name, false);
            reclaimed += size;
            deleted.emplace_back(volume.name);
        } catch (const Error &error) {
            log_info("prune volume {}: {}", volume.name, error.message()); // taken meanwhile
        }
    }
    json::value names = deleted.empty() ? json::value(nullptr) : json::value(std::move(deleted));
    reply(x, 200, {{"VolumesDeleted", std::move(names)}, {"SpaceReclaimed", reclaimed}});
}

} // namespace

void add_network_volume_routes(Router &router, const Engine &e) {
    router.add("GET", "/networks", [&e](Exchange &x) { list_networks(e, x); });
    router.add("POST", "/networks/create", [](Exchange &) { no_user_networks("create network"); });
    router.add("POST", "/networks/prune", [](Exchange &x) {
        reply(x, 200, json::object{{"NetworksDeleted", nullptr}});
    });
    router.add("POST", "/networks/{name}/connect", [](Exchange &) { no_user_networks("connect network"); });
    router.add("POST", "/networks/{name}/disconnect",
               [](Exchange &) { no_user_networks("disconnect network"); });
    router.add("GET", "/networks/{name}", [&e](Exchange &x) {
        reply(x, 200, render_network(e, e.networks->get(x.request.params[0]), true));
    });
    router.add("DELETE", "/networks/{name}", [&e](Exchange &x) {
        const Network network = e.networks->get(x.request.params[0]);
        throw Error(ErrorClass::kPermissionDenied,
                    fmt::format("{} is a pre-defined network and cannot be removed", network.name));
    });

    router.add("GET", "/volumes", [&e](Exchange &x) { list_volumes(e, x); });
    router.add("POST", "/volumes/create", [&e](Exchange &x) { create_volume(e, x); });
    router.add("POST", "/volumes/prune", [&e](Exchange &x) { prune_volumes(e, x); });
    router.add("GET", "/volumes/{name}", [&e](Exchange &x) {
        json::object out = render_volume(e.volumes->get(x.request.params[0]));
        reply(x, 200, out);
    });
    router.add("DELETE", "/volumes/{name}", [&e](Exchange &x) {
        try {
            e.volumes->remove(x.request.params[0], x.request.flag("force"));
        } catch (const Error &error) {
            // docker volume rm -f of a missing one succeeds.
            if (error.error_class() != ErrorClass::kNotFound || !x.request.flag("force")) throw;
        }
        x.response.empty(204);
    });
}

} // namespace gantry::api
