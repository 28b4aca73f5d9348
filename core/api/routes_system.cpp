// /_ping, /version, /info, /events, /system/df, /auth.
#include "core/api/dialect.h"
#include "core/api/render.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/container/containers.h"
#include "core/events/events.h"
#include "core/image/images.h"
#include "core/layer/layers.h"
#include "core/network/networks.h"
#include "core/plugin/host.h"
#include "core/runtime/runtime.h"
#include "core/volume/volumes.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <boost/json.hpp>
#include <fmt/format.h>
#include <set>
#include <cstring>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

namespace json = boost::json;

namespace gantry::api {

namespace {

struct Machine {
    std::string kernel, host, architecture, go_architecture, pretty_name, version_id;
};

Machine machine() {
    Machine out;
    utsname names{};
    uname(&names);
    out.kernel = names.release;
    out.host = names.nodename;
    out.architecture = names.machine;
    out.go_architecture = out.architecture == "x86_64"    ? "amd64"
                          : out.architecture == "aarch64" ? "arm64"
                                                          : out.architecture;
    bool found = false;
    const std::string text = read_file_if("/etc/os-release", found, 64u << 10);
    auto field = [&](const std::string &key) {
        size_t at = text.starts_with(key + "=") ? 0 : text.find("\n" + key + "=");
        if (at == text.npos) return std::string();
        at = text.find('=', at) + 1;
        std::string value = text.substr(at, text.find('\n', at) - at);
        std::erase(value, '"');
        return value;
    };
    out.pretty_name = field("PRETTY_NAME");
    if (out.pretty_name.empty()) out.pretty_name = "Linux";
    out.version_id = field("VERSION_ID");
    return out;
}

void version(Exchange &x) {
    const Machine m = machine();
    const std::string newest = fmt::format("1.{}", kApiMinor), oldest = fmt::format("1.{}", kApiMinorOldest);
    const json::object details{{"ApiVersion", newest},      {"Arch", m.go_architecture}, {"BuildTime", ""},
                               {"Experimental", "false"},   {"GitCommit", ""},           {"GoVersion", ""},
                               {"KernelVersion", m.kernel}, {"MinAPIVersion", oldest},   {"Os", "linux"}};
    json::array components{
        json::object{{"Name", "Engine"}, {"Version", GANTRY_VERSION}, {"Details", details}}};
    reply(x, 200,
          {{"Platform", {{"Name", "gantry"}}},
           {"Components", std::move(components)},
           {"Version", GANTRY_VERSION},
           {"ApiVersion", newest},
           {"MinAPIVersion", oldest},
           {"GitCommit", ""},
           {"GoVersion", ""},
           {"Os", "linux"},
           {"Arch", m.go_architecture},
           {"KernelVersion", m.kernel},
           {"Experimental", false},
           {"BuildTime", ""}});
}

void info(const Engine &engine, Exchange &x) {
    const Machine m = machine();
    const auto &config = engine.settings->engine();
    const Containers::Counts counts = engine.containers->counts();
    struct sysinfo memory {};
    sysinfo(&memory);
    const std::string cgroup = engine.runtime->cgroup_version();
    const std::string storage = engine.plugins->storage_name();
    json::array status;
    status.push_back(json::array{"Driver", json::string(storage)});
    for (const PluginInfo &plugin : engine.plugins->list())
        if (plugin.in_use && plugin.kind == GANTRY_KIND_STORAGE) {
            status.push_back(json::array{"Plugin", json::string(plugin.file)});
            status.push_back(json::array{"Version", json::string(plugin.version)});
        }
    json::object runtimes{
        {"gantry", json::object{{"path", config.shim.empty() ? "gantry-shim" : config.shim}}}};
    for (const auto &[name, path] : config.runtimes)
        runtimes[name] = json::object{{"path", path}};
    const std::string &registry = engine.settings->registry().default_registry;
    const bool modern = cgroup == "2";
    json::array network_names;
    network_names.emplace_back(engine.plugins->network_name());
    network_names.emplace_back("host");
    network_names.emplace_back("null");
    json::object index{
        {"docker.io",
         {{"Name", "docker.io"}, {"Mirrors", json::array()}, {"Secure", true}, {"Official", true}}}};
    const json::object commit{{"ID", GANTRY_VERSION}, {"Expected", GANTRY_VERSION}};
    json::object out{{"ID", engine.id},
                     {"Containers", counts.running + counts.paused + counts.stopped},
                     {"ContainersRunning", counts.running},
                     {"ContainersPaused", counts.paused},
                     {"ContainersStopped", counts.stopped},
                     {"Images", engine.images->list().size()},
                     {"Driver", storage},
                     {"DriverStatus", std::move(status)},
                     {"SystemStatus", nullptr},
                     {"Plugins",
                      {{"Volume", json::array{"local"}},
                       {"Network", std::move(network_names)},
                       {"Authorization", nullptr},
                       {"Log", json::array{"json-file"}}}},
                     {"MemoryLimit", true},
                     {"SwapLimit", true},
                     {"KernelMemory", false},
                     {"KernelMemoryTCP", false},
                     {"CpuCfsPeriod", true},
                     {"CpuCfsQuota", true},
                     {"CPUShares", true},
                     {"CPUSet", true},
                     {"PidsLimit", true},
                     {"IPv4Forwarding", true},
                     {"BridgeNfIptables", false},
                     {"BridgeNfIp6tables", false},
                     {"Debug", config.log_level == "debug"},
                     {"NFd", 0},
                     {"OomKillDisable", !modern},
                     {"NGoroutines", 0},
                     {"SystemTime", rfc3339(wall_ns())},
                     {"LoggingDriver", "json-file"},
                     {"CgroupDriver", "cgroupfs"},
                     {"CgroupVersion", modern ? "2" : "1"},
                     {"NEventsListener", 0},
                     {"KernelVersion", m.kernel},
                     {"OperatingSystem", m.pretty_name},
                     {"OSVersion", m.version_id},
                     {"OSType", "linux"},
                     {"Architecture", m.architecture},
                     {"IndexServerAddress",
                      registry == "docker.io" ? "https://index.docker.io/v1/" : "https://" + registry + "/"},
                     {"RegistryConfig",
                      {{"AllowNondistributableArtifactsCIDRs", json::array()},
                       {"AllowNondistributableArtifactsHostnames", json::array()},
                       {"InsecureRegistryCIDRs", json::array{"127.0.0.0/8"}},
                       {"IndexConfigs", std::move(index)},
                       {"Mirrors", json::array()}}},
                     {"NCPU", sysconf(_SC_NPROCESSORS_ONLN)},
                     {"MemTotal", uint64_t(memory.totalram) * memory.mem_unit},
                     {"GenericResources", nullptr},
                     {"DockerRootDir", config.root},
                     {"HttpProxy", ""},
                     {"HttpsProxy", ""},
                     {"NoProxy", ""},
                     {"Name", m.host},
                     {"Labels", json::array()},
                     {"ExperimentalBuild", false},
                     {"ServerVersion", GANTRY_VERSION},
                     {"Runtimes", std::move(runtimes)},
                     {"DefaultRuntime", config.default_runtime},
                     {"Swarm",
                      {{"NodeID", ""},
                       {"NodeAddr", ""},
                       {"LocalNodeState", "inactive"},
                       {"ControlAvailable", false},
                       {"Error", ""},
                       {"RemoteManagers", nullptr}}},
                     {"LiveRestoreEnabled", true},
                     {"Isolation", ""},
                     {"InitBinary", "gantry-shim"},
                     {"ContainerdCommit", commit},
                     {"RuncCommit", commit},
                     {"InitCommit", commit},
                     {"SecurityOptions", json::array{"name=seccomp,profile=default"}},
                     {"Warnings", nullptr}};
    reply(x, 200, out);
}

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
            row["UsageData"] = {{"Size", -1}, {"RefCount", volume.users}};
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
        x.response.error(401, error_text(error));
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
    router.add("GET", "/version", [](Exchange &x) { version(x); });
    router.add("GET", "/info", [&e](Exchange &x) { info(e, x); });
    router.add("GET", "/events", [&e](Exchange &x) { events(e, x); });
    router.add("GET", "/system/df", [&e](Exchange &x) { disk_usage(e, x); });
    router.add("POST", "/auth", [&e](Exchange &x) { login(e, x); });
}

} // namespace gantry::api
