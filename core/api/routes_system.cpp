// /_ping, /events, /system/df, /auth.
#include "core/api/dialect.h"
#include "core/api/render.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/container/containers.h"
#include "core/events/events.h"
#include "core/image/images.h"
#include "core/layer/layers.h"
#include "core/plugin/host.h"
#include "core/volume/volumes.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <boost/json.hpp>
#include <fmt/format.h>
#include <set>
#include <cstring>

namespace json = boost::json;

namespace gantry::api {

namespace {

const std::vector<std::string> kEventFilters = {"config", "container", "daemon", "event",  "image",
                                                "label",  "network",   "node",   "plugin", "scope",
                                                "secret", "service",   "type",   "volume"};

bool event_fits(const Filters &f, const Event &event) {
    auto attribute = [&](const char *name) {
        auto found = event.attributes.find(name);
        return found == event.attributes.end() ? std::string() : found->second;
    };
    if (!f.match("type", event.type) || !f.match("scope", "local")) return false;
    // "exec_create" asks for "exec_create: ls", "health_status" for "health_status: healthy".
    if (!f.match("event", event.action) && !f.match("event", event.action.substr(0, event.action.find(':'))))
        return false;
    if (!f.match_labels("label", event.attributes)) return false;
    auto actor = [&](const char *kind) {
        if (!f.has(kind)) return true;
        if (event.type != kind) {
            if (event.type == "network" && !strcmp(kind, "container"))
                return f.match(kind, attribute("container"));
            return false;
        }
        for (const std::string &wanted : f.values(kind))
            if (wanted == attribute("name") || event.id == wanted ||
                (wanted.size() >= 12 && event.id.starts_with(wanted)))
                return true;
        return false;
    };
    if (f.has("image")) {
        const std::string image = event.type == "image" ? attribute("name") : attribute("image");
        if (!f.match("image", image) && !f.match("image", image.substr(0, image.rfind(':'))) &&
            !f.match("image", event.id))
            return false;
    }
    return actor("container") && actor("network") && actor("volume");
}

int64_t event_time(const Request &request, const char *name) {
    if (request.arg(name).empty()) return 0;
    int64_t value = 0;
    if (!parse_time(request.arg(name), value))
        throw Error(ErrorClass::kInvalidArgument,
                    fmt::format("invalid value for \"{}\": {} is no time", name, request.arg(name)));
    return value;
}

void events(const Engine &engine, Exchange &x) {
    Filters filters(x.request.arg("filters"), kEventFilters);
    const int64_t since = event_time(x.request, "since"), until = event_time(x.request, "until");
    auto subscription = engine.events->subscribe(since);
    x.response.begin(200, "application/json");
    Event event;
    while (true) {
        while (subscription->next(event, 0)) {
            if (until && event.time_ns > until) return;
            if (event_fits(filters, event)) x.response.write(json::serialize(render_event(event)) + "\n");
        }
        int timeout = -1;
        if (until) {
            const int64_t left = until - wall_ns();
            if (left <= 0) return;
            timeout = int(std::min<int64_t>(left / 1'000'000 + 1, 1'000'000));
        }
        bool timed_out = false;
        if (!wait_for(x.connection, subscription->fd(), timeout, timed_out)) return;
    }
}

void disk_usage(const Engine &engine, Exchange &x) {
    std::set<std::string> types;
    if (auto found = x.request.query.find("type"); found != x.request.query.end())
        types.insert(found->second.begin(), found->second.end());
    auto wanted = [&](const char *type) { return types.empty() || types.count(type); };
    json::object out{{"LayersSize", 0},
                     {"Images", nullptr},
                     {"Containers", nullptr},
                     {"Volumes", nullptr},
                     {"BuildCache", nullptr}};
    const std::vector<ContainerInfo> containers = engine.containers->list(true);
    if (wanted("image")) {
        uint64_t layers = 0;
        std::set<std::string> seen;
        json::array rows;
        for (const ImageInfo &image : engine.images->list()) {
            const int64_t users =
                std::count_if(containers.begin(), containers.end(),
                              [&](const ContainerInfo &c) { return c.image_id == image.id; });
            json::object row = render_image_row(image, x.request.api_minor, users);
            row["SharedSize"] = 0;
            rows.push_back(std::move(row));
            if (!image.top_layer.empty())
                for (const std::string &id : engine.layers->lineage(image.top_layer))
                    if (seen.insert(id).second) layers += engine.layers->get(id).size;
        }
        out["LayersSize"] = layers;
        out["Images"] = std::move(rows);
        json::array partials; // ours: Docker's clients pass over it
        for (const InterruptedDownload &part : engine.images->interrupted())
            partials.push_back({{"Digest", part.digest},
                                {"Kind", part.layer ? "layer" : "blob"},
                                {"Present", part.present},
                                {"Total", part.size},
                                {"Size", part.disk},
                                {"Changed", rfc3339(part.changed_ns)},
                                {"InUse", part.active}});
        out["PartialDownloads"] = std::move(partials);
    }
    if (wanted("container")) {
        json::array rows;
        for (const ContainerInfo &info : containers)
            rows.push_back(render_container_row(engine, info, true));
        out["Containers"] = std::move(rows);
    }
    if (wanted("volume")) {
        json::array rows;
        for (const Volume &volume : engine.volumes->list()) {
            json::object row = render_volume(volume);
            row["UsageData"] = {{"Size", engine.volumes->size(volume.name)}, {"RefCount", volume.users}};
            rows.push_back(std::move(row));
        }
        out["Volumes"] = std::move(rows);
    }
    if (wanted("build-cache")) out["BuildCache"] = json::array();
    reply(x, 200, out);
}

void login(const Engine &engine, Exchange &x) {
    const json::object body = body_object(x, true);
    auto field = [&](const char *name) -> std::string {
        const json::value *value = body.if_contains(name);
        return value && value->is_string() ? std::string(value->get_string()) : std::string();
    };
    CancelSource cancel;
    HangupWatch watch(x.connection, cancel);
    CallScope::Settings settings;
    settings.cancel = &cancel;
    settings.timeout_ns = engine.settings->engine().call_timeout_ns;
    CallScope call(settings);
    const Credential credential{field("serveraddress"), field("username"), field("password"),
                                field("identitytoken"), ""};
    try {
        const std::string token = engine.plugins->registry()->login(call, credential);
        reply(x, 200, {{"Status", "Login Succeeded"}, {"IdentityToken", token}});
    } catch (const Error &error) {
        // dockerd's answer to refused credentials; the CLI shows the text.
        if (error.error_class() != ErrorClass::kPermissionDenied) throw;
        log_info("login: {}", error.message());
        std::string server = credential.server;
        if (server.empty() || server.find("index.docker.io") != std::string::npos)
            server = "https://registry-1.docker.io";
        if (server.find("://") == std::string::npos) server = "https://" + server;
        while (server.ends_with('/'))
            server.pop_back();
        x.response.error(401, "Get \"" + server + "/v2/\": unauthorized: incorrect username or password");
    }
}

} // namespace

void add_system_routes(Router &router, const Engine &e) {
    router.add("GET HEAD", "/_ping", [](Exchange &x) {
        x.response.header("Cache-Control", "no-cache, no-store, must-revalidate");
        x.response.header("Pragma", "no-cache");
        x.response.header("Builder-Version", "1");
        x.response.header("Swarm", "inactive");
        x.response.send(200, x.request.method == "HEAD" ? "" : "OK", "text/plain; charset=utf-8");
    });
    add_info_routes(router, e);
    router.add("GET", "/events", [&e](Exchange &x) { events(e, x); });
    router.add("GET", "/system/df", [&e](Exchange &x) { disk_usage(e, x); });
    router.add("POST", "/auth", [&e](Exchange &x) { login(e, x); });
}

} // namespace gantry::api
