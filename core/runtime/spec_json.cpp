// The document as OCI JSON, for bundles of external runtimes, and Docker's seccomp profiles from JSON.
#include "core/runtime/spec.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <boost/json.hpp>
#include <fmt/format.h>
#include <fstream>
#include <sys/utsname.h>

namespace json = boost::json;

namespace gantry {
namespace {

json::array strings(const std::vector<std::string> &values) {
    json::array out;
    for (const auto &value : values)
        out.emplace_back(value);
    return out;
}

json::object process_json(const SpecProcess &p) {
    json::object user{{"uid", p.uid}, {"gid", p.gid}, {"umask", p.umask}};
    if (!p.additional_gids.empty()) {
        json::array gids;
        for (uint32_t gid : p.additional_gids)
            gids.emplace_back(gid);
        user["additionalGids"] = gids;
    }
    json::array limits;
    for (const auto &limit : p.rlimits)
        limits.push_back(json::object{{"type", limit.type}, {"soft", limit.soft}, {"hard", limit.hard}});
    json::object out{{"terminal", p.terminal},
                     {"user", user},
                     {"args", strings(p.args)},
                     {"env", strings(p.env)},
                     {"cwd", p.cwd},
                     {"noNewPrivileges", p.no_new_privileges},
                     {"capabilities", json::object{{"bounding", strings(p.capabilities)},
                                                   {"effective", strings(p.capabilities)},
                                                   {"permitted", strings(p.capabilities)},
                                                   {"inheritable", strings(p.inheritable_capabilities)},
                                                   {"ambient", strings(p.ambient_capabilities)}}}};
    if (p.terminal && (p.console_height || p.console_width))
        out["consoleSize"] = json::object{{"height", p.console_height}, {"width", p.console_width}};
    if (!limits.empty()) out["rlimits"] = limits;
    if (p.oom_score_adj) out["oomScoreAdj"] = *p.oom_score_adj;
    if (!p.apparmor_profile.empty()) out["apparmorProfile"] = p.apparmor_profile;
    return out;
}

json::object resources_json(const SpecResources &r) {
    json::object out, memory, cpu;
    if (r.memory_limit) memory["limit"] = *r.memory_limit;
    if (r.memory_reservation) memory["reservation"] = *r.memory_reservation;
    if (r.memory_swap) memory["swap"] = *r.memory_swap;
    if (r.disable_oom_killer) memory["disableOOMKiller"] = true;
    if (r.cpu_shares) cpu["shares"] = *r.cpu_shares;
    if (r.cpu_quota) cpu["quota"] = *r.cpu_quota;
    if (r.cpu_period) cpu["period"] = *r.cpu_period;
    if (!r.cpuset_cpus.empty()) cpu["cpus"] = r.cpuset_cpus;
    if (!r.cpuset_mems.empty()) cpu["mems"] = r.cpuset_mems;
    json::array devices;
    for (const auto &rule : r.devices) {
        json::object device{
            {"allow", rule.allow}, {"type", std::string(1, rule.type)}, {"access", rule.access}};
        if (rule.major >= 0) device["major"] = rule.major;
        if (rule.minor >= 0) device["minor"] = rule.minor;
        devices.push_back(device);
    }
    if (!devices.empty()) out["devices"] = devices;
    if (!memory.empty()) out["memory"] = memory;
    if (!cpu.empty()) out["cpu"] = cpu;
    if (r.pids_limit) out["pids"] = json::object{{"limit", *r.pids_limit}};
    if (r.blkio_weight && *r.blkio_weight) out["blockIO"] = json::object{{"weight", *r.blkio_weight}};
    return out;
}

json::object seccomp_json(const SpecSeccomp &s) {
    json::array rules;
    for (const auto &rule : s.rules) {
        json::object entry{{"names", strings(rule.names)}, {"action", rule.action}};
        if (rule.errno_ret) entry["errnoRet"] = *rule.errno_ret;
        json::array args;
        for (const auto &arg : rule.args)
            args.push_back(json::object{
                {"index", arg.index}, {"value", arg.value}, {"valueTwo", arg.value_two}, {"op", arg.op}});
        if (!args.empty()) entry["args"] = args;
        rules.push_back(entry);
    }
    json::object out{{"defaultAction", s.default_action}, {"syscalls", rules}};
    if (s.default_errno_ret) out["defaultErrnoRet"] = *s.default_errno_ret;
    if (!s.architectures.empty()) out["architectures"] = strings(s.architectures);
    return out;
}

bool has_any(const json::value *list, const std::vector<std::string> &values) {
    if (!list || !list->is_array()) return false;
    for (const auto &entry : list->get_array())
        if (entry.is_string() &&
            std::find(values.begin(), values.end(), std::string(entry.get_string())) != values.end())
            return true;
    return false;
}

bool has_all(const json::value *list, const std::vector<std::string> &values) {
    if (!list || !list->is_array()) return true;
    for (const auto &entry : list->get_array())
        if (!entry.is_string() ||
            std::find(values.begin(), values.end(), std::string(entry.get_string())) == values.end())
            return false;
    return true;
}

bool kernel_at_least(const json::value *wanted) {
    if (!wanted || !wanted->is_string() || wanted->get_string().empty()) return true;
    utsname name{};
    int have[2] = {}, want[2] = {};
    uname(&name);
    sscanf(name.release, "%d.%d", &have[0], &have[1]);
    if (sscanf(std::string(wanted->get_string()).c_str(), "%d.%d", &want[0], &want[1]) != 2)
        throw Error(ErrorClass::kInvalidArgument, "read seccomp profile: bad minKernel");
    return std::pair(have[0], have[1]) >= std::pair(want[0], want[1]);
}

uint64_t number(const json::value *value) {
    return value && value->is_number() ? value->to_number<uint64_t>() : 0;
}

#ifdef __x86_64__
const std::vector<std::string> kNativeNames = {"amd64"};
constexpr const char *kNativeArch = "SCMP_ARCH_X86_64";
#else
const std::vector<std::string> kNativeNames = {"arm64"};
constexpr const char *kNativeArch = "SCMP_ARCH_AARCH64";
#endif

SpecSeccomp read_profile(const json::object &root, const std::vector<std::string> &capabilities) {
    SpecSeccomp policy;
    policy.default_action = std::string(root.at("defaultAction").as_string());
    if (auto *value = root.if_contains("defaultErrnoRet"); value && value->is_number())
        policy.default_errno_ret = uint32_t(number(value));
    if (auto *list = root.if_contains("architectures"); list && list->is_array())
        for (const auto &entry : list->get_array())
            policy.architectures.push_back(std::string(entry.as_string()));
    if (auto *map = root.if_contains("archMap"); map && map->is_array())
        for (const auto &entry : map->get_array())
            if (entry.at("architecture").as_string() == kNativeArch) {
                policy.architectures.push_back(kNativeArch);
                if (auto *sub = entry.as_object().if_contains("subArchitectures"); sub && sub->is_array())
                    for (const auto &name : sub->get_array())
                        policy.architectures.push_back(std::string(name.as_string()));
            }
    const json::value *calls = root.if_contains("syscalls");
    if (!calls || !calls->is_array()) return policy;
    for (const auto &entry : calls->get_array()) {
        const json::object &call = entry.as_object();
        auto part = [&](const char *key) -> const json::object * {
            auto *value = call.if_contains(key);
            return value && value->is_object() ? &value->get_object() : nullptr;
        };
        if (auto *ex = part("excludes");
            ex && (has_any(ex->if_contains("arches"), kNativeNames) ||
                   has_any(ex->if_contains("caps"), capabilities) ||
                   (ex->if_contains("minKernel") && kernel_at_least(ex->if_contains("minKernel")))))
            continue;
        if (auto *in = part("includes")) {
            auto *arches = in->if_contains("arches");
            if (arches && arches->is_array() && !arches->get_array().empty() &&
                !has_any(arches, kNativeNames))
                continue;
            if (!has_all(in->if_contains("caps"), capabilities) ||
                !kernel_at_least(in->if_contains("minKernel")))
                continue;
        }
        SpecSeccompRule rule;
        rule.action = std::string(call.at("action").as_string());
        if (auto *name = call.if_contains("name"); name && name->is_string() && !name->get_string().empty())
            rule.names.push_back(std::string(name->get_string()));
        if (auto *names = call.if_contains("names"); names && names->is_array())
            for (const auto &name : names->get_array())
                rule.names.push_back(std::string(name.as_string()));
        if (auto *value = call.if_contains("errnoRet"); value && value->is_number())
            rule.errno_ret = uint32_t(number(value));
        if (auto *args = call.if_contains("args"); args && args->is_array())
            for (const auto &arg : args->get_array()) {
                const json::object &a = arg.as_object();
                rule.args.push_back({uint32_t(number(a.if_contains("index"))), number(a.if_contains("value")),
                                     number(a.if_contains("valueTwo")), std::string(a.at("op").as_string())});
            }
        if (!rule.names.empty()) policy.rules.push_back(std::move(rule));
    }
    return policy;
}

} // namespace

std::string to_json(const RuntimeSpec &spec) {
    json::array mounts, namespaces, devices;
    for (const auto &m : spec.mounts) {
        json::object mount{{"destination", m.destination}};
        if (!m.type.empty()) mount["type"] = m.type;
        if (!m.source.empty()) mount["source"] = m.source;
        if (!m.options.empty()) mount["options"] = strings(m.options);
        mounts.push_back(mount);
    }
    for (const auto &n : spec.namespaces) {
        json::object ns{{"type", n.type}};
        if (!n.path.empty()) ns["path"] = n.path;
        namespaces.push_back(ns);
    }
    for (const auto &d : spec.devices)
        devices.push_back(json::object{{"path", d.path},
                                       {"type", std::string(1, d.type)},
                                       {"major", d.major},
                                       {"minor", d.minor},
                                       {"fileMode", d.mode},
                                       {"uid", d.uid},
                                       {"gid", d.gid}});
    json::object sysctl, annotations;
    for (const auto &[key, value] : spec.sysctl)
        sysctl[key] = value;
    for (const auto &[key, value] : spec.annotations)
        annotations[key] = value;
    json::object linux_part{{"namespaces", namespaces},
                            {"resources", resources_json(spec.resources)},
                            {"maskedPaths", strings(spec.masked_paths)},
                            {"readonlyPaths", strings(spec.read_only_paths)}};
    if (!devices.empty()) linux_part["devices"] = devices;
    if (!sysctl.empty()) linux_part["sysctl"] = sysctl;
    if (!spec.cgroups_path.empty()) linux_part["cgroupsPath"] = spec.cgroups_path;
    if (!spec.rootfs_propagation.empty()) linux_part["rootfsPropagation"] = spec.rootfs_propagation;
    if (spec.seccomp) linux_part["seccomp"] = seccomp_json(*spec.seccomp);
    json::object root{{"ociVersion", "1.0.2"},
                      {"process", process_json(spec.process)},
                      {"root", json::object{{"path", spec.root_path}, {"readonly", spec.root_read_only}}},
                      {"mounts", mounts},
                      {"linux", linux_part}};
    if (!spec.hostname.empty()) root["hostname"] = spec.hostname;
    if (!spec.domainname.empty()) root["domainname"] = spec.domainname;
    if (!annotations.empty()) root["annotations"] = annotations;
    return json::serialize(root);
}

SpecSeccomp parse_seccomp_profile(const std::string &text, const std::vector<std::string> &capabilities) {
    if (text.size() > 4u << 20)
        throw Error(ErrorClass::kInvalidArgument, "read seccomp profile: larger than 4 MiB");
    boost::system::error_code error;
    json::value root = json::parse(text, error);
    if (error)
        throw Error(ErrorClass::kInvalidArgument, "Decoding seccomp profile failed: " + error.message());
    try {
        return read_profile(root.as_object(), capabilities);
    } catch (const Error &) {
        throw;
    } catch (const std::exception &) {
        throw Error(ErrorClass::kInvalidArgument,
                    "Decoding seccomp profile failed: a field is missing or has the wrong type");
    }
}

std::vector<std::string> default_capabilities() {
    return {"CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",           "CAP_FOWNER",
            "CAP_MKNOD",   "CAP_NET_RAW",      "CAP_SETGID",           "CAP_SETUID",
            "CAP_SETFCAP", "CAP_SETPCAP",      "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT",
            "CAP_KILL",    "CAP_AUDIT_WRITE"};
}

} // namespace gantry
