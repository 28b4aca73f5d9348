// Docker's create body in and out. One dialect serves the wire and the database: encode writes the
// create body again, with the image's values merged in, and decode parses it by the same code.
// Keys gantry cannot honour are refused when they ask for something, unknown keys are ignored as
// Docker does; zero values and null always mean "not set".
#include "core/container/config.h"
#include "core/container/parse.h"

#include <boost/json.hpp>
#include <gantry/error.hpp>

#include <algorithm>

namespace gantry {

namespace json = boost::json;

namespace {

constexpr size_t kMaxBody = 4u << 20;
constexpr size_t kMaxItems = 10000;

[[noreturn]] void invalid(const std::string &message) { throw Error(ErrorClass::kInvalidArgument, message); }
[[noreturn]] void unsupported(const std::string &message) { throw Error(ErrorClass::kUnsupported, message); }

/// Reads one JSON object by Docker's field names, naming the field in every error.
class Reader {
  public:
    Reader(const json::object &object, std::string path) : object_(object), path_(std::move(path)) {}

    const json::value *find(const char *key) const {
        const auto *value = object_.if_contains(key);
        return value && !value->is_null() ? value : nullptr;
    }
    std::string name(const char *key) const { return path_ + key; }
    [[noreturn]] void wrong(const char *key, const char *want) const {
        invalid("invalid JSON: field " + name(key) + " must be " + want);
    }
    void text(const char *key, std::string &out) const {
        const auto *v = find(key);
        if (!v) return;
        if (!v->is_string()) wrong(key, "a string");
        out = as_text(*v, key);
    }
    void flag(const char *key, bool &out) const {
        if (const auto *v = find(key)) {
            if (!v->is_bool()) wrong(key, "a boolean");
            out = v->as_bool();
        }
    }
    void flag(const char *key, std::optional<bool> &out) const {
        bool value = false;
        if (find(key)) {
            flag(key, value);
            out = value;
        }
    }
    void number(const char *key, int64_t &out) const {
        if (const auto *v = find(key)) out = as_number(*v, key);
    }
    template <typename T> void number(const char *key, std::optional<T> &out) const {
        if (const auto *v = find(key)) out = ranged<T>(as_number(*v, key), key);
    }
    template <typename T> void number_as(const char *key, T &out) const {
        if (const auto *v = find(key)) out = ranged<T>(as_number(*v, key), key);
    }
    /// A list; `string_too`: Docker's StrSlice. True when the key was given at all.
    bool list(const char *key, std::vector<std::string> &out, bool string_too = false) const {
        const auto *v = find(key);
        if (!v) return false;
        out.clear();
        if (string_too && v->is_string()) {
            if (!v->as_string().empty()) out.push_back(as_text(*v, key));
            return true;
        }
        if (!v->is_array()) wrong(key, string_too ? "a string or a list of strings" : "a list of strings");
        if (v->as_array().size() > kMaxItems) invalid("field " + name(key) + " has too many entries");
        for (const auto &item : v->as_array()) {
            if (!item.is_string()) wrong(key, "a list of strings");
            out.push_back(as_text(item, key));
        }
        return true;
    }
    void map(const char *key, std::map<std::string, std::string> &out) const {
        const auto *v = find(key);
        if (!v) return;
        if (!v->is_object()) wrong(key, "an object of strings");
        out.clear();
        for (const auto &[k, item] : v->as_object()) {
            if (!item.is_string() && !item.is_null()) wrong(key, "an object of strings");
            out[std::string(k)] = item.is_string() ? as_text(item, key) : "";
        }
    }
    std::vector<std::string> keys(const char *key) const {
        std::vector<std::string> out;
        const auto *v = find(key);
        if (!v) return out;
        if (!v->is_object()) wrong(key, "an object");
        for (const auto &item : v->as_object())
            out.emplace_back(item.key());
        return out;
    }
    const json::object *object(const char *key) const {
        const auto *v = find(key);
        if (!v) return nullptr;
        if (!v->is_object()) wrong(key, "an object");
        return &v->as_object();
    }
    template <typename F> void each(const char *key, F work) const {
        const auto *v = find(key);
        if (!v) return;
        if (!v->is_array()) wrong(key, "a list");
        for (const auto &item : v->as_array()) {
            if (!item.is_object()) wrong(key, "a list of objects");
            work(Reader(item.as_object(), name(key) + "."));
        }
    }
    /// True when the key asks for something: not null, 0, "", false, [] or {}.
    bool asks(const char *key) const {
        const auto *v = find(key);
        if (!v) return false;
        switch (v->kind()) {
        case json::kind::bool_: return v->as_bool();
        case json::kind::int64: return v->as_int64() != 0;
        case json::kind::uint64: return v->as_uint64() != 0;
        case json::kind::double_: return v->as_double() != 0;
        case json::kind::string: return !v->as_string().empty();
        case json::kind::array: return !v->as_array().empty();
        case json::kind::object: return !v->as_object().empty();
        default: return false;
        }
    }

  private:
    std::string as_text(const json::value &v, const char *key) const {
        std::string out(v.as_string());
        // Every text ends up in a C string somewhere (argv, mount, environment).
        if (out.find('\0') != std::string::npos) invalid("field " + name(key) + " contains a NUL byte");
        return out;
    }
    int64_t as_number(const json::value &v, const char *key) const {
        if (v.is_int64()) return v.as_int64();
        if (v.is_double()) { // 1e9 and 1.0 are numbers that Go reads into floats only; be lenient
            const double d = v.as_double();
            if (d >= -9e15 && d <= 9e15 && d == static_cast<double>(static_cast<int64_t>(d)))
                return static_cast<int64_t>(d);
        }
        wrong(key, "an integer");
    }
    template <typename T> T ranged(int64_t value, const char *key) const {
        if (value < static_cast<int64_t>(std::numeric_limits<T>::min()) ||
            (sizeof(T) < 8 && value > static_cast<int64_t>(std::numeric_limits<T>::max()))) {
            wrong(key, "an integer in range");
        }
        return static_cast<T>(value);
    }
    const json::object &object_;
    std::string path_;
};

void read_config(const Reader &r, ContainerConfig &c) {
    r.text("Hostname", c.hostname);
    r.text("Domainname", c.domainname);
    r.text("User", c.user);
    r.text("Image", c.image);
    r.text("WorkingDir", c.working_dir);
    r.text("StopSignal", c.stop_signal);
    r.text("MacAddress", c.mac_address);
    r.flag("AttachStdin", c.attach_stdin);
    r.flag("AttachStdout", c.attach_stdout);
    r.flag("AttachStderr", c.attach_stderr);
    r.flag("Tty", c.tty);
    r.flag("OpenStdin", c.open_stdin);
    r.flag("StdinOnce", c.stdin_once);
    r.list("Env", c.env);
    for (const auto &entry : c.env) {
        if (entry.empty() || entry[0] == '=') invalid("invalid environment variable: " + entry);
    }
    c.cmd_set = r.list("Cmd", c.cmd, true);
    c.entrypoint_set = r.list("Entrypoint", c.entrypoint, true);
    r.map("Labels", c.labels);
    for (const auto &key : r.keys("ExposedPorts")) {
        for (auto &port : expand_container_port(key))
            c.exposed_ports.push_back(std::move(port));
    }
    c.volumes = r.keys("Volumes");
    r.number("StopTimeout", c.stop_timeout);
    if (!c.working_dir.empty() && c.working_dir[0] != '/') {
        invalid("the working directory '" + c.working_dir + "' is invalid, it needs to be an absolute path");
    }
    if (!c.stop_signal.empty()) parse_signal(c.stop_signal);
    for (const auto &path : c.volumes) {
        if (path.empty() || path[0] != '/') {
            invalid("invalid volume specification: '" + path + "': mount path must be absolute");
        }
    }
    if (const auto *object = r.object("Healthcheck")) {
        Reader h(*object, "Healthcheck.");
        HealthcheckConfig health;
        h.list("Test", health.test);
        h.number("Interval", health.interval_ns);
        h.number("Timeout", health.timeout_ns);
        h.number("StartPeriod", health.start_period_ns);
        h.number("StartInterval", health.start_interval_ns);
        h.number_as("Retries", health.retries);
        for (const auto &[what, value] : {std::pair{"Interval", health.interval_ns},
                                          {"Timeout", health.timeout_ns},
                                          {"StartPeriod", health.start_period_ns},
                                          {"StartInterval", health.start_interval_ns}}) {
            if (value != 0 && value < 1000000) {
                invalid(std::string(what) + " in Healthcheck cannot be less than one millisecond");
            }
        }
        if (!health.test.empty() && health.test[0] != "NONE" && health.test[0] != "CMD" &&
            health.test[0] != "CMD-SHELL")
            invalid("Unknown type in Healthcheck.Test: \"" + health.test[0] +
                    "\" (NONE, CMD and CMD-SHELL are known)");
        if (health.retries < 0) invalid("Retries in Healthcheck cannot be negative");
        c.healthcheck = health;
    }
}

void read_mounts(const Reader &r, ContainerConfig &c) {
    r.list("Binds", c.binds);
    for (const auto &bind : c.binds)
        c.mounts.push_back(parse_bind(bind));
    r.each("Mounts", [&](const Reader &m) {
        MountRequest mount;
        m.text("Type", mount.type);
        m.text("Source", mount.source);
        m.text("Target", mount.target);
        m.flag("ReadOnly", mount.read_only);
        const std::string where = "invalid mount config for type \"" + mount.type + "\": ";
        if (mount.type != "bind" && mount.type != "volume" && mount.type != "tmpfs") {
            if (mount.type.empty()) invalid("invalid mount config: Type must be bind, volume or tmpfs");
            unsupported("mount type \"" + mount.type + "\" is not supported: use bind, volume or tmpfs");
        }
        if (mount.target.empty()) invalid(where + "field Target must not be empty");
        if (mount.target[0] != '/') {
            invalid(where + "invalid mount path: '" + mount.target + "' mount path must be absolute");
        }
        mount.target = clean_path(mount.target);
        if (mount.target == "/") invalid(where + "invalid specification: destination can't be '/'");
        if (mount.type == "bind") {
            if (mount.source.empty()) invalid(where + "field Source must not be empty");
            if (mount.source[0] != '/') {
                invalid(where + "invalid mount path: '" + mount.source + "' mount path must be absolute");
            }
        }
        if (mount.type == "tmpfs" && !mount.source.empty())
            invalid(where + "field Source must not be specified");
        if (const auto *object = m.object("BindOptions")) {
            Reader b(*object, "BindOptions.");
            b.text("Propagation", mount.propagation);
            b.flag("CreateMountpoint", mount.create_source);
            if (!mount.propagation.empty() && !is_propagation(mount.propagation)) {
                invalid(where + "invalid propagation mode: " + mount.propagation);
            }
            if (b.asks("NonRecursive") || b.asks("ReadOnlyNonRecursive") ||
                b.asks("ReadOnlyForceRecursive")) {
                unsupported("BindOptions: non-recursive and forced read-only binds are not supported");
            }
        }
        if (const auto *object = m.object("VolumeOptions")) {
            Reader v(*object, "VolumeOptions.");
            v.flag("NoCopy", mount.no_copy);
            if (v.asks("Subpath")) unsupported("VolumeOptions.Subpath is not supported");
            if (const auto *driver = v.object("DriverConfig")) {
                Reader d(*driver, "VolumeOptions.DriverConfig.");
                std::string name;
                d.text("Name", name);
                if ((!name.empty() && name != "local") || d.asks("Options")) {
                    unsupported("VolumeOptions.DriverConfig: only the driver \"local\" without options is "
                                "supported");
                }
            }
        }
        if (const auto *object = m.object("TmpfsOptions")) {
            Reader t(*object, "TmpfsOptions.");
            int64_t size = 0;
            t.number("SizeBytes", size);
            t.number_as("Mode", mount.tmpfs_mode);
            if (size < 0) invalid(where + "SizeBytes must not be negative");
            mount.tmpfs_size = static_cast<uint64_t>(size);
        }
        c.mounts.push_back(std::move(mount));
    });
    std::map<std::string, std::string> tmpfs;
    r.map("Tmpfs", tmpfs);
    for (const auto &[target, options] : tmpfs) {
        if (target.empty() || target[0] != '/') {
            invalid("invalid mount path: '" + target + "' mount path must be absolute");
        }
        MountRequest mount;
        mount.type = "tmpfs";
        mount.target = clean_path(target);
        mount.tmpfs_options = options;
        mount.from_bind = true;
        check_tmpfs_options(options);
        c.mounts.push_back(std::move(mount));
    }
    std::vector<std::string> targets;
    for (const auto &mount : c.mounts) {
        if (std::find(targets.begin(), targets.end(), mount.target) != targets.end()) {
            invalid("Duplicate mount point: " + mount.target);
        }
        targets.push_back(mount.target);
    }
}

void read_resources(const Reader &r, ContainerConfig &c) {
    r.number("Memory", c.memory);
    r.number("MemorySwap", c.memory_swap);
    r.number("MemoryReservation", c.memory_reservation);
    r.number("NanoCpus", c.nano_cpus);
    r.number("CpuShares", c.cpu_shares);
    r.number("CpuPeriod", c.cpu_period);
    r.number("CpuQuota", c.cpu_quota);
    r.number("PidsLimit", c.pids_limit);
    r.number("MemorySwappiness", c.memory_swappiness);
    r.text("CpusetCpus", c.cpuset_cpus);
    r.text("CpusetMems", c.cpuset_mems);
    r.number_as("BlkioWeight", c.blkio_weight);
    r.flag("OomKillDisable", c.oom_kill_disable);
    r.text("CgroupParent", c.cgroup_parent);
    r.list("DeviceCgroupRules", c.device_cgroup_rules);
    r.each("Ulimits", [&](const Reader &u) {
        UlimitRequest limit;
        u.text("Name", limit.name);
        u.number("Soft", limit.soft);
        u.number("Hard", limit.hard);
        rlimit_type(limit.name);
        if (limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard)) {
            invalid("ulimit soft limit must be less than or equal to hard limit: " +
                    std::to_string(limit.soft) + " > " + std::to_string(limit.hard));
        }
        c.ulimits.push_back(std::move(limit));
    });
    r.each("Devices", [&](const Reader &d) {
        DeviceRequest device;
        d.text("PathOnHost", device.host_path);
        d.text("PathInContainer", device.container_path);
        d.text("CgroupPermissions", device.permissions);
        if (device.host_path.empty() || device.host_path[0] != '/') {
            invalid("invalid device: PathOnHost \"" + device.host_path + "\" must be an absolute path");
        }
        if (device.container_path.empty()) device.container_path = device.host_path;
        if (device.permissions.empty()) device.permissions = "rwm";
        if (device.permissions.find_first_not_of("rwm") != std::string::npos) {
            invalid("invalid device: CgroupPermissions \"" + device.permissions +
                    "\" has other letters than rwm");
        }
        c.devices.push_back(std::move(device));
    });
    for (const auto &rule : c.device_cgroup_rules)
        parse_device_rule(rule);
    for (const char *key :
         {"BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps",
          "BlkioDeviceWriteIOps", "DeviceRequests", "KernelMemory", "KernelMemoryTCP", "CpuRealtimePeriod",
          "CpuRealtimeRuntime", "CpuCount", "CpuPercent", "IOMaximumIOps", "IOMaximumBandwidth"}) {
        if (r.asks(key)) unsupported(std::string("HostConfig.") + key + " is not supported");
    }
    if (c.memory_swappiness && *c.memory_swappiness != -1) {
        unsupported("HostConfig.MemorySwappiness is not supported");
    }
    if (c.memory < 0) invalid("Invalid value: " + std::to_string(c.memory) + ". Memory cannot be negative");
    if (c.memory != 0 && c.memory < (6 << 20)) invalid("Minimum memory limit allowed is 6MB");
    if (c.memory > 0 && c.memory_swap > 0 && c.memory_swap < c.memory) {
        invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if (c.memory == 0 && c.memory_swap > 0) {
        invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if (c.nano_cpus < 0) invalid("invalid NanoCPUs: must not be negative");
    if (c.nano_cpus > 0 && (c.cpu_period > 0 || c.cpu_quota > 0)) {
        invalid("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set");
    }
    if (c.cpu_period != 0 && (c.cpu_period < 1000 || c.cpu_period > 1000000)) {
        invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if (c.cpu_quota > 0 && c.cpu_quota < 1000) {
        invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if (c.blkio_weight != 0 && (c.blkio_weight < 10 || c.blkio_weight > 1000)) {
        invalid("Range of blkio weight is from 10 to 1000");
    }
}

void read_host_config(const Reader &r, ContainerConfig &c) {
    read_mounts(r, c);
    read_resources(r, c);
    r.text("ContainerIDFile", c.container_id_file);
    r.text("NetworkMode", c.network_mode);
    if (c.network_mode.empty()) c.network_mode = "default";
    r.text("Runtime", c.runtime);
    r.text("IpcMode", c.ipc_mode);
    r.text("PidMode", c.pid_mode);
    r.text("UTSMode", c.uts_mode);
    r.text("UsernsMode", c.userns_mode);
    r.text("CgroupnsMode", c.cgroupns_mode);
    check_modes(c);
    if (const auto *object = r.object("LogConfig")) {
        Reader l(*object, "LogConfig.");
        l.text("Type", c.log_driver);
        l.map("Config", c.log_options);
        check_log_options(c.log_driver, c.log_options);
    }
    if (const auto *object = r.object("RestartPolicy")) {
        Reader p(*object, "RestartPolicy.");
        p.text("Name", c.restart_policy);
        p.number_as("MaximumRetryCount", c.restart_max);
        const auto &policy = c.restart_policy;
        if (!policy.empty() && policy != "no" && policy != "always" && policy != "unless-stopped" &&
            policy != "on-failure") {
            invalid("invalid restart policy '" + policy + "'");
        }
        if (policy != "on-failure" && c.restart_max != 0) {
            invalid("maximum retry count cannot be used with restart policy '" + policy + "'");
        }
        if (c.restart_max < 0) invalid("maximum retry count cannot be negative");
    }
    r.flag("AutoRemove", c.auto_remove);
    if (c.auto_remove && !c.restart_policy.empty() && c.restart_policy != "no") {
        invalid("can't create 'AutoRemove' container with restart policy");
    }
    r.flag("Privileged", c.privileged);
    r.flag("PublishAllPorts", c.publish_all);
    r.flag("ReadonlyRootfs", c.read_only);
    r.flag("Init", c.init);
    r.list("CapAdd", c.cap_add);
    r.list("CapDrop", c.cap_drop);
    merge_capabilities(c.cap_add, c.cap_drop, false); // names are judged here, used at start
    r.list("Dns", c.dns);
    r.list("DnsOptions", c.dns_options);
    r.list("DnsSearch", c.dns_search);
    r.list("ExtraHosts", c.extra_hosts);
    for (const auto &entry : c.extra_hosts) {
        const auto colon = entry.find_first_of(":=");
        if (colon == std::string::npos || colon == 0) invalid("bad format for add-host: \"" + entry + "\"");
        if (entry.find_first_of("\r\n") != std::string::npos) invalid("bad format for add-host: line break");
    }
    r.list("GroupAdd", c.group_add);
    r.list("SecurityOpt", c.security_opt);
    parse_security_options(c.security_opt);
    r.list("VolumesFrom", c.volumes_from);
    r.list("Links", c.links);
    r.map("Sysctls", c.sysctls);
    check_sysctls(c);
    r.map("StorageOpt", c.storage_options);
    for (const auto &[key, value] : c.storage_options) {
        if (key != "size") unsupported("HostConfig.StorageOpt: option \"" + key + "\" is not supported");
        parse_bytes(value);
    }
    r.map("Annotations", c.annotations);
    r.number("ShmSize", c.shm_size);
    if (c.shm_size < 0) invalid("SHM size can not be less than 0");
    r.number("OomScoreAdj", c.oom_score_adj);
    if (c.oom_score_adj && (*c.oom_score_adj < -1000 || *c.oom_score_adj > 1000)) {
        invalid("Invalid value " + std::to_string(*c.oom_score_adj) +
                ", range for oom score adj is [-1000, 1000]");
    }
    c.masked_paths_set = r.list("MaskedPaths", c.masked_paths);
    c.read_only_paths_set = r.list("ReadonlyPaths", c.read_only_paths);
    if (const auto *v = r.find("ConsoleSize"); v && v->is_array() && v->as_array().size() == 2) {
        auto dimension = [&](const json::value &item) -> uint16_t {
            return item.is_int64() && item.as_int64() > 0 && item.as_int64() < 65536
                       ? static_cast<uint16_t>(item.as_int64())
                       : 0;
        };
        c.console_height = dimension(v->as_array()[0]);
        c.console_width = dimension(v->as_array()[1]);
    }
    if (const auto *bindings = r.object("PortBindings")) {
        for (const auto &[key, value] : *bindings) {
            const auto ports = expand_container_port(std::string(key));
            if (value.is_null()) continue;
            if (!value.is_array()) r.wrong("PortBindings", "an object of lists");
            for (const auto &item : value.as_array()) {
                if (!item.is_object()) r.wrong("PortBindings", "an object of lists of objects");
                Reader b(item.as_object(), "PortBindings.");
                for (const auto &port : ports) {
                    PortRequest request;
                    request.container_port = port;
                    b.text("HostIp", request.host_ip);
                    b.text("HostPort", request.host_port);
                    parse_host_ports(request.host_port);
                    c.ports.push_back(std::move(request));
                }
            }
        }
    }
    std::string text;
    r.text("VolumeDriver", text);
    if (!text.empty() && text != "local")
        unsupported("HostConfig.VolumeDriver \"" + text + "\" is not supported");
    text.clear();
    r.text("Isolation", text);
    if (!text.empty() && text != "default") invalid("invalid isolation '" + text + "' on linux");
    if (r.asks("Cgroup")) unsupported("HostConfig.Cgroup is not supported");
}

void read_networking(const Reader &r, ContainerConfig &c) {
    const auto *endpoints = r.object("EndpointsConfig");
    if (!endpoints) return;
    for (const auto &[key, value] : *endpoints) {
        NetworkRequest network;
        network.name = std::string(key);
        if (value.is_object()) {
            Reader e(value.as_object(), "EndpointsConfig." + network.name + ".");
            e.list("Aliases", network.aliases);
            e.list("Links", network.links);
            e.text("MacAddress", network.mac);
            if (const auto *ipam = e.object("IPAMConfig")) {
                Reader i(*ipam, "IPAMConfig.");
                i.text("IPv4Address", network.ipv4);
                i.text("IPv6Address", network.ipv6);
            }
        } else if (!value.is_null()) {
            r.wrong("EndpointsConfig", "an object of objects");
        }
        c.networks.push_back(std::move(network));
    }
}

json::value strings(const std::vector<std::string> &list, bool null_when_empty = true) {
    if (list.empty() && null_when_empty) return nullptr;
    json::array array;
    for (const auto &item : list)
        array.emplace_back(item);
    return array;
}
json::object map_of(const std::map<std::string, std::string> &map) {
    json::object object;
    for (const auto &[key, value] : map)
        object[key] = value;
    return object;
}
json::object set_of(const std::vector<std::string> &list) {
    json::object object;
    for (const auto &key : list)
        object[key] = json::object();
    return object;
}
template <typename T> json::value maybe(const std::optional<T> &value) {
    return value ? json::value(*value) : json::value(nullptr);
}

json::object config_object(const ContainerConfig &c) {
    json::object o;
    o["Hostname"] = c.hostname;
    o["Domainname"] = c.domainname;
    o["User"] = c.user;
    o["AttachStdin"] = c.attach_stdin;
    o["AttachStdout"] = c.attach_stdout;
    o["AttachStderr"] = c.attach_stderr;
    if (!c.exposed_ports.empty()) o["ExposedPorts"] = set_of(c.exposed_ports);
    o["Tty"] = c.tty;
    o["OpenStdin"] = c.open_stdin;
    o["StdinOnce"] = c.stdin_once;
    o["Env"] = strings(c.env, false);
    o["Cmd"] = strings(c.cmd, !c.cmd_set);
    if (c.healthcheck) {
        json::object h;
        h["Test"] = strings(c.healthcheck->test);
        h["Interval"] = c.healthcheck->interval_ns;
        h["Timeout"] = c.healthcheck->timeout_ns;
        h["StartPeriod"] = c.healthcheck->start_period_ns;
        if (c.healthcheck->start_interval_ns) h["StartInterval"] = c.healthcheck->start_interval_ns;
        h["Retries"] = c.healthcheck->retries;
        o["Healthcheck"] = std::move(h);
    }
    o["Image"] = c.image;
    o["Volumes"] = c.volumes.empty() ? json::value(nullptr) : json::value(set_of(c.volumes));
    o["WorkingDir"] = c.working_dir;
    o["Entrypoint"] = strings(c.entrypoint, !c.entrypoint_set);
    if (!c.mac_address.empty()) o["MacAddress"] = c.mac_address;
    o["OnBuild"] = nullptr;
    o["Labels"] = map_of(c.labels);
    if (!c.stop_signal.empty()) o["StopSignal"] = c.stop_signal;
    if (c.stop_timeout) o["StopTimeout"] = *c.stop_timeout;
    return o;
}

json::value mounts_value(const ContainerConfig &c) {
    json::array mounts;
    for (const auto &mount : c.mounts) {
        if (mount.from_bind) continue;
        json::object m;
        m["Type"] = mount.type;
        if (!mount.source.empty()) m["Source"] = mount.source;
        m["Target"] = mount.target;
        if (mount.read_only) m["ReadOnly"] = true;
        if (mount.type == "bind" && (!mount.propagation.empty() || mount.create_source)) {
            json::object b;
            if (!mount.propagation.empty()) b["Propagation"] = mount.propagation;
            if (mount.create_source) b["CreateMountpoint"] = true;
            m["BindOptions"] = std::move(b);
        }
        if (mount.no_copy) m["VolumeOptions"] = {{"NoCopy", true}};
        if (mount.tmpfs_size || mount.tmpfs_mode) {
            json::object t;
            if (mount.tmpfs_size) t["SizeBytes"] = static_cast<int64_t>(mount.tmpfs_size);
            if (mount.tmpfs_mode) t["Mode"] = mount.tmpfs_mode;
            m["TmpfsOptions"] = std::move(t);
        }
        mounts.push_back(std::move(m));
    }
    if (mounts.empty()) return nullptr;
    return mounts;
}

json::object host_config_object(const ContainerConfig &c) {
    json::object o;
    o["Binds"] = strings(c.binds);
    o["ContainerIDFile"] = c.container_id_file;
    o["LogConfig"] = {{"Type", c.log_driver.empty() ? "json-file" : c.log_driver},
                      {"Config", map_of(c.log_options)}};
    o["NetworkMode"] = c.network_mode;
    json::object ports;
    for (const auto &port : c.ports) {
        auto &list = ports[port.container_port];
        if (!list.is_array()) list = json::array();
        list.as_array().push_back({{"HostIp", port.host_ip}, {"HostPort", port.host_port}});
    }
    o["PortBindings"] = std::move(ports);
    o["RestartPolicy"] = {{"Name", c.restart_policy.empty() ? "no" : c.restart_policy},
                          {"MaximumRetryCount", c.restart_max}};
    o["AutoRemove"] = c.auto_remove;
    o["VolumeDriver"] = "";
    o["VolumesFrom"] = strings(c.volumes_from);
    o["CapAdd"] = strings(c.cap_add);
    o["CapDrop"] = strings(c.cap_drop);
    o["CgroupnsMode"] = c.cgroupns_mode.empty() ? "private" : c.cgroupns_mode;
    o["Dns"] = strings(c.dns, false);
    o["DnsOptions"] = strings(c.dns_options, false);
    o["DnsSearch"] = strings(c.dns_search, false);
    o["ExtraHosts"] = strings(c.extra_hosts);
    o["GroupAdd"] = strings(c.group_add);
    o["IpcMode"] = c.ipc_mode.empty() ? "private" : c.ipc_mode;
    o["Cgroup"] = "";
    o["Links"] = strings(c.links);
    o["OomScoreAdj"] = c.oom_score_adj.value_or(0);
    o["PidMode"] = c.pid_mode;
    o["Privileged"] = c.privileged;
    o["PublishAllPorts"] = c.publish_all;
    o["ReadonlyRootfs"] = c.read_only;
    o["SecurityOpt"] = strings(c.security_opt);
    if (!c.storage_options.empty()) o["StorageOpt"] = map_of(c.storage_options);
    json::object tmpfs;
    for (const auto &mount : c.mounts) {
        if (mount.from_bind && mount.type == "tmpfs") tmpfs[mount.target] = mount.tmpfs_options;
    }
    if (!tmpfs.empty()) o["Tmpfs"] = std::move(tmpfs);
    o["UTSMode"] = c.uts_mode;
    o["UsernsMode"] = c.userns_mode;
    o["ShmSize"] = c.shm_size ? c.shm_size : int64_t{64} << 20;
    if (!c.sysctls.empty()) o["Sysctls"] = map_of(c.sysctls);
    if (!c.annotations.empty()) o["Annotations"] = map_of(c.annotations);
    o["Runtime"] = c.runtime;
    o["ConsoleSize"] = {c.console_height, c.console_width};
    o["Isolation"] = "";
    o["CpuShares"] = c.cpu_shares;
    o["Memory"] = c.memory;
    o["NanoCpus"] = c.nano_cpus;
    o["CgroupParent"] = c.cgroup_parent;
    o["BlkioWeight"] = c.blkio_weight;
    if (!c.cgroup_parent.empty()) {
        unsupported(
            "HostConfig.CgroupParent is not supported: set engine.cgroup_parent in the configuration");
    }
    for (const char *key : {"BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps",
                            "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps"}) {
        o[key] =
            key == std::string_view("BlkioWeightDevice") ? json::value(json::array()) : json::value(nullptr);
    }
    o["CpuPeriod"] = c.cpu_period;
    o["CpuQuota"] = c.cpu_quota;
    o["CpuRealtimePeriod"] = 0;
    o["CpuRealtimeRuntime"] = 0;
    o["CpusetCpus"] = c.cpuset_cpus;
    o["CpusetMems"] = c.cpuset_mems;
    json::array devices;
    for (const auto &d : c.devices) {
        devices.push_back({{"PathOnHost", d.host_path},
                           {"PathInContainer", d.container_path},
                           {"CgroupPermissions", d.permissions}});
    }
    o["Devices"] = std::move(devices);
    o["DeviceCgroupRules"] = strings(c.device_cgroup_rules);
    o["DeviceRequests"] = nullptr;
    o["KernelMemory"] = 0;
    o["KernelMemoryTCP"] = 0;
    o["MemoryReservation"] = c.memory_reservation;
    o["MemorySwap"] = c.memory_swap;
    o["MemorySwappiness"] = nullptr;
    o["OomKillDisable"] = c.oom_kill_disable.value_or(false);
    o["PidsLimit"] = maybe(c.pids_limit);
    if (c.ulimits.empty()) {
        o["Ulimits"] = nullptr;
    } else {
        json::array ulimits;
        for (const auto &u : c.ulimits) {
            ulimits.push_back({{"Name", u.name}, {"Hard", u.hard}, {"Soft", u.soft}});
        }
        o["Ulimits"] = std::move(ulimits);
    }
    o["CpuCount"] = 0;
    o["CpuPercent"] = 0;
    o["IOMaximumIOps"] = 0;
    o["IOMaximumBandwidth"] = 0;
    if (auto mounts = mounts_value(c); !mounts.is_null()) o["Mounts"] = std::move(mounts);
    // An empty list given on purpose means "mask nothing" and must survive the round trip.
    o["MaskedPaths"] = c.privileged && !c.masked_paths_set ? json::value(nullptr)
                       : c.masked_paths_set                ? strings(c.masked_paths, false)
                                                           : strings(default_masked_paths());
    o["ReadonlyPaths"] = c.privileged && !c.read_only_paths_set ? json::value(nullptr)
                         : c.read_only_paths_set                ? strings(c.read_only_paths, false)
                                                                : strings(default_read_only_paths());
    if (c.init) o["Init"] = *c.init;
    return o;
}

} // namespace

ContainerConfig parse_container_config(const std::string &text) {
    if (text.size() > kMaxBody) invalid("container configuration is larger than 4 MiB");
    boost::system::error_code error;
    json::parse_options options;
    options.max_depth = 32;
    const json::value value = json::parse(text, error, {}, options);
    if (error) invalid("invalid JSON: " + error.message());
    if (!value.is_object()) invalid("invalid JSON: the body must be an object");
    ContainerConfig config;
    config.restart_policy.clear(); // "" is "not given": create() makes it "no", update() leaves what is
    const Reader reader(value.as_object(), "");
    read_config(reader, config);
    if (const auto *host = reader.object("HostConfig")) {
        read_host_config(Reader(*host, "HostConfig."), config);
    }
    if (const auto *networking = reader.object("NetworkingConfig")) {
        read_networking(Reader(*networking, "NetworkingConfig."), config);
    }
    return config;
}

std::string config_json(const ContainerConfig &config) { return json::serialize(config_object(config)); }
std::string host_config_json(const ContainerConfig &config) {
    return json::serialize(host_config_object(config));
}

std::string encode_container_config(const ContainerConfig &c) {
    json::object o = config_object(c);
    json::object host = host_config_object(c);
    // What is shown as a default but was not asked for stays unset in the record.
    host["LogConfig"].as_object()["Type"] = c.log_driver;
    host["CgroupnsMode"] = c.cgroupns_mode;
    host["IpcMode"] = c.ipc_mode;
    host["ShmSize"] = c.shm_size;
    host["OomScoreAdj"] = maybe(c.oom_score_adj);
    host["OomKillDisable"] = maybe(c.oom_kill_disable);
    if (!c.masked_paths_set) host["MaskedPaths"] = nullptr;
    if (!c.read_only_paths_set) host["ReadonlyPaths"] = nullptr;
    o["HostConfig"] = std::move(host);
    json::object endpoints;
    for (const auto &network : c.networks) {
        json::object e;
        e["Aliases"] = strings(network.aliases);
        e["Links"] = strings(network.links);
        e["MacAddress"] = network.mac;
        e["IPAMConfig"] = {{"IPv4Address", network.ipv4}, {"IPv6Address", network.ipv6}};
        endpoints[network.name] = std::move(e);
    }
    o["NetworkingConfig"] = {{"EndpointsConfig", std::move(endpoints)}};
    return json::serialize(o);
}

ContainerConfig decode_container_config(const std::string &text) { return parse_container_config(text); }

} // namespace gantry
