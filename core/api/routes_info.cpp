// /version and /info. What depends on the machine is asked of the machine at each call: clients print
// warnings from these answers, and a wrong one sends people looking for a fault that is not there.
#include "core/api/dialect.h"
#include "core/api/render.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/container/containers.h"
#include "core/image/images.h"
#include "core/plugin/host.h"
#include "core/runtime/cgroups.h"

#include <gantry/error.hpp>
#include <gantry/value.hpp>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <fmt/format.h>
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

bool v2_has(const std::string &controller) {
    bool found = false;
    const std::string text = " " + read_file_if("/sys/fs/cgroup/cgroup.controllers", found, 4096);
    for (size_t at = 0; (at = text.find(" " + controller, at)) != text.npos; ++at)
        if (const char after = text.c_str()[at + 1 + controller.size()]; !isalnum(uint8_t(after)))
            return true;
    return false;
}

/// What the kernel lets a container be limited by: a limit whose control file is missing cannot be set, and
/// clients warn about it.
struct Limits {
    bool memory, swap, oom_kill_disable, pids, cpu_shares, cpu_quota, cpuset;
};

Limits limits_of(const CgroupLayout &layout, const std::string &parent) {
    if (layout.unified_only()) {
        // The root group has no limits: look at the engine's own, or at any other group.
        const std::string root = "/sys/fs/cgroup";
        std::string group = root + parent;
        if (!path_exists(group + "/memory.max"))
            for (const std::string &name : list_directory(root))
                if (path_exists(root + "/" + name + "/cgroup.procs")) {
                    group = root + "/" + name;
                    if (path_exists(group + "/memory.max")) break;
                }
        const bool memory = v2_has("memory"), cpu = v2_has("cpu");
        return {memory,
                memory && path_exists(group + "/memory.swap.max"),
                false,
                v2_has("pids"),
                cpu,
                cpu && path_exists(group + "/cpu.max"),
                v2_has("cpuset")};
    }
    auto file = [&](const char *controller, const char *name) {
        const std::string mount_point = layout.mount_of(controller);
        return !mount_point.empty() && path_exists(mount_point + "/" + name);
    };
    return {file("memory", "memory.limit_in_bytes"),
            file("memory", "memory.memsw.limit_in_bytes"),
            file("memory", "memory.oom_control"),
            !layout.mount_of("pids").empty(),
            file("cpu", "cpu.shares"),
            file("cpu", "cpu.cfs_quota_us"),
            file("cpuset", "cpuset.cpus")};
}

bool sysctl_on(const char *path) {
    bool found = false;
    return read_file_if(std::string("/proc/sys/") + path, found, 64).starts_with("1");
}

int64_t thread_count() {
    bool found = false;
    const std::string text = read_file_if("/proc/self/status", found, 64u << 10);
    const size_t at = text.find("Threads:");
    return at == text.npos ? 0 : atoll(text.c_str() + at + 8);
}

std::string environment(const char *upper, const char *lower) {
    const char *value = getenv(upper);
    if (!value) value = getenv(lower);
    if (!value) return {};
    // "http://user:secret@proxy": whoever may ask for this need not know the secret.
    std::string text = value;
    const size_t start = text.find("://"), at = text.rfind('@');
    if (start != text.npos && at != text.npos && at > start)
        text.replace(start + 3, at - start - 3, "xxxxx:xxxxx");
    return text;
}

bool among(const std::vector<std::string> &names, const std::string &name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

/// The part of the registry drivers' tables that has a place in Docker's answer. Other drivers may have other
/// tables: whatever is not there is not shown.
json::object registry_config(const Engine &engine) {
    json::object index;
    json::array mirrors;
    auto entry = [&](const std::string &name, bool secure) -> json::object & {
        const bool official = name == "docker.io";
        json::object out{
            {"Name", name}, {"Mirrors", json::array()}, {"Secure", secure}, {"Official", official}};
        return (index[name] = std::move(out)).get_object();
    };
    entry("docker.io", true);
    for (const DriverSchema &schema : engine.plugins->schemas()) {
        if (schema.kind != GANTRY_KIND_REGISTRY || !among(engine.plugins->registry_names(), schema.name))
            continue;
        const auto raw = engine.settings->driver_options(schema);
        const Config options(raw.get());
        if (!options.has("hosts") || options.child("hosts").type() != GANTRY_TYPE_MAP) continue;
        const Config hosts = options.child("hosts");
        for (uint32_t i = 0; i < hosts.count(); ++i) {
            const Config host = hosts.item(i);
            if (host.type() != GANTRY_TYPE_TABLE) continue;
            auto on = [&](const char *key) { return host.has(key) && host.boolean(key); };
            json::object &shown = entry(hosts.key(i), !on("plain_http") && !on("skip_verify"));
            if (!host.has("mirrors")) continue;
            const Config list = host.child("mirrors");
            for (uint32_t k = 0; k < list.count(); ++k) {
                const Config item = list.item(k);
                std::string url = item.type() == GANTRY_TYPE_TABLE ? item.string("url") : item.as_string();
                if (!url.ends_with("/")) url += "/";
                if (hosts.key(i) == "docker.io") mirrors.emplace_back(url);
                shown["Mirrors"].get_array().emplace_back(url);
            }
        }
    }
    return {{"AllowNondistributableArtifactsCIDRs", json::array()},
            {"AllowNondistributableArtifactsHostnames", json::array()},
            {"InsecureRegistryCIDRs", json::array{"::1/128", "127.0.0.0/8"}},
            {"IndexConfigs", std::move(index)},
            {"Mirrors", std::move(mirrors)}};
}

void info(const Engine &engine, Exchange &x) {
    const Machine m = machine();
    const auto &config = engine.settings->engine();
    const Containers::Counts counts = engine.containers->counts();
    struct sysinfo memory {};
    sysinfo(&memory);
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
    json::array network_names;
    network_names.emplace_back(engine.plugins->network_name());
    network_names.emplace_back("host");
    network_names.emplace_back("null");
    const CgroupLayout layout = detect_cgroups();
    const Limits can = limits_of(layout, config.cgroup_parent);
    json::array warnings;
    auto warn = [&](bool fine, const char *what) {
        if (!fine) warnings.emplace_back(std::string("WARNING: ") + what);
    };
    const bool forwarding = sysctl_on("net/ipv4/ip_forward");
    warn(can.memory, "No memory limit support");
    warn(can.swap, "No swap limit support");
    warn(can.pids, "No pids limit support");
    warn(can.cpu_shares, "No cpu shares support");
    warn(can.cpu_quota, "No cpu cfs quota support");
    warn(can.cpuset, "No cpuset support");
    warn(forwarding, "IPv4 forwarding is disabled");
    if (const std::string &driver = engine.settings->storage().driver; driver != "auto" && driver != storage)
        warnings.emplace_back("WARNING: the layers were moved to " + storage +
                              "; change storage.driver in the configuration, which says " + driver);
    // There is neither a containerd nor a runc of ours; this is dockerd's word for it.
    const json::object none{{"ID", "N/A"}, {"Expected", "N/A"}};
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
                       {"Registry", strings_json(engine.plugins->registry_names())},
                       {"Authorization", nullptr},
                       {"Log", json::array{"json-file"}}}},
                     {"MemoryLimit", can.memory},
                     {"SwapLimit", can.swap},
                     {"KernelMemory", false},
                     {"KernelMemoryTCP", false},
                     {"CpuCfsPeriod", can.cpu_quota},
                     {"CpuCfsQuota", can.cpu_quota},
                     {"CPUShares", can.cpu_shares},
                     {"CPUSet", can.cpuset},
                     {"PidsLimit", can.pids},
                     {"IPv4Forwarding", forwarding},
                     {"BridgeNfIptables", sysctl_on("net/bridge/bridge-nf-call-iptables")},
                     {"BridgeNfIp6tables", sysctl_on("net/bridge/bridge-nf-call-ip6tables")},
                     {"Debug", config.log_level == "debug"},
                     {"NFd", list_directory("/proc/self/fd").size()},
                     {"OomKillDisable", can.oom_kill_disable},
                     {"NGoroutines", thread_count()},
                     {"SystemTime", rfc3339(wall_ns())},
                     {"LoggingDriver", "json-file"},
                     {"CgroupDriver", "cgroupfs"},
                     {"CgroupVersion", layout.unified_only() ? "2" : "1"},
                     {"NEventsListener", 0},
                     {"KernelVersion", m.kernel},
                     {"OperatingSystem", m.pretty_name},
                     {"OSVersion", m.version_id},
                     {"OSType", "linux"},
                     {"Architecture", m.architecture},
                     {"IndexServerAddress",
                      registry == "docker.io" ? "https://index.docker.io/v1/" : "https://" + registry + "/"},
                     {"RegistryConfig", registry_config(engine)},
                     {"NCPU", sysconf(_SC_NPROCESSORS_ONLN)},
                     {"MemTotal", uint64_t(memory.totalram) * memory.mem_unit},
                     {"GenericResources", nullptr},
                     {"DockerRootDir", config.root},
                     {"HttpProxy", environment("HTTP_PROXY", "http_proxy")},
                     {"HttpsProxy", environment("HTTPS_PROXY", "https_proxy")},
                     {"NoProxy", environment("NO_PROXY", "no_proxy")},
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
                     {"ContainerdCommit", none},
                     {"RuncCommit", none},
                     {"InitCommit", commit},
                     {"SecurityOptions", json::array{"name=seccomp,profile=default", "name=cgroupns"}},
                     {"Warnings", std::move(warnings)}};
    reply(x, 200, out);
}

} // namespace

void add_info_routes(Router &router, const Engine &e) {
    router.add("GET", "/version", [](Exchange &x) { version(x); });
    router.add("GET", "/info", [&e](Exchange &x) { info(e, x); });
}

} // namespace gantry::api
