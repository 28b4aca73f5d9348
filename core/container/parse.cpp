// The small languages of a create request. Everything here is text in, values out, so that what an
// untrusted client can send is judged in one place and tested without a kernel.
#include "core/container/parse.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <sstream>
#include <strings.h>

namespace gantry {

namespace {

[[noreturn]] void invalid(const std::string &message) { throw Error(ErrorClass::kInvalidArgument, message); }

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts;
    size_t from = 0;
    for (;;) {
        const size_t to = text.find(separator, from);
        parts.emplace_back(text.substr(from, to == text.npos ? to : to - from));
        if (to == text.npos) return parts;
        from = to + 1;
    }
}

template <typename T> bool to_number(std::string_view text, T &value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

uint16_t port_number(std::string_view text, const std::string &whole) {
    uint32_t value = 0;
    if (!to_number(text, value) || value > 65535) invalid("invalid port specification: \"" + whole + "\"");
    return static_cast<uint16_t>(value);
}

struct SignalName {
    const char *name;
    int number;
};
constexpr SignalName kSignals[] = {
    {"ABRT", SIGABRT},     {"ALRM", SIGALRM},   {"BUS", SIGBUS},   {"CHLD", SIGCHLD}, {"CLD", SIGCHLD},
    {"CONT", SIGCONT},     {"FPE", SIGFPE},     {"HUP", SIGHUP},   {"ILL", SIGILL},   {"INT", SIGINT},
    {"IO", SIGIO},         {"IOT", SIGIOT},     {"KILL", SIGKILL}, {"PIPE", SIGPIPE}, {"POLL", SIGPOLL},
    {"PROF", SIGPROF},     {"PWR", SIGPWR},     {"QUIT", SIGQUIT}, {"SEGV", SIGSEGV}, {"STKFLT", SIGSTKFLT},
    {"STOP", SIGSTOP},     {"SYS", SIGSYS},     {"TERM", SIGTERM}, {"TRAP", SIGTRAP}, {"TSTP", SIGTSTP},
    {"TTIN", SIGTTIN},     {"TTOU", SIGTTOU},   {"URG", SIGURG},   {"USR1", SIGUSR1}, {"USR2", SIGUSR2},
    {"VTALRM", SIGVTALRM}, {"WINCH", SIGWINCH}, {"XCPU", SIGXCPU}, {"XFSZ", SIGXFSZ},
};
// The kernel's numbers: glibc's SIGRTMIN is 34, and so is Docker's.
constexpr int kRtMin = 34, kRtMax = 64;

} // namespace

bool is_propagation(const std::string &word) {
    static const std::array<const char *, 6> kWords{"private", "rprivate", "shared",
                                                    "rshared", "slave",    "rslave"};
    return std::find(kWords.begin(), kWords.end(), word) != kWords.end();
}

bool valid_volume_name(const std::string &name) {
    bool good = name.size() >= 2 && name.size() <= 255 && std::isalnum(static_cast<unsigned char>(name[0]));
    for (unsigned char c : name)
        good = good && (std::isalnum(c) || c == '_' || c == '.' || c == '-');
    return good;
}

std::string clean_path(const std::string &path) {
    std::vector<std::string> kept;
    for (auto &part : split(path, '/')) {
        if (part.empty() || part == ".") continue;
        if (part == "..") {
            if (!kept.empty()) kept.pop_back();
            continue;
        }
        kept.push_back(std::move(part));
    }
    std::string out;
    for (const auto &part : kept)
        out += "/" + part;
    return out.empty() ? "/" : out;
}

MountRequest parse_bind(const std::string &text) {
    const std::string bad = "invalid volume specification: '" + text + "'";
    const auto parts = split(text, ':');
    MountRequest mount;
    mount.from_bind = true;
    if (parts.size() > 3) invalid(bad);
    if (parts.size() == 1) {
        mount.target = parts[0];
    } else {
        mount.source = parts[0];
        mount.target = parts[1];
        if (mount.source.empty()) invalid(bad);
        if (parts.size() == 3) mount.mode = parts[2];
    }
    if (mount.target.empty()) invalid(bad);
    if (mount.target[0] != '/') {
        invalid(bad + ": invalid mount config for type \"" +
                (!mount.source.empty() && mount.source[0] == '/' ? "bind" : "volume") +
                "\": invalid mount path: '" + mount.target + "' mount path must be absolute");
    }
    mount.target = clean_path(mount.target);
    if (mount.target == "/") invalid(bad + ": invalid specification: destination can't be '/'");
    if (!mount.source.empty() && mount.source[0] == '/') {
        mount.type = "bind";
        mount.source = clean_path(mount.source);
        mount.create_source = true;
    } else {
        mount.type = "volume";
        if (!mount.source.empty() && !valid_volume_name(mount.source)) {
            invalid("create " + mount.source + ": \"" + mount.source +
                    "\" includes invalid characters for a local volume name, only "
                    "\"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, "
                    "use absolute path");
        }
    }
    if (parts.size() == 3) {
        bool access = false, label = false, copy = false;
        for (const auto &word : split(mount.mode, ',')) {
            bool good = true;
            if (word == "ro" || word == "rw" || word == "RO" || word == "RW") {
                good = !std::exchange(access, true);
                mount.read_only = word == "ro" || word == "RO";
            } else if (word == "z" || word == "Z") {
                good = !std::exchange(label, true); // no SELinux here: nothing to relabel
            } else if (word == "nocopy") {
                good = !std::exchange(copy, true) && mount.type == "volume";
                mount.no_copy = true;
            } else if (is_propagation(word)) {
                good = mount.propagation.empty() && mount.type == "bind";
                mount.propagation = word;
            } else if (word != "consistent" && word != "cached" && word != "delegated") {
                good = false;
            }
            if (!good) invalid("invalid mode: " + mount.mode);
        }
    }
    return mount;
}

void check_tmpfs_options(const std::string &options) {
    static const std::array<const char *, 19> kWords{
        "ro",         "rw",       "exec",       "noexec",      "suid",         "nosuid",  "dev",
        "nodev",      "sync",     "async",      "dirsync",     "atime",        "noatime", "diratime",
        "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime"};
    static const std::array<const char *, 8> kKeys{"size",      "mode",      "uid",  "gid",
                                                   "nr_inodes", "nr_blocks", "mpol", "defaults"};
    if (options.empty()) return;
    for (const auto &option : split(options, ',')) {
        const std::string key = option.substr(0, option.find('='));
        const bool word = std::find(kWords.begin(), kWords.end(), option) != kWords.end();
        const bool keyed = std::find(kKeys.begin(), kKeys.end(), key) != kKeys.end();
        if (!word && !keyed && !is_propagation(option)) invalid("invalid tmpfs option [\"" + option + "\"]");
    }
}

std::vector<std::string> expand_container_port(const std::string &text) {
    std::string protocol = "tcp", range = text;
    if (const auto slash = text.find('/'); slash != text.npos) {
        protocol = text.substr(slash + 1);
        range = text.substr(0, slash);
        std::transform(protocol.begin(), protocol.end(), protocol.begin(), ::tolower);
    }
    if (protocol != "tcp" && protocol != "udp" && protocol != "sctp") {
        invalid("invalid port specification: \"" + text + "\": invalid proto: " + protocol);
    }
    const auto [from, to] = parse_host_ports(range);
    if (from == 0) invalid("invalid port specification: \"" + text + "\"");
    std::vector<std::string> ports;
    for (uint32_t port = from; port <= to; ++port)
        ports.push_back(std::to_string(port) + "/" + protocol);
    return ports;
}

std::pair<uint16_t, uint16_t> parse_host_ports(const std::string &text) {
    if (text.empty()) return {0, 0};
    const auto dash = text.find('-');
    if (dash == text.npos) {
        const uint16_t port = port_number(text, text);
        return {port, port};
    }
    const uint16_t from = port_number(std::string_view(text).substr(0, dash), text);
    const uint16_t to = port_number(std::string_view(text).substr(dash + 1), text);
    if (from == 0 || to < from) invalid("invalid port specification: \"" + text + "\"");
    return {from, to};
}

std::vector<PortBinding> port_bindings(const ContainerConfig &config) {
    std::vector<PortBinding> out;
    auto add = [&](const std::string &port, const std::string &ip, const std::string &host) {
        PortBinding binding;
        const auto slash = port.find('/');
        binding.container_port = port_number(std::string_view(port).substr(0, slash), port);
        const std::string protocol = port.substr(slash + 1);
        binding.protocol = protocol == "udp" ? GANTRY_UDP : protocol == "sctp" ? GANTRY_SCTP : GANTRY_TCP;
        binding.host_ip = ip;
        std::tie(binding.host_port, binding.host_port_end) = parse_host_ports(host);
        out.push_back(std::move(binding));
    };
    for (const auto &port : config.ports)
        add(port.container_port, port.host_ip, port.host_port);
    if (config.publish_all) {
        for (const auto &port : config.exposed_ports) {
            const bool bound = std::any_of(config.ports.begin(), config.ports.end(),
                                           [&](const auto &p) { return p.container_port == port; });
            if (!bound) add(port, "", "");
        }
    }
    return out;
}

int parse_signal(const std::string &text) {
    int number = 0;
    if (to_number(text, number)) {
        if (number > 0 && number <= kRtMax) return number;
        invalid("Invalid signal: " + text);
    }
    std::string name = text;
    std::transform(name.begin(), name.end(), name.begin(), ::toupper);
    if (name.starts_with("SIG")) name.erase(0, 3);
    for (const auto &signal : kSignals) {
        if (name == signal.name) return signal.number;
    }
    if (name == "RTMIN") return kRtMin;
    if (name == "RTMAX") return kRtMax;
    if (name.starts_with("RTMIN+") && to_number(std::string_view(name).substr(6), number) && number >= 0 &&
        number <= kRtMax - kRtMin) {
        return kRtMin + number;
    }
    if (name.starts_with("RTMAX-") && to_number(std::string_view(name).substr(6), number) && number >= 0 &&
        number <= kRtMax - kRtMin) {
        return kRtMax - number;
    }
    invalid("Invalid signal: " + text);
}

std::string signal_name(int signal) {
    for (const auto &entry : kSignals) {
        if (entry.number == signal) return std::string("SIG") + entry.name;
    }
    return std::to_string(signal);
}

std::string rlimit_type(const std::string &name) {
    static const std::array<const char *, 15> kNames{"core",    "cpu",      "data",   "fsize",      "locks",
                                                     "memlock", "msgqueue", "nice",   "nofile",     "nproc",
                                                     "rss",     "rtprio",   "rttime", "sigpending", "stack"};
    if (std::find(kNames.begin(), kNames.end(), name) == kNames.end())
        invalid("invalid ulimit type: " + name);
    std::string type = "RLIMIT_" + name;
    std::transform(type.begin(), type.end(), type.begin(), ::toupper);
    return type;
}

uint64_t parse_bytes(const std::string &text) {
    size_t digits = 0;
    while (digits < text.size() && std::isdigit(static_cast<unsigned char>(text[digits])))
        ++digits;
    uint64_t value = 0;
    if (!to_number(std::string_view(text).substr(0, digits), value)) invalid("invalid size: '" + text + "'");
    std::string unit = text.substr(digits);
    std::transform(unit.begin(), unit.end(), unit.begin(), ::tolower);
    if (!unit.empty() && unit[0] == ' ') unit.erase(0, 1);
    int shift = -1;
    if (unit.empty() || unit == "b") shift = 0;
    for (const auto &[letter, bits] : {std::pair{'k', 10}, {'m', 20}, {'g', 30}, {'t', 40}, {'p', 50}}) {
        const std::string l(1, letter);
        if (unit == l || unit == l + "b" || unit == l + "ib") shift = bits;
    }
    if (shift < 0 || (shift > 0 && value >> (63 - shift))) invalid("invalid size: '" + text + "'");
    return value << shift;
}

SpecDeviceRule parse_device_rule(const std::string &text) {
    const std::string bad = "invalid device cgroup rule format: '" + text + "'";
    SpecDeviceRule rule;
    rule.allow = true;
    std::istringstream in(text);
    std::string type, numbers, access, rest;
    if (!(in >> type >> numbers >> access) || in >> rest || type.size() != 1 ||
        std::string_view("abc").find(type[0]) == std::string_view::npos) {
        invalid(bad);
    }
    rule.type = type[0];
    const auto colon = numbers.find(':');
    if (colon == numbers.npos) invalid(bad);
    auto part = [&](std::string_view word) -> int64_t {
        int64_t value = 0;
        if (word == "*") return -1;
        if (!to_number(word, value) || value < 0) invalid(bad);
        return value;
    };
    rule.major = part(std::string_view(numbers).substr(0, colon));
    rule.minor = part(std::string_view(numbers).substr(colon + 1));
    if (access.find_first_not_of("rwm") != access.npos || access.size() > 3) invalid(bad);
    rule.access = access;
    return rule;
}

std::vector<std::string> merge_capabilities(const std::vector<std::string> &add,
                                            const std::vector<std::string> &drop, bool privileged) {
    auto all = all_capabilities();
    if (privileged) return all;
    auto normal = [&](const std::string &name, const char *list) {
        std::string upper = name;
        std::transform(upper.begin(), upper.end(), upper.begin(), ::toupper);
        if (upper == "ALL") return upper;
        if (!upper.starts_with("CAP_")) upper = "CAP_" + upper;
        if (std::find(all.begin(), all.end(), upper) == all.end()) {
            invalid(std::string("invalid ") + list + ": unknown capability: \"" + name + "\"");
        }
        return upper;
    };
    std::vector<std::string> added, dropped;
    for (const auto &name : add)
        added.push_back(normal(name, "CapAdd"));
    for (const auto &name : drop)
        dropped.push_back(normal(name, "CapDrop"));
    auto has = [](const auto &list, const std::string &name) {
        return std::find(list.begin(), list.end(), name) != list.end();
    };
    const auto defaults = default_capabilities();
    const bool add_all = has(added, "ALL"), drop_all = has(dropped, "ALL");
    std::vector<std::string> out;
    for (const auto &name : all) {
        bool on = drop_all  ? has(added, name) || add_all
                  : add_all ? !has(dropped, name)
                            : (has(defaults, name) || has(added, name)) && !has(dropped, name);
        // "--cap-add ALL --cap-drop X": X goes; "--cap-drop ALL --cap-add X": only X stays.
        if (drop_all && add_all && has(dropped, name)) on = false;
        if (on) out.push_back(name);
    }
    return out;
}

SecurityOptions parse_security_options(const std::vector<std::string> &options) {
    SecurityOptions out;
    for (const auto &option : options) {
        if (option == "no-new-privileges") {
            out.no_new_privileges = true;
            continue;
        }
        if (option == "disable") continue;
        auto at = option.find('=');
        if (at == option.npos) at = option.find(':'); // Docker's old form
        if (at == option.npos) invalid("invalid --security-opt 1: \"" + option + "\"");
        const std::string key = option.substr(0, at), value = option.substr(at + 1);
        if (key == "no-new-privileges") {
            if (value != "true" && value != "false" && value != "1" && value != "0") {
                invalid("invalid --security-opt 2: \"" + option + "\"");
            }
            out.no_new_privileges = value == "true" || value == "1";
        } else if (key == "seccomp") {
            out.seccomp = value;
            if (value == "builtin") out.seccomp.clear();
            if (!out.seccomp.empty() && out.seccomp != "unconfined") parse_seccomp_profile(value, {});
        } else if (key == "apparmor") {
            if (value != "unconfined") {
                throw Error(ErrorClass::kUnsupported,
                            "security option \"" + option + "\": AppArmor profiles are not supported",
                            "use apparmor=unconfined");
            }
        } else if (key == "label") {
            if (value != "disable") {
                throw Error(ErrorClass::kUnsupported,
                            "security option \"" + option + "\": SELinux labels are not supported",
                            "use label=disable");
            }
        } else if (key == "systempaths") {
            if (value != "unconfined") invalid("invalid --security-opt 2: \"" + option + "\"");
            out.unmask_system_paths = true;
        } else {
            invalid("invalid --security-opt 2: \"" + option + "\"");
        }
    }
    return out;
}

void check_modes(const ContainerConfig &c) {
    auto container = [](const std::string &mode) {
        return mode.starts_with("container:") && mode.size() > 10;
    };
    if (!c.ipc_mode.empty() && c.ipc_mode != "private" && c.ipc_mode != "shareable" && c.ipc_mode != "host" &&
        c.ipc_mode != "none" && !container(c.ipc_mode)) {
        invalid("invalid IPC mode: " + c.ipc_mode);
    }
    if (!c.pid_mode.empty() && c.pid_mode != "host" && !container(c.pid_mode)) {
        invalid("invalid PID mode: " + c.pid_mode);
    }
    if (!c.uts_mode.empty() && c.uts_mode != "host") invalid("invalid UTS mode: " + c.uts_mode);
    if (!c.userns_mode.empty() && c.userns_mode != "host") {
        throw Error(ErrorClass::kUnsupported,
                    "HostConfig.UsernsMode \"" + c.userns_mode + "\" is not supported: only \"host\"");
    }
    if (!c.cgroupns_mode.empty() && c.cgroupns_mode != "host" && c.cgroupns_mode != "private") {
        invalid("invalid cgroup namespace mode: " + c.cgroupns_mode);
    }
    if (c.network_mode.starts_with("container:")) {
        if (c.network_mode.size() == 10) {
            invalid("Invalid network mode: invalid container format container:<name|id>");
        }
        if (!c.hostname.empty()) {
            // Docker's CLI leaves Hostname out; a body that sends one contradicts itself.
            invalid("conflicting options: hostname and the network mode");
        }
        if (!c.ports.empty() || c.publish_all) {
            invalid("conflicting options: port publishing and the container type network mode");
        }
    }
    if (c.uts_mode == "host" && !c.hostname.empty())
        invalid("conflicting options: hostname and the UTS mode");
}

void check_log_options(const std::string &driver, const std::map<std::string, std::string> &options) {
    if (!driver.empty() && driver != "json-file" && driver != "none") {
        throw Error(ErrorClass::kUnsupported,
                    "HostConfig.LogConfig: log driver \"" + driver + "\" is not supported",
                    "use json-file or none");
    }
    for (const auto &[key, value] : options) {
        if (key == "max-size") {
            if (value != "-1") parse_bytes(value);
        } else if (key == "max-file") {
            uint32_t files = 0;
            if (!to_number(value, files) || files < 1) invalid("invalid max-file: \"" + value + "\"");
        } else {
            throw Error(ErrorClass::kUnsupported,
                        "HostConfig.LogConfig: log option \"" + key + "\" is not supported");
        }
    }
}

void check_sysctls(const ContainerConfig &c) {
    static const std::array<const char *, 8> kIpc{"kernel.msgmax", "kernel.msgmnb",         "kernel.msgmni",
                                                  "kernel.sem",    "kernel.shmall",         "kernel.shmmax",
                                                  "kernel.shmmni", "kernel.shm_rmid_forced"};
    for (const auto &[key, value] : c.sysctls) {
        if (key.find('/') != key.npos || key.find("..") != key.npos)
            invalid("sysctl '" + key + "' is not allowed");
        const bool ipc =
            key.starts_with("fs.mqueue.") || std::find(kIpc.begin(), kIpc.end(), key) != kIpc.end();
        const bool net = key.starts_with("net.");
        const bool uts = key == "kernel.domainname";
        if (!ipc && !net && !uts) invalid("sysctl '" + key + "' is not allowed");
        if (ipc && c.ipc_mode == "host") invalid("sysctl '" + key + "' not allowed in host ipc namespace");
        if (net && c.network_mode == "host")
            invalid("sysctl '" + key + "' not allowed in host network namespace");
        if (uts && c.uts_mode == "host") invalid("sysctl '" + key + "' not allowed in host UTS namespace");
    }
}

const std::vector<std::string> &default_masked_paths() {
    static const std::vector<std::string> kPaths{"/proc/asound",
                                                 "/proc/acpi",
                                                 "/proc/kcore",
                                                 "/proc/keys",
                                                 "/proc/latency_stats",
                                                 "/proc/timer_list",
                                                 "/proc/timer_stats",
                                                 "/proc/sched_debug",
                                                 "/proc/scsi",
                                                 "/sys/firmware",
                                                 "/sys/devices/virtual/powercap"};
    return kPaths;
}

const std::vector<std::string> &default_read_only_paths() {
    static const std::vector<std::string> kPaths{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                                 "/proc/sysrq-trigger"};
    return kPaths;
}

UserIds resolve_user(const std::string &user, const std::vector<std::string> &group_add,
                     const std::string &passwd, const std::string &group) {
    UserIds ids;
    const auto colon = user.find(':');
    const std::string user_part = user.empty() ? "0" : user.substr(0, colon);
    const std::string group_part = colon == user.npos ? "" : user.substr(colon + 1);
    uint32_t number = 0;
    const bool numeric = to_number(user_part, number) && number <= 0x7fffffff;
    bool found = false;
    std::string login = user_part;
    for (const auto &line : split(passwd, '\n')) {
        const auto fields = split(line, ':');
        uint32_t uid = 0, gid = 0;
        if (fields.size() < 4 || !to_number(fields[2], uid) || !to_number(fields[3], gid)) continue;
        if (fields[0] != user_part && !(numeric && uid == number)) continue;
        ids.uid = uid;
        ids.gid = gid;
        login = fields[0];
        if (fields.size() > 5 && !fields[5].empty()) ids.home = fields[5];
        found = true;
        break;
    }
    if (!found) {
        if (!numeric) invalid("unable to find user " + user_part + ": no matching entries in passwd file");
        ids.uid = number;
    }
    auto find_group = [&](const std::string &name) -> uint32_t {
        uint32_t wanted = 0;
        const bool is_number = to_number(name, wanted) && wanted <= 0x7fffffff;
        for (const auto &line : split(group, '\n')) {
            const auto fields = split(line, ':');
            uint32_t gid = 0;
            if (fields.size() < 3 || !to_number(fields[2], gid)) continue;
            if (fields[0] == name || (is_number && gid == wanted)) return gid;
        }
        if (is_number) return wanted;
        invalid("unable to find group " + name + ": no matching entries in group file");
    };
    if (!group_part.empty()) {
        ids.gid = find_group(group_part);
    } else if (found) {
        // Supplementary groups count only when no group was named, as Docker has it.
        for (const auto &line : split(group, '\n')) {
            const auto fields = split(line, ':');
            uint32_t gid = 0;
            if (fields.size() < 4 || !to_number(fields[2], gid)) continue;
            const auto members = split(fields[3], ',');
            if (std::find(members.begin(), members.end(), login) != members.end()) ids.groups.push_back(gid);
        }
    }
    for (const auto &name : group_add)
        ids.groups.push_back(find_group(name));
    std::sort(ids.groups.begin(), ids.groups.end());
    ids.groups.erase(std::unique(ids.groups.begin(), ids.groups.end()), ids.groups.end());
    return ids;
}

void set_env(std::vector<std::string> &env, const std::string &entry, bool replace) {
    const std::string prefix = entry.substr(0, entry.find('=')) + "=";
    for (auto &old : env) {
        if (old.starts_with(prefix)) {
            if (replace) old = entry;
            return;
        }
    }
    env.push_back(entry);
}

std::vector<std::string> merge_env(const std::vector<std::string> &base,
                                   const std::vector<std::string> &over) {
    std::vector<std::string> env;
    for (const auto *list : {&base, &over}) {
        for (const auto &entry : *list) {
            if (entry.find('=') != entry.npos) {
                set_env(env, entry, true);
            } else {
                std::erase_if(env, [&](const auto &old) { return old.starts_with(entry + "="); });
            }
        }
    }
    return env;
}

int64_t restart_delay_ms(int failures) {
    int64_t delay = 100;
    for (int i = 0; i < failures && delay < 60000; ++i)
        delay *= 2;
    return std::min<int64_t>(delay, 60000);
}

} // namespace gantry
