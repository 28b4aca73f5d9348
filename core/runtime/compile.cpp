// OCI document -> start plan. All words are parsed here, so that the privileged shim sees numbers only.
#include "core/runtime/plan_writer.h"

#include "core/base/files.h"
#include "core/runtime/capabilities.h"
#include "core/runtime/cgroups.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <fmt/format.h>
#include <fcntl.h>
#include <map>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

namespace gantry {

PlanWriter::PlanWriter() {}

void PlanWriter::add(plan::Type type, const std::vector<uint64_t> &numbers,
                     const std::vector<std::string> &texts) {
    plan::Record record{type, uint32_t(8 * numbers.size()), uint32_t(numbers.size()), uint32_t(texts.size())};
    for (const auto &text : texts) {
        if (type != plan::kSeccomp && text.find('\0') != std::string::npos)
            throw Error(ErrorClass::kInvalidArgument, "compile start plan: a text contains a NUL byte");
        record.size += uint32_t(4 + text.size() + 1);
    }
    data_.append(reinterpret_cast<const char *>(&record), sizeof record);
    data_.append(reinterpret_cast<const char *>(numbers.data()), 8 * numbers.size());
    for (const auto &text : texts) {
        uint32_t size = uint32_t(text.size());
        data_.append(reinterpret_cast<const char *>(&size), 4);
        data_.append(text.c_str(), text.size() + 1);
    }
    count_++;
    if (data_.size() > plan::kMaxSize - 4096)
        throw Error(ErrorClass::kInvalidArgument, "compile start plan: arguments and mounts are too large");
}

std::string PlanWriter::bytes() const {
    plan::Header header{plan::kMagic, plan::kVersion, uint32_t(sizeof(plan::Header) + data_.size()), count_};
    return std::string(reinterpret_cast<const char *>(&header), sizeof header) + data_;
}

UniqueFd PlanWriter::memfd() const {
    UniqueFd fd(memfd_create("gantry-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd) throw Error::from_errno(errno, "make start plan");
    write_all(fd.get(), bytes(), "start plan");
    fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    return fd;
}

ParsedOptions parse_mount_options(const std::vector<std::string> &options) {
    static const std::map<std::string, uint64_t> kAttributes = {{"ro", MOUNT_ATTR_RDONLY},
                                                                {"nosuid", MOUNT_ATTR_NOSUID},
                                                                {"nodev", MOUNT_ATTR_NODEV},
                                                                {"noexec", MOUNT_ATTR_NOEXEC},
                                                                {"noatime", MOUNT_ATTR_NOATIME},
                                                                {"strictatime", MOUNT_ATTR_STRICTATIME},
                                                                {"nodiratime", MOUNT_ATTR_NODIRATIME},
                                                                {"rro", MOUNT_ATTR_RDONLY},
                                                                {"nosymfollow", 0x00200000}};
    static const std::map<std::string, uint64_t> kOff = {
        {"rw", MOUNT_ATTR_RDONLY},           {"suid", MOUNT_ATTR_NOSUID},
        {"dev", MOUNT_ATTR_NODEV},           {"exec", MOUNT_ATTR_NOEXEC},
        {"atime", MOUNT_ATTR_NOATIME},       {"relatime", MOUNT_ATTR__ATIME},
        {"diratime", MOUNT_ATTR_NODIRATIME}, {"defaults", 0}};
    static const std::map<std::string, uint64_t> kPropagation = {
        {"private", MS_PRIVATE},       {"rprivate", MS_PRIVATE | MS_REC},
        {"shared", MS_SHARED},         {"rshared", MS_SHARED | MS_REC},
        {"slave", MS_SLAVE},           {"rslave", MS_SLAVE | MS_REC},
        {"unbindable", MS_UNBINDABLE}, {"runbindable", MS_UNBINDABLE | MS_REC}};
    ParsedOptions parsed;
    for (const auto &word : options) {
        if (word == "bind")
            parsed.bind = true;
        else if (word == "rbind")
            parsed.bind = parsed.recursive = true;
        else if (auto a = kAttributes.find(word); a != kAttributes.end())
            parsed.attributes |= a->second;
        else if (auto o = kOff.find(word); o != kOff.end())
            parsed.attributes &= ~o->second;
        else if (auto p = kPropagation.find(word); p != kPropagation.end())
            parsed.propagation = p->second;
        else if (word == "tmpcopyup" || word == "copy" || word == "nocopy" || word == "z" || word == "Z" ||
                 word.empty())
            continue;
        else
            parsed.data.push_back(word);
    }
    return parsed;
}

namespace {

uint64_t namespace_flag(const std::string &type) {
    static const std::map<std::string, uint64_t> kFlags = {
        {"pid", CLONE_NEWPID}, {"network", CLONE_NEWNET}, {"mount", CLONE_NEWNS},
        {"ipc", CLONE_NEWIPC}, {"uts", CLONE_NEWUTS},     {"cgroup", CLONE_NEWCGROUP}};
    auto found = kFlags.find(type);
    if (found == kFlags.end())
        throw Error(ErrorClass::kUnsupported,
                    fmt::format("make {} namespace: the native runtime has none", type),
                    "use an external runtime (runc)");
    return found->second;
}

uint64_t capability_mask(const std::vector<std::string> &names) {
    const auto &all = capability_names();
    uint64_t mask = 0;
    for (const auto &name : names) {
        auto found = std::find(all.begin(), all.end(), name);
        if (found == all.end())
            throw Error(ErrorClass::kInvalidArgument, "set capabilities: unknown " + name);
        mask |= uint64_t(1) << (found - all.begin());
    }
    return mask;
}

uint64_t rlimit_number(const std::string &type) {
    static const std::map<std::string, uint64_t> kLimits = {
        {"RLIMIT_CPU", RLIMIT_CPU},           {"RLIMIT_FSIZE", RLIMIT_FSIZE},
        {"RLIMIT_DATA", RLIMIT_DATA},         {"RLIMIT_STACK", RLIMIT_STACK},
        {"RLIMIT_CORE", RLIMIT_CORE},         {"RLIMIT_RSS", RLIMIT_RSS},
        {"RLIMIT_NPROC", RLIMIT_NPROC},       {"RLIMIT_NOFILE", RLIMIT_NOFILE},
        {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK},   {"RLIMIT_AS", RLIMIT_AS},
        {"RLIMIT_LOCKS", RLIMIT_LOCKS},       {"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
        {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE}, {"RLIMIT_NICE", RLIMIT_NICE},
        {"RLIMIT_RTPRIO", RLIMIT_RTPRIO},     {"RLIMIT_RTTIME", RLIMIT_RTTIME}};
    auto found = kLimits.find(type);
    if (found == kLimits.end()) throw Error(ErrorClass::kInvalidArgument, "set rlimit: unknown " + type);
    return found->second;
}

void add_cgroup_mount(PlanWriter &out, const SpecMount &mount, const ParsedOptions &options,
                      const CompileContext &context) {
    // The container's own groups bound in place: what a mount inside its cgroup namespace would show,
    // without needing the controllers to be mountable.
    auto bind = [&](const std::string &source, const std::string &target) {
        out.add(plan::kMount, {plan::kBind, options.attributes & ~uint64_t(MOUNT_ATTR_STRICTATIME), 0, 1},
                {source, target, "bind"});
    };
    if (context.layout->unified_only()) return bind(context.cgroup_dirs.front(), mount.destination);
    out.add(plan::kMount, {plan::kNewFs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, 0, 0},
            {"tmpfs", mount.destination, "tmpfs", "mode=755"});
    for (const auto &h : context.layout->hierarchies) {
        std::string name = h.mount_point.substr(h.mount_point.rfind('/') + 1);
        for (const auto &dir : context.cgroup_dirs)
            if (dir.starts_with(h.mount_point + "/")) bind(dir, mount.destination + "/" + name);
        if (h.controllers.size() > 1)
            for (const auto &controller : h.controllers)
                if (controller != name)
                    out.add(plan::kSymlink, {}, {name, mount.destination + "/" + controller});
    }
}

void add_mounts(PlanWriter &out, const RuntimeSpec &spec, const CompileContext &context) {

    for (const auto &mount : spec.mounts) {
        ParsedOptions options = parse_mount_options(mount.options);
        if (mount.destination.empty() || mount.destination[0] != '/')
            throw Error(ErrorClass::kInvalidArgument,
                        fmt::format("mount {}: the destination must be absolute", mount.destination));
        if (mount.type == "cgroup" || mount.type == "cgroup2") {
            add_cgroup_mount(out, mount, options, context);
            continue;
        }
        bool bind = options.bind || mount.type == "bind";
        std::vector<std::string> texts = {mount.source, mount.destination, mount.type};
        if (!bind) texts.insert(texts.end(), options.data.begin(), options.data.end());
        // An explicit rbind without read-only words stays recursive; a plain "bind" type defaults to one
        // mount.
        uint64_t kind = !bind ? plan::kNewFs : options.recursive ? plan::kRecursiveBind : plan::kBind;
        out.add(plan::kMount,
                {kind, options.attributes,
                 options.propagation == (MS_PRIVATE | MS_REC) ? 0 : options.propagation, 0},
                texts);
        if (mount.destination == "/dev" && !bind) {

            // Right behind /dev, before what is mounted below it.
            struct Node {
                const char *name;
                unsigned major, minor;
            };
            for (Node n : {Node{"null", 1, 3},
                           {"zero", 1, 5},
                           {"full", 1, 7},
                           {"random", 1, 8},
                           {"urandom", 1, 9},
                           {"tty", 5, 0}})
                out.add(plan::kDevice, {uint64_t(S_IFCHR | 0666), n.major, n.minor, 0, 0},
                        {std::string("/dev/") + n.name});
            for (auto [text, path] : {std::pair{"/proc/self/fd", "/dev/fd"},
                                      {"/proc/self/fd/0", "/dev/stdin"},
                                      {"/proc/self/fd/1", "/dev/stdout"},
                                      {"/proc/self/fd/2", "/dev/stderr"},
                                      {"/proc/kcore", "/dev/core"},
                                      {"pts/ptmx", "/dev/ptmx"}})
                out.add(plan::kSymlink, {}, {text, path});
        }
    }
    for (const auto &device : spec.devices) {
        uint64_t type = device.type == 'b' ? S_IFBLK : device.type == 'p' ? S_IFIFO : S_IFCHR;
        if (device.path.empty() || device.path[0] != '/' || device.path.ends_with('/'))
            throw Error(ErrorClass::kInvalidArgument, "make device " + device.path + ": bad path");
        out.add(plan::kDevice,
                {type | (device.mode & 07777), uint64_t(device.major), uint64_t(device.minor), device.uid,
                 device.gid},
                {device.path});
    }
}

} // namespace

PlanWriter compile_sandbox(const std::vector<SpecNamespace> &namespaces, const std::vector<std::string> &dirs,
                           bool joined) {
    PlanWriter out;
    std::vector<SpecNamespace> wanted = namespaces;
    if (wanted.empty() && !joined)
        for (const char *type : {"pid", "network", "mount", "ipc", "uts", "cgroup"})
            wanted.push_back({type, ""});
    for (const auto &ns : wanted)
        out.add(plan::kNamespace, {namespace_flag(ns.type)}, {ns.path});
    for (const auto &dir : dirs)
        out.add(plan::kCgroupDir, {}, {dir});
    return out;
}

PlanWriter compile_start(const RuntimeSpec &spec, const StartExtras &extras, const CompileContext &context) {
    PlanWriter out;
    const SpecProcess &process = spec.process;
    if (process.args.empty())
        throw Error(ErrorClass::kInvalidArgument, "start container: no command specified");
    if (process.cwd.empty() || process.cwd[0] != '/')
        throw Error(
            ErrorClass::kInvalidArgument,
            fmt::format(
                "start container: the working directory '{}' is invalid, it needs to be an absolute path",
                process.cwd));
    uint64_t flags = 0;
    auto flag = [&](bool on, uint64_t bit) { flags |= on ? bit : 0; };
    flag(process.terminal, plan::kTerminal), flag(extras.open_stdin, plan::kOpenStdin);
    flag(extras.stdin_once, plan::kStdinOnce), flag(extras.init, plan::kInit);
    flag(process.no_new_privileges, plan::kNoNewPrivs), flag(spec.root_read_only, plan::kRootReadOnly);
    flag(process.oom_score_adj.has_value(), plan::kHasOomScore), flag(context.exec, plan::kExec);
    ParsedOptions root_propagation = parse_mount_options({spec.rootfs_propagation});
    uint64_t propagation = root_propagation.propagation;
    // "shared" would show the container's own mounts on the host: slave is what it may have.
    if (propagation & MS_SHARED) propagation = MS_SLAVE | MS_REC;
    out.add(plan::kOptions,
            {flags, uint64_t(int64_t(process.oom_score_adj.value_or(0))), process.console_height,
             process.console_width, extras.log_max_size, extras.log_max_files, propagation},
            {process.cwd, spec.hostname, spec.domainname, extras.log_path, extras.exit_path,
             context.root_path, extras.external_runtime, extras.bundle, context.id});
    for (const auto &arg : process.args)
        out.add(plan::kArg, {}, {arg});
    bool home = false;
    for (const auto &entry : process.env) {
        out.add(plan::kEnv, {}, {entry});
        home |= entry.starts_with("HOME=");
    }
    if (!home) out.add(plan::kEnv, {}, {process.uid == 0 ? "HOME=/root" : "HOME=/"});
    if (!context.exec) {
        for (const auto &mount : extras.rootfs) {
            ParsedOptions options = parse_mount_options(mount.options);
            if (mount.read_only) options.attributes |= MOUNT_ATTR_RDONLY;
            std::vector<std::string> texts = {mount.type, mount.source, mount.target};
            texts.insert(texts.end(), options.data.begin(), options.data.end());
            out.add(plan::kRootMount, {options.attributes}, texts);
        }
    }
    if (!context.exec && extras.external_runtime.empty()) {
        add_mounts(out, spec, context);
        for (const auto &path : spec.read_only_paths)
            out.add(plan::kReadOnly, {}, {path});
        for (const auto &path : spec.masked_paths)
            out.add(plan::kMasked, {}, {path});
        for (const auto &[key, value] : spec.sysctl) {
            std::string path = key;
            std::replace(path.begin(), path.end(), '.', '/');
            if (path.find("..") != std::string::npos || path.find("//") != std::string::npos)
                throw Error(ErrorClass::kInvalidArgument, "write sysctl " + key + ": bad name");
            out.add(plan::kSysctl, {}, {path, value});
        }
        for (const auto &write : compile_resources(*context.layout, context.group, spec.resources, true))
            out.add(plan::kCgroupFile, {write.required}, {write.path, write.value});
    }
    std::vector<uint64_t> ids = {process.uid, process.gid, process.umask};
    ids.insert(ids.end(), process.additional_gids.begin(), process.additional_gids.end());
    out.add(plan::kIds, ids, {});
    uint64_t bounding = capability_mask(process.capabilities),
             ambient = capability_mask(process.ambient_capabilities);
    out.add(
        plan::kCaps,
        {bounding, bounding, bounding, capability_mask(process.inheritable_capabilities) | ambient, ambient},
        {});
    for (const auto &limit : process.rlimits)
        out.add(plan::kRlimit, {rlimit_number(limit.type), limit.soft, limit.hard}, {});
    if (spec.seccomp && extras.external_runtime.empty())
        out.add(plan::kSeccomp, {}, {compile_seccomp(*spec.seccomp)});
    return out;
}

} // namespace gantry
