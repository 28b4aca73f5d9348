// Only what the user gave is sent: the daemon owns the defaults, so that its configuration counts and a
// body stays readable in a trace. Values that need the client's side (environment, files, relative host
// paths) are resolved here.
#include "core/cli/container_flags.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <algorithm>
#include <charconv>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using enum FlagType;

constexpr Flag kContainerFlags[] = {
    {"add-host", 0, kList, "Add a custom host-to-IP mapping (host:ip)"},
    {"annotation", 0, kList, "Add an annotation to the container (passed through to the OCI runtime)"},
    {"attach", 'a', kList, "Attach to STDIN, STDOUT or STDERR"},
    {"blkio-weight", 0, kInt, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)"},
    {"cap-add", 0, kList, "Add Linux capabilities"},
    {"cap-drop", 0, kList, "Drop Linux capabilities"},
    {"cgroup-parent", 0, kString, "Optional parent cgroup for the container"},
    {"cgroupns", 0, kString, "Cgroup namespace to use (host|private)"},
    {"cidfile", 0, kString, "Write the container ID to the file"},
    {"cpu-period", 0, kInt, "Limit CPU CFS (Completely Fair Scheduler) period"},
    {"cpu-quota", 0, kInt, "Limit CPU CFS (Completely Fair Scheduler) quota"},
    {"cpu-shares", 'c', kInt, "CPU shares (relative weight)"},
    {"cpus", 0, kDecimal, "Number of CPUs"},
    {"cpuset-cpus", 0, kString, "CPUs in which to allow execution (0-3, 0,1)"},
    {"cpuset-mems", 0, kString, "MEMs in which to allow execution (0-3, 0,1)"},
    {"device", 0, kList, "Add a host device to the container"},
    {"device-cgroup-rule", 0, kList, "Add a rule to the cgroup allowed devices list"},
    {"dns", 0, kList, "Set custom DNS servers"},
    {"dns-opt", 0, kList, "Set DNS options", nullptr, true},
    {"dns-option", 0, kList, "Set DNS options"},
    {"dns-search", 0, kList, "Set custom DNS search domains"},
    {"domainname", 0, kString, "Container NIS domain name"},
    {"entrypoint", 0, kString, "Overwrite the default ENTRYPOINT of the image"},
    {"env", 'e', kList, "Set environment variables"},
    {"env-file", 0, kList, "Read in a file of environment variables"},
    {"expose", 0, kList, "Expose a port or a range of ports"},
    {"group-add", 0, kList, "Add additional groups to join"},
    {"health-cmd", 0, kString, "Command to run to check health"},
    {"health-interval", 0, kDuration, "Time between running the check (ms|s|m|h) (default 0s)"},
    {"health-retries", 0, kInt, "Consecutive failures needed to report unhealthy"},
    {"health-start-interval", 0, kDuration, "Time between running the check during the start period"},
    {"health-start-period", 0, kDuration, "Start period before the health retries countdown starts"},
    {"health-timeout", 0, kDuration, "Maximum time to allow one check to run (ms|s|m|h) (default 0s)"},
    {"hostname", 'h', kString, "Container host name"},
    {"init", 0, kBool, "Run an init inside the container that forwards signals and reaps processes"},
    {"interactive", 'i', kBool, "Keep STDIN open even if not attached"},
    {"ip", 0, kString, "IPv4 address (e.g., 172.30.100.104)"},
    {"ip6", 0, kString, "IPv6 address (e.g., 2001:db8::33)"},
    {"ipc", 0, kString, "IPC mode to use"},
    {"label", 'l', kList, "Set meta data on a container"},
    {"label-file", 0, kList, "Read in a line delimited file of labels"},
    {"link", 0, kList, "Add link to another container"},
    {"log-driver", 0, kString, "Logging driver for the container"},
    {"log-opt", 0, kList, "Log driver options"},
    {"mac-address", 0, kString, "Container MAC address (e.g., 92:d0:c6:0a:29:33)"},
    {"memory", 'm', kBytes, "Memory limit"},
    {"memory-reservation", 0, kBytes, "Memory soft limit"},
    {"memory-swap", 0, kBytes, "Swap limit equal to memory plus swap: '-1' to enable unlimited swap"},
    {"memory-swappiness", 0, kInt, "Tune container memory swappiness (0 to 100)"},
    {"mount", 0, kList, "Attach a filesystem mount to the container", "mount"},
    {"name", 0, kString, "Assign a name to the container"},
    {"net", 0, kList, "Connect a container to a network", "network", true},
    {"net-alias", 0, kList, "Add network-scoped alias for the container", nullptr, true},
    {"network", 0, kList, "Connect a container to a network", "network"},
    {"network-alias", 0, kList, "Add network-scoped alias for the container"},
    {"no-healthcheck", 0, kBool, "Disable any container-specified HEALTHCHECK"},
    {"oom-kill-disable", 0, kBool, "Disable OOM Killer"},
    {"oom-score-adj", 0, kInt, "Tune host's OOM preferences (-1000 to 1000)"},
    {"pid", 0, kString, "PID namespace to use"},
    {"pids-limit", 0, kInt, "Tune container pids limit (set -1 for unlimited)"},
    {"platform", 0, kString, "Set platform if server is multi-platform capable"},
    {"privileged", 0, kBool, "Give extended privileges to this container"},
    {"publish", 'p', kList, "Publish a container's port(s) to the host"},
    {"publish-all", 'P', kBool, "Publish all exposed ports to random ports"},
    {"pull", 0, kString,
     "Pull image before running (\"always\", \"missing\", \"never\") (default \"missing\")"},
    {"quiet", 'q', kBool, "Suppress the pull output"},
    {"read-only", 0, kBool, "Mount the container's root filesystem as read only"},
    {"restart", 0, kString, "Restart policy to apply when a container exits (default \"no\")"},
    {"rm", 0, kBool, "Automatically remove the container when it exits"},
    {"runtime", 0, kString, "Runtime to use for this container"},
    {"security-opt", 0, kList, "Security Options"},
    {"shm-size", 0, kBytes, "Size of /dev/shm"},
    {"stop-signal", 0, kString, "Signal to stop the container"},
    {"stop-timeout", 0, kInt, "Timeout (in seconds) to stop a container"},
    {"storage-opt", 0, kList, "Storage driver options for the container"},
    {"sysctl", 0, kList, "Sysctl options", "map"},
    {"tmpfs", 0, kList, "Mount a tmpfs directory"},
    {"tty", 't', kBool, "Allocate a pseudo-TTY"},
    {"ulimit", 0, kList, "Ulimit options", "ulimit"},
    {"user", 'u', kString, "Username or UID (format: <name|uid>[:<group|gid>])"},
    {"userns", 0, kString, "User namespace to use"},
    {"uts", 0, kString, "UTS namespace to use"},
    {"volume", 'v', kList, "Bind mount a volume"},
    {"volume-driver", 0, kString, "Optional volume driver for the container"},
    {"volumes-from", 0, kList, "Mount volumes from the specified container(s)"},
    {"workdir", 'w', kString, "Working directory inside the container"},
};

[[noreturn]] void fail(const std::string &message) { throw FlagError{message}; }

json::array strings(const std::vector<std::string> &list) {
    json::array result;
    for (const std::string &element : list)
        result.emplace_back(element);
    return result;
}

// key=value, with "" for a bare key.
json::object to_map(const std::vector<std::string> &list) {
    json::object map;
    for (const std::string &entry : list) {
        size_t equal = entry.find('=');
        map[entry.substr(0, equal)] = equal == std::string::npos ? "" : entry.substr(equal + 1);
    }
    return map;
}

void add_volumes(const ParsedFlags &flags, json::object &body, json::object &host) {
    json::array binds;
    json::object anonymous;
    for (std::string text : flags.list("volume")) {
        if (text.find(':') == std::string::npos) {
            if (!text.starts_with("/"))
                fail("invalid volume specification: '" + text + "': path must be absolute");
            anonymous[text] = json::object();
            continue;
        }
        if (text.starts_with(".")) { // a host path seen from here
            size_t colon = text.find(':');
            char resolved[PATH_MAX];
            std::string source = text.substr(0, colon);
            if (realpath(source.c_str(), resolved)) {
                text = resolved + text.substr(colon);
            } else {
                char here[PATH_MAX];
                if (!getcwd(here, sizeof here))
                    fail("get working directory: " + std::string(strerror(errno)));
                text = std::string(here) + "/" + text;
            }
        }
        binds.emplace_back(text);
    }
    if (!anonymous.empty()) body["Volumes"] = std::move(anonymous);
    if (!binds.empty()) host["Binds"] = std::move(binds);
    json::array mounts;
    for (const std::string &text : flags.list("mount"))
        mounts.emplace_back(parse_mount(text));
    if (!mounts.empty()) host["Mounts"] = std::move(mounts);
    json::object tmpfs;
    for (const std::string &text : flags.list("tmpfs")) {
        size_t colon = text.find(':');
        tmpfs[text.substr(0, colon)] = colon == std::string::npos ? "" : text.substr(colon + 1);
    }
    if (!tmpfs.empty()) host["Tmpfs"] = std::move(tmpfs);
}

void add_ports(const ParsedFlags &flags, json::object &body, json::object &host) {
    json::object exposed, bindings;
    for (const std::string &text : flags.list("publish")) {
        for (const PortSpec &port : parse_publish(text)) {
            std::string key = port.container_port + "/" + port.protocol;
            exposed[key] = json::object();
            if (!bindings.contains(key)) bindings[key] = json::array();
            bindings[key].as_array().push_back(
                json::object{{"HostIp", port.host_ip}, {"HostPort", port.host_port}});
        }
    }
    for (const std::string &text : flags.list("expose")) {
        size_t slash = text.find('/');
        std::string protocol = slash == std::string::npos ? "tcp" : text.substr(slash + 1);
        auto [first, last] = parse_port_range(text.substr(0, slash), text);
        for (int port = first; port <= last; ++port)
            exposed[std::to_string(port) + "/" + protocol] = json::object();
    }
    if (!exposed.empty()) body["ExposedPorts"] = std::move(exposed);
    if (!bindings.empty()) host["PortBindings"] = std::move(bindings);
    if (flags.is_set("publish-all")) host["PublishAllPorts"] = true;
}

void add_networks(const ParsedFlags &flags, json::object &body, json::object &host) {
    std::vector<std::string> networks = flags.list("network");
    for (const std::string &network : flags.list("net"))
        networks.push_back(network);
    std::vector<std::string> aliases = flags.list("network-alias");
    for (const std::string &alias : flags.list("net-alias"))
        aliases.push_back(alias);
    json::object endpoints;
    for (size_t i = 0; i < networks.size() || i == 0; ++i) {
        std::string name = networks.empty() ? "default" : networks[i];
        json::object endpoint, ipam;
        json::array names = i == 0 ? strings(aliases) : json::array();
        if (name.find('=') != std::string::npos) { // name=NET,alias=A,ip=IP,...
            std::string text = std::exchange(name, "");
            for (const std::string &field : split(text, ',')) {
                size_t equal = field.find('=');
                std::string key = field.substr(0, equal);
                std::string value = equal == std::string::npos ? "" : field.substr(equal + 1);
                if (key == "name")
                    name = value;
                else if (key == "alias")
                    names.emplace_back(value);
                else if (key == "ip")
                    ipam["IPv4Address"] = value;
                else if (key == "ip6")
                    ipam["IPv6Address"] = value;
                else if (key == "mac-address")
                    endpoint["MacAddress"] = value;
                else
                    fail("invalid field " + key + " in --network " + text);
            }
            if (name.empty()) fail("no name in --network " + text);
        }
        if (i == 0) {
            if (flags.has("ip")) ipam["IPv4Address"] = flags.get("ip");
            if (flags.has("ip6")) ipam["IPv6Address"] = flags.get("ip6");
            if (flags.has("mac-address")) endpoint["MacAddress"] = flags.get("mac-address");
            host["NetworkMode"] = name;
        }
        if (!names.empty()) endpoint["Aliases"] = std::move(names);
        if (!ipam.empty()) endpoint["IPAMConfig"] = std::move(ipam);
        if (!endpoint.empty() || networks.size() > 1) endpoints[name] = std::move(endpoint);
    }
    if (flags.has("mac-address")) body["MacAddress"] = flags.get("mac-address");
    if (!endpoints.empty())
        body["NetworkingConfig"] = json::object{{"EndpointsConfig", std::move(endpoints)}};
}

void add_health(const ParsedFlags &flags, json::object &body) {
    if (flags.is_set("no-healthcheck")) {
        body["Healthcheck"] = json::object{{"Test", json::array{"NONE"}}};
        return;
    }
    json::object health;
    if (flags.has("health-cmd"))
        health["Test"] = json::array{"CMD-SHELL", json::value(flags.get("health-cmd"))};
    for (auto [flag, key] : {std::pair{"health-interval", "Interval"},
                             {"health-timeout", "Timeout"},
                             {"health-start-period", "StartPeriod"},
                             {"health-start-interval", "StartInterval"}})
        if (flags.has(flag)) health[key] = parse_duration(flags.get(flag));
    if (flags.has("health-retries")) health["Retries"] = flags.integer("health-retries");
    if (!health.empty()) body["Healthcheck"] = std::move(health);
}

int64_t parse_cpus(const std::string &text) {
    double cpus = 0;
    auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), cpus);
    if (error != std::errc() || stop != text.data() + text.size() || !(cpus >= 0 && cpus < 1e6))
        fail("failed to parse " + text + " as a rational number");
    return static_cast<int64_t>(std::llround(cpus * 1e9));
}

void add_resources(const ParsedFlags &flags, json::object &host) {
    auto bytes = [](const std::string &text) { return text == "-1" ? -1 : parse_bytes(text); };
    for (auto [flag, key] : {std::pair{"memory", "Memory"},
                             {"memory-reservation", "MemoryReservation"},
                             {"memory-swap", "MemorySwap"},
                             {"shm-size", "ShmSize"}})
        if (flags.has(flag)) host[key] = bytes(flags.get(flag));
    for (auto [flag, key] : {std::pair{"memory-swappiness", "MemorySwappiness"},
                             {"cpu-period", "CpuPeriod"},
                             {"cpu-quota", "CpuQuota"},
                             {"cpu-shares", "CpuShares"},
                             {"pids-limit", "PidsLimit"},
                             {"oom-score-adj", "OomScoreAdj"},
                             {"blkio-weight", "BlkioWeight"}})
        if (flags.has(flag)) host[key] = flags.integer(flag);
    if (flags.has("cpus")) host["NanoCpus"] = parse_cpus(flags.get("cpus"));
    for (const char *flag : {"oom-kill-disable"})
        if (flags.has(flag)) host["OomKillDisable"] = flags.is_set(flag);
}

} // namespace

std::span<const Flag> container_flags() { return kContainerFlags; }

json::object create_body(const ParsedFlags &flags, const std::string &image,
                         const std::vector<std::string> &command, bool detached) {
    json::object body{{"Image", image}}, host;
    bool interactive = flags.is_set("interactive");
    bool attach_in = interactive, attach_out = true, attach_err = true;
    if (const auto &attach = flags.list("attach"); !attach.empty()) {
        attach_in = attach_out = attach_err = false;
        for (std::string name : attach) {
            for (char &c : name)
                c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
            if (name == "stdin")
                attach_in = true;
            else if (name == "stdout")
                attach_out = true;
            else if (name == "stderr")
                attach_err = true;
            else
                fail("invalid argument \"" + name +
                     "\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR");
        }
    }
    if (detached) attach_in = attach_out = attach_err = false;
    body["AttachStdin"] = attach_in;
    body["AttachStdout"] = attach_out;
    body["AttachStderr"] = attach_err;
    body["Tty"] = flags.is_set("tty");
    body["OpenStdin"] = interactive;
    body["StdinOnce"] = interactive && attach_in;
    if (!command.empty()) body["Cmd"] = strings(command);
    if (flags.has("entrypoint")) {
        // An empty entrypoint removes the image's: [""] as Docker sends it.
        body["Entrypoint"] = json::array{json::value(flags.get("entrypoint"))};
    }
    std::vector<std::string> env;
    for (const std::string &file : flags.list("env-file"))
        for (std::string &entry : read_key_values(file, true))
            env.push_back(std::move(entry));
    for (const std::string &entry : flags.list("env")) {
        if (entry.empty() || entry[0] == '=') fail("invalid environment variable: " + entry);
        if (entry.find('=') != std::string::npos)
            env.push_back(entry);
        else if (const char *value = getenv(entry.c_str()))
            env.push_back(entry + "=" + value);
    }
    if (!env.empty()) body["Env"] = strings(env);
    std::vector<std::string> labels;
    for (const std::string &file : flags.list("label-file"))
        for (std::string &entry : read_key_values(file, false))
            labels.push_back(std::move(entry));
    for (const std::string &entry : flags.list("label"))
        labels.push_back(entry);
    if (!labels.empty()) body["Labels"] = to_map(labels);
    for (auto [flag, key] : {std::pair{"hostname", "Hostname"},
                             {"domainname", "Domainname"},
                             {"user", "User"},
                             {"workdir", "WorkingDir"},
                             {"stop-signal", "StopSignal"}})
        if (flags.has(flag)) body[key] = flags.get(flag);
    if (flags.has("stop-timeout")) body["StopTimeout"] = flags.integer("stop-timeout");
    add_health(flags, body);
    add_volumes(flags, body, host);
    add_ports(flags, body, host);
    add_networks(flags, body, host);
    add_resources(flags, host);

    for (auto [flag, key] : {std::pair{"cpuset-cpus", "CpusetCpus"},
                             {"cpuset-mems", "CpusetMems"},
                             {"pid", "PidMode"},
                             {"ipc", "IpcMode"},
                             {"uts", "UTSMode"},
                             {"userns", "UsernsMode"},
                             {"cgroupns", "CgroupnsMode"},
                             {"cgroup-parent", "CgroupParent"},
                             {"runtime", "Runtime"},
                             {"volume-driver", "VolumeDriver"}})
        if (flags.has(flag)) host[key] = flags.get(flag);
    for (auto [flag, key] : {std::pair{"privileged", "Privileged"},
                             {"read-only", "ReadonlyRootfs"},
                             {"rm", "AutoRemove"},
                             {"init", "Init"}})
        if (flags.has(flag)) host[key] = flags.is_set(flag);
    for (auto [flag, key] : {std::pair{"cap-add", "CapAdd"},
                             {"cap-drop", "CapDrop"},
                             {"add-host", "ExtraHosts"},
                             {"dns", "Dns"},
                             {"dns-search", "DnsSearch"},
                             {"group-add", "GroupAdd"},
                             {"link", "Links"},
                             {"volumes-from", "VolumesFrom"},
                             {"device-cgroup-rule", "DeviceCgroupRules"}})
        if (flags.has(flag)) host[key] = strings(flags.list(flag));
    std::vector<std::string> dns_options = flags.list("dns-option");
    for (const std::string &option : flags.list("dns-opt"))
        dns_options.push_back(option);
    if (!dns_options.empty()) host["DnsOptions"] = strings(dns_options);
    for (auto [flag, key] :
         {std::pair{"sysctl", "Sysctls"}, {"storage-opt", "StorageOpt"}, {"annotation", "Annotations"}})
        if (flags.has(flag)) host[key] = to_map(flags.list(flag));
    json::array security, devices, ulimits;
    for (const std::string &text : flags.list("security-opt"))
        security.emplace_back(security_option(text));
    for (const std::string &text : flags.list("device"))
        devices.push_back(parse_device(text));
    for (const std::string &text : flags.list("ulimit"))
        ulimits.push_back(parse_ulimit(text));
    if (!security.empty()) host["SecurityOpt"] = std::move(security);
    if (!devices.empty()) host["Devices"] = std::move(devices);
    if (!ulimits.empty()) host["Ulimits"] = std::move(ulimits);
    if (flags.has("log-driver") || flags.has("log-opt"))
        host["LogConfig"] =
            json::object{{"Type", flags.get("log-driver")}, {"Config", to_map(flags.list("log-opt"))}};
    if (flags.has("restart")) host["RestartPolicy"] = parse_restart(flags.get("restart"));
    if (flags.is_set("rm") && flags.has("restart") && !flags.get("restart").empty() &&
        flags.get("restart") != "no")
        fail("conflicting options: cannot specify both --restart and --rm");
    body["HostConfig"] = std::move(host);
    return body;
}

} // namespace gantry::cli
