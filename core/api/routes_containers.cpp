// /containers: everything that answers with one document. Streams are in routes_streams.cpp.
#include "core/api/dialect.h"
#include "core/api/render.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/container/containers.h"
#include "core/image/images.h"
#include "core/layer/layers.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <boost/json.hpp>
#include <fmt/format.h>
#include <set>

namespace json = boost::json;

namespace gantry::api {

namespace {

const std::vector<std::string> kListFilters = {"ancestor", "before",    "expose",  "exited", "health",
                                               "id",       "isolation", "is-task", "label",  "name",
                                               "network",  "publish",   "since",   "status", "volume"};

std::string plain_name(const std::string &name) { return name.starts_with("/") ? name.substr(1) : name; }

bool any_of(const std::vector<std::string> &values, const std::function<bool(const std::string &)> &test) {
    return values.empty() || std::any_of(values.begin(), values.end(), test);
}

bool fits(const Engine &engine, const Filters &f, const ContainerInfo &c) {
    if (!f.match("status", c.state.status) ||
        !f.match("health", c.state.health.empty() ? "none" : c.state.health))
        return false;
    if (!any_of(f.values("id"), [&](const std::string &id) { return c.id.starts_with(id); })) return false;
    if (f.has("name") && !f.match_pattern("name", "/" + plain_name(c.name)) &&
        !f.match_pattern("name", plain_name(c.name)))
        return false;
    if (!f.match_labels("label", c.config.labels)) return false;
    if (f.has("exited") && (c.state.running || c.state.status == "created" ||
                            !f.match("exited", std::to_string(c.state.exit_code))))
        return false;
    if (!any_of(f.values("ancestor"), [&](const std::string &image) {
            if (image == c.image_name || image + ":latest" == c.image_name) return true;
            try {
                return engine.images->get(image).id == c.image_id;
            } catch (const Error &) {
                return false;
            }
        }))
        return false;
    if (!any_of(f.values("network"), [&](const std::string &network) {
            if (c.config.network_mode == network ||
                (network == "bridge" && c.config.network_mode == "default"))
                return true;
            for (const Endpoint &endpoint : c.endpoints)
                if (endpoint.network_name == network || endpoint.network_id == network) return true;
            return false;
        }))
        return false;
    if (!any_of(f.values("volume"), [&](const std::string &volume) {
            for (const MountPoint &mount : c.mounts)
                if (mount.name == volume || mount.destination == volume || mount.source == volume)
                    return true;
            return false;
        }))
        return false;
    auto with_protocol = [](const std::string &port) {
        return port.find('/') == port.npos ? port + "/tcp" : port;
    };
    if (!any_of(f.values("expose"), [&](const std::string &port) {
            const auto &exposed = c.config.exposed_ports;
            return std::find(exposed.begin(), exposed.end(), with_protocol(port)) != exposed.end();
        }))
        return false;
    if (!any_of(f.values("publish"), [&](const std::string &port) {
            for (const Endpoint &endpoint : c.endpoints)
                for (const PortBinding &binding : endpoint.ports)
                    if (with_protocol(port).starts_with(std::to_string(binding.container_port) + "/"))
                        return true;
            return false;
        }))
        return false;
    return f.boolean("is-task") != 1;
}

void list(const Engine &engine, Exchange &x) {
    Filters filters(x.request.arg("filters"), kListFilters);
    const int64_t limit = parse_integer(x.request.arg("limit"), 0, "limit");
    const bool filtered_state = filters.has("status") || filters.has("exited");
    const bool all =
        x.request.flag("all") || limit > 0 || filtered_state || filters.has("before") || filters.has("since");
    const bool size = x.request.flag("size");
    int64_t before = INT64_MAX, since = INT64_MIN;
    if (filters.has("before"))
        before = engine.containers->inspect(filters.values("before").front()).created_ns;
    if (filters.has("since")) since = engine.containers->inspect(filters.values("since").front()).created_ns;

    std::vector<ContainerInfo> found = engine.containers->list(all);
    std::stable_sort(found.begin(), found.end(),
                     [](const auto &a, const auto &b) { return a.created_ns > b.created_ns; });
    json::array out;
    for (const ContainerInfo &info : found) {
        if (!all && !info.state.running) continue;
        if (info.created_ns >= before || info.created_ns <= since || !fits(engine, filters, info)) continue;
        out.push_back(render_container_row(engine, info, size));
        if (limit > 0 && int64_t(out.size()) >= limit) break;
    }
    reply(x, 200, out);
}

void create(const Engine &engine, Exchange &x) {
    const std::string body = x.request.body_json();
    const std::string &type = x.request.header("content-type");
    if (type.find("application/json") == type.npos)
        throw Error(ErrorClass::kInvalidArgument,
                    "Content-Type specified (" + type + ") must be 'application/json'");
    ContainerConfig config = parse_container_config(body);
    Created created = engine.containers->create(x.request.arg("name"), config, x.request.arg("platform"));
    json::array warnings = strings_json(created.warnings);
    reply(x, 201, {{"Id", created.id}, {"Warnings", std::move(warnings)}});
}

std::optional<int> timeout_of(const Request &request) {
    if (request.arg("t").empty()) return std::nullopt;
    return int(std::clamp<int64_t>(parse_integer(request.arg("t"), 10, "t"), -1, 1'000'000'000));
}

void update(const Engine &engine, Exchange &x) {
    // The body is a HostConfig of its own; the codec wants it in its place.
    json::object wrapped{{"Image", "-"}, {"HostConfig", body_object(x, true)}};
    engine.containers->update(x.request.params[0], parse_container_config(json::serialize(wrapped)));
    reply(x, 200, {{"Warnings", nullptr}});
}

void prune(const Engine &engine, Exchange &x) {
    Filters filters(x.request.arg("filters"), {"label", "label!", "until"});
    int64_t until = INT64_MAX;
    if (filters.has("until") && !parse_time(filters.values("until").front(), until))
        throw Error(ErrorClass::kInvalidArgument,
                    "invalid filter 'until=" + filters.values("until").front() + "'",
                    "give a time as 2026-11-24T00:00:00Z or seconds since 1970");
    json::array deleted;
    uint64_t reclaimed = 0;
    for (const ContainerInfo &info : engine.containers->list(true)) {
        if (info.state.running || info.state.restarting || info.created_ns >= until) continue;
        if (!filters.match_labels("label", info.config.labels)) continue;
        if (filters.has("label!") && filters.match_labels("label!", info.config.labels)) continue;
        try {
            const uint64_t size = engine.containers->size_rw(info.id);
            engine.containers->remove(info.id, false, false);
            deleted.emplace_back(info.id);
            reclaimed += size;
        } catch (const Error &error) {
            log_info("prune container {}: {}", info.id.substr(0, 12), error.message());
        }
    }
    json::value names = deleted.empty() ? json::value(nullptr) : json::value(std::move(deleted));
    reply(x, 200, {{"ContainersDeleted", std::move(names)}, {"SpaceReclaimed", reclaimed}});
}

void top(const Engine &engine, Exchange &x) {
    auto result = engine.containers->top(x.request.params[0],
                                         x.request.has("ps_args") ? x.request.arg("ps_args") : "-ef");
    json::array rows;
    for (const auto &row : result.processes)
        rows.push_back(strings_json(row));
    reply(x, 200, {{"Titles", strings_json(result.titles)}, {"Processes", std::move(rows)}});
}

} // namespace

void add_container_routes(Router &router, const Engine &e) {
    Containers &c = *e.containers;
    router.add("GET", "/containers/json", [&e](Exchange &x) { list(e, x); });
    router.add("POST", "/containers/create", [&e](Exchange &x) { create(e, x); });
    router.add("POST", "/containers/prune", [&e](Exchange &x) { prune(e, x); });
    router.add("GET", "/containers/{name}/json", [&e](Exchange &x) {
        reply(x, 200,
              render_container(e, e.containers->inspect(x.request.params[0]), x.request.flag("size")));
    });
    router.add("POST", "/containers/{name}/start",
               [&c](Exchange &x) { x.response.empty(c.start(x.request.params[0]) ? 204 : 304); });
    router.add("POST", "/containers/{name}/stop", [&c](Exchange &x) {
        x.response.empty(c.stop(x.request.params[0], timeout_of(x.request), x.request.arg("signal")) ? 204
                                                                                                     : 304);
    });
    router.add("POST", "/containers/{name}/restart", [&c](Exchange &x) {
        c.restart(x.request.params[0], timeout_of(x.request), x.request.arg("signal"));
        x.response.empty(204);
    });
    router.add("POST", "/containers/{name}/kill", [&c](Exchange &x) {
        c.kill(x.request.params[0], x.request.arg("signal"));
        x.response.empty(204);
    });
    router.add("POST", "/containers/{name}/pause", [&c](Exchange &x) {
        c.pause(x.request.params[0]);
        x.response.empty(204);
    });
    router.add("POST", "/containers/{name}/unpause", [&c](Exchange &x) {
        c.unpause(x.request.params[0]);
        x.response.empty(204);
    });
    router.add("POST", "/containers/{name}/rename", [&c](Exchange &x) {
        if (x.request.arg("name").empty())
            throw Error(ErrorClass::kInvalidArgument, "Neither old nor new names may be empty");
        c.rename(x.request.params[0], plain_name(x.request.arg("name")));
        x.response.empty(204);
    });
    router.add("POST", "/containers/{name}/resize", [&c](Exchange &x) {
        const int64_t h = parse_integer(x.request.arg("h"), 0, "h"),
                      w = parse_integer(x.request.arg("w"), 0, "w");
        c.resize(x.request.params[0], uint16_t(std::clamp<int64_t>(h, 0, 65535)),
                 uint16_t(std::clamp<int64_t>(w, 0, 65535)));
        x.response.empty(200);
    });
    router.add("POST", "/containers/{name}/update", [&e](Exchange &x) { update(e, x); });
    router.add("GET", "/containers/{name}/top", [&e](Exchange &x) { top(e, x); });
    router.add("DELETE", "/containers/{name}", [&c](Exchange &x) {
        if (x.request.flag("link"))
            throw Error(ErrorClass::kUnsupported, "remove link: legacy container links are not kept");
        c.remove(x.request.params[0], x.request.flag("force"), x.request.flag("v"));
        x.response.empty(204);
    });
}

} // namespace gantry::api
