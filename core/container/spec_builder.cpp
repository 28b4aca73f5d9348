// The OCI document of a container, option by option as dockerd 20.10 writes it. No kernel state is
// changed here; what is read is the host's device nodes and host name.
#include "core/container/spec_builder.h"

#include "core/base/files.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cerrno>
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace gantry {

namespace {

constexpr int kMaxDeviceDepth = 6;

[[noreturn]] void invalid(const std::string &message) { throw Error(ErrorClass::kInvalidArgument, message); }

bool joins(const std::string &mode) { return mode.starts_with("container:"); }

SpecDevice device_of(const std::string &host_path, const std::string &path, const struct stat &info) {
    SpecDevice device;
    device.path = path;
    device.type = S_ISBLK(info.st_mode) ? 'b' : 'c';
    device.major = major(info.st_rdev);
    device.minor = minor(info.st_rdev);
    device.mode = info.st_mode & 07777;
    device.uid = info.st_uid;
    device.gid = info.st_gid;
    (void)host_path;
    return device;
}

/// Device nodes below a host directory; pseudo file systems of a container's own are left out.
void collect_devices(const std::string &directory, const std::string &target, int depth,
                     std::vector<SpecDevice> &out) {
    if (depth > kMaxDeviceDepth) return;
    static const char *const kSkipped[] = {"pts",  "shm",         "fd",    "mqueue",    "console",
                                           ".lxc", ".lxd-mounts", ".udev", "hugepages", "ptmx"};
    auto names = list_directory(directory);
    std::sort(names.begin(), names.end());
    for (const auto &name : names) {
        if (std::any_of(std::begin(kSkipped), std::end(kSkipped), [&](auto *s) { return name == s; }))
            continue;
        const std::string path = directory + "/" + name, inside = target + "/" + name;
        struct stat info {};
        if (::lstat(path.c_str(), &info) != 0) continue;
        if (S_ISDIR(info.st_mode)) {
            collect_devices(path, inside, depth + 1, out);
        } else if (S_ISBLK(info.st_mode) || S_ISCHR(info.st_mode)) {
            out.push_back(device_of(path, inside, info));
        }
    }
}

void add_devices(const ContainerConfig &c, RuntimeSpec &spec) {
    auto &rules = spec.resources.devices;
    if (c.privileged) {
        collect_devices("/dev", "/dev", 0, spec.devices);
        rules.push_back({true, 'a', -1, -1, "rwm"});
    } else {
        rules.push_back({false, 'a', -1, -1, "rwm"});
        // Nodes may be made but not opened; then the handful every program expects.
        rules.push_back({true, 'c', -1, -1, "m"});
        rules.push_back({true, 'b', -1, -1, "m"});
        static const int kAllowed[][2] = {{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}};
        for (const auto &[major, minor] : kAllowed)
            rules.push_back({true, 'c', major, minor, "rwm"});
        rules.push_back({true, 'c', 136, -1, "rwm"});
    }
    for (const auto &request : c.devices) {
        struct stat info {};
        std::vector<SpecDevice> found;
        if (::stat(request.host_path.c_str(), &info) != 0) {
            invalid("error gathering device information while adding custom device \"" + request.host_path +
                    "\": no such file or directory");
        }
        if (S_ISDIR(info.st_mode)) {
            collect_devices(request.host_path, request.container_path, 0, found);
        } else if (S_ISBLK(info.st_mode) || S_ISCHR(info.st_mode)) {
            found.push_back(device_of(request.host_path, request.container_path, info));
        } else {
            invalid("error gathering device information while adding custom device \"" + request.host_path +
                    "\": not a device node");
        }
        for (auto &device : found) {
            if (!c.privileged) {
                rules.push_back({true, device.type, device.major, device.minor, request.permissions});
            }
            std::erase_if(spec.devices, [&](const auto &old) { return old.path == device.path; });
            spec.devices.push_back(std::move(device));
        }
    }
    if (!c.privileged) {
        for (const auto &rule : c.device_cgroup_rules)
            rules.push_back(parse_device_rule(rule));
    }
}

size_t depth_of(const std::string &path) {
    return static_cast<size_t>(std::count(path.begin(), path.end(), '/'));
}

void add_mounts(const SpecInput &in, RuntimeSpec &spec) {
    const ContainerConfig &c = *in.config;
    std::vector<SpecMount> user;
    for (const auto &point : in.mounts) {
        if (point.type == "tmpfs") continue;
        SpecMount mount{point.destination, "bind", point.source, {"rbind"}};
        mount.options.push_back(point.rw ? "rw" : "ro");
        mount.options.push_back(point.propagation.empty() ? "rprivate" : point.propagation);
        user.push_back(std::move(mount));
    }
    for (const auto &request : c.mounts) {
        if (request.type != "tmpfs") continue;
        SpecMount mount{request.target, "tmpfs", "tmpfs", {"nosuid", "nodev"}};
        if (request.from_bind) {
            mount.options.push_back("noexec");
            std::string rest = request.tmpfs_options;
            while (!rest.empty()) {
                const auto comma = rest.find(',');
                const std::string word = rest.substr(0, comma);
                rest = comma == rest.npos ? "" : rest.substr(comma + 1);
                // A positive word takes back the default it contradicts.
                for (const char *flag : {"exec", "suid", "dev"}) {
                    if (word == flag) std::erase(mount.options, std::string("no") + flag);
                }
                if (word != "defaults" && !word.empty()) mount.options.push_back(word);
            }
        } else {
            mount.options.push_back("noexec");
            if (request.read_only) mount.options.push_back("ro");
            if (request.tmpfs_size) mount.options.push_back("size=" + std::to_string(request.tmpfs_size));
            char mode[16];
            snprintf(mode, sizeof mode, "mode=%o", request.tmpfs_mode ? request.tmpfs_mode & 07777 : 01777);
            mount.options.push_back(mode);
        }
        user.push_back(std::move(mount));
    }
    for (const auto &[target, source] :
         {std::pair<const char *, const std::string &>{"/etc/resolv.conf", in.resolv_conf_path},
          {"/etc/hostname", in.hostname_path},
          {"/etc/hosts", in.hosts_path}}) {
        const bool taken =
            std::any_of(user.begin(), user.end(), [&](const auto &m) { return m.destination == target; });
        // Written by the container as it likes, a root file system that is read-only covers them too.
        if (!source.empty() && !taken) {
            user.push_back({target, "bind", source, {"rbind", c.read_only ? "ro" : "rw", "rprivate"}});
        }
    }

    const int64_t shm = c.shm_size ? c.shm_size : kDefaultShmSize;
    std::vector<SpecMount> defaults = {
        {"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}},
        {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
        {"/dev/pts",
         "devpts",
         "devpts",
         {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
        {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}},
        {"/sys/fs/cgroup", "cgroup", "cgroup", {"ro", "nosuid", "noexec", "nodev"}},
        {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}},
        {"/dev/shm",
         "tmpfs",
         "shm",
         {"nosuid", "noexec", "nodev", "mode=1777", "size=" + std::to_string(shm)}},
    };
    if (c.privileged) {
        for (auto &mount : defaults) {
            if (mount.destination.starts_with("/sys")) {
                std::replace(mount.options.begin(), mount.options.end(), std::string("ro"),
                             std::string("rw"));
            }
        }
    }
    if (c.network_mode == "host") {
        // sysfs shows the network devices of the namespace it is mounted in; a new mount would need
        // to own the host's, which works only as long as there is no user namespace.
        for (auto &mount : defaults) {
            if (mount.destination == "/sys") mount = {"/sys", "sysfs", "sysfs", mount.options};
        }
    }
    if (c.ipc_mode == "host") {
        for (auto &mount : defaults) {
            if (mount.destination == "/dev/shm" || mount.destination == "/dev/mqueue") {
                mount.type = "bind";
                mount.source = mount.destination;
                mount.options = {"rbind", "rw", "rprivate"};
            }
        }
        std::erase_if(defaults, [](const auto &m) { return m.type == "bind" && !path_exists(m.source); });
    }
    if (c.ipc_mode == "none") {
        std::erase_if(defaults, [](const auto &m) { return m.destination == "/dev/shm"; });
    }
    if (!in.shm_source.empty()) {
        for (auto &mount : defaults) {
            if (mount.destination == "/dev/shm")
                mount = {"/dev/shm", "bind", in.shm_source, {"rbind", "rw", "rprivate"}};
        }
    }
    const bool own_dev =
        std::any_of(user.begin(), user.end(), [](const auto &m) { return m.destination == "/dev"; });
    std::erase_if(defaults, [&](const auto &m) {
        if (own_dev && (m.destination == "/dev" || m.destination.starts_with("/dev/"))) return true;
        return std::any_of(user.begin(), user.end(),
                           [&](const auto &u) { return u.destination == m.destination; });
    });
    std::stable_sort(user.begin(), user.end(), [](const auto &a, const auto &b) {
        return depth_of(a.destination) < depth_of(b.destination);
    });
    spec.mounts = std::move(defaults);
    spec.mounts.insert(spec.mounts.end(), user.begin(), user.end());
}

} // namespace

void merge_image(ContainerConfig &c, const ImageConfig &image) {
    if (c.user.empty()) c.user = image.user;
    for (const auto &port : image.exposed_ports) {
        for (const auto &one : expand_container_port(port)) {
            if (std::find(c.exposed_ports.begin(), c.exposed_ports.end(), one) == c.exposed_ports.end()) {
                c.exposed_ports.push_back(one);
            }
        }
    }
    std::sort(c.exposed_ports.begin(), c.exposed_ports.end());
    for (const auto &entry : image.env) {
        const std::string prefix = entry.substr(0, entry.find('=')) + "=";
        const std::string bare = prefix.substr(0, prefix.size() - 1);
        const bool given = std::any_of(c.env.begin(), c.env.end(),
                                       [&](const auto &e) { return e.starts_with(prefix) || e == bare; });
        if (!given && bare.size() > 0) c.env.push_back(entry);
    }
    for (const auto &[key, value] : image.labels)
        c.labels.emplace(key, value);
    if (c.entrypoint.empty()) {
        if (c.cmd.empty()) {
            c.cmd = image.cmd;
            c.cmd_set = c.cmd_set || !image.cmd.empty();
        }
        if (!c.entrypoint_set) {
            c.entrypoint = image.entrypoint;
            c.entrypoint_set = !image.entrypoint.empty();
        }
    }
    if (c.entrypoint.size() == 1 && c.entrypoint[0].empty()) {
        c.entrypoint.clear();
        c.entrypoint_set = false;
    }
    if (c.working_dir.empty()) c.working_dir = image.working_dir;
    if (!c.working_dir.empty()) c.working_dir = clean_path("/" + c.working_dir);
    for (const auto &path : image.volumes) {
        if (std::find(c.volumes.begin(), c.volumes.end(), path) == c.volumes.end()) c.volumes.push_back(path);
    }
    if (c.stop_signal.empty()) c.stop_signal = image.stop_signal;
    auto known_probe = [](const HealthcheckConfig &h) {
        return h.test.empty() || h.test[0] == "NONE" || h.test[0] == "CMD" || h.test[0] == "CMD-SHELL";
    };
    if (image.healthcheck && known_probe(*image.healthcheck)) { // dockerd ignores what it does not know
        if (!c.healthcheck) {
            c.healthcheck = image.healthcheck;
        } else {
            auto &h = *c.healthcheck;
            if (h.test.empty()) h.test = image.healthcheck->test;
            if (!h.interval_ns) h.interval_ns = image.healthcheck->interval_ns;
            if (!h.timeout_ns) h.timeout_ns = image.healthcheck->timeout_ns;
            if (!h.start_period_ns) h.start_period_ns = image.healthcheck->start_period_ns;
            if (!h.start_interval_ns) h.start_interval_ns = image.healthcheck->start_interval_ns;
            if (!h.retries) h.retries = image.healthcheck->retries;
        }
    }
    if (c.entrypoint.empty() && c.cmd.empty()) invalid("No command specified");
}

std::string full_hostname(const ContainerConfig &config, const std::string &id) {
    if (!config.hostname.empty()) return config.hostname;
    if (config.network_mode == "host" || config.uts_mode == "host") {
        char name[256] = {};
        if (::gethostname(name, sizeof name - 1) == 0) return name;
    }
    return id.substr(0, 12);
}

NamespaceWish namespace_wish(const ContainerConfig &c) {
    NamespaceWish wish;
    wish.network = c.network_mode != "host" && !joins(c.network_mode);
    wish.pid = c.pid_mode.empty();
    wish.ipc = c.ipc_mode != "host" && !joins(c.ipc_mode);
    wish.uts = c.uts_mode != "host";
    wish.cgroup = c.cgroupns_mode != "host";
    return wish;
}

std::vector<SpecNamespace> namespaces_of(const SpecInput &in) {
    const NamespaceWish wish = namespace_wish(*in.config);
    std::vector<SpecNamespace> out{{"mount", ""}};
    auto add = [&](const char *type, bool own, const std::string &path) {
        if (own || !path.empty()) out.push_back({type, own ? "" : path});
    };
    add("network", wish.network, in.network_path);
    add("uts", wish.uts, "");
    add("pid", wish.pid, in.pid_path);
    add("ipc", wish.ipc, in.ipc_path);
    add("cgroup", wish.cgroup, "");
    return out;
}

SpecResources build_resources(const ContainerConfig &c) {
    SpecResources r;
    if (c.memory > 0) {
        r.memory_limit = c.memory;
        // As Docker: without --memory-swap as much swap again as memory.
        r.memory_swap = c.memory_swap == 0 ? c.memory * 2 : c.memory_swap;
    }
    if (c.memory_reservation > 0) r.memory_reservation = c.memory_reservation;
    if (c.cpu_shares > 0) r.cpu_shares = c.cpu_shares;
    if (c.nano_cpus > 0) {
        r.cpu_period = 100000;
        r.cpu_quota = std::max<int64_t>(c.nano_cpus / 10000, 1000);
    }
    if (c.cpu_period > 0) r.cpu_period = c.cpu_period;
    if (c.cpu_quota != 0) r.cpu_quota = c.cpu_quota;
    r.cpuset_cpus = c.cpuset_cpus;
    r.cpuset_mems = c.cpuset_mems;
    if (c.pids_limit && *c.pids_limit != 0) r.pids_limit = *c.pids_limit < 0 ? -1 : *c.pids_limit;
    if (c.blkio_weight) r.blkio_weight = c.blkio_weight;
    r.disable_oom_killer = c.oom_kill_disable.value_or(false);
    return r;
}

RuntimeSpec build_spec(const SpecInput &in) {
    const ContainerConfig &c = *in.config;
    const SecurityOptions security = parse_security_options(c.security_opt);
    RuntimeSpec spec;
    spec.hostname = namespace_wish(c).uts ? full_hostname(c, in.id) : "";
    spec.domainname = namespace_wish(c).uts ? c.domainname : "";
    spec.root_read_only = c.read_only;
    spec.resources = build_resources(c);

    SpecProcess &process = spec.process;
    process.terminal = c.tty;
    process.console_height = c.console_height;
    process.console_width = c.console_width;
    process.args = c.entrypoint;
    process.args.insert(process.args.end(), c.cmd.begin(), c.cmd.end());
    std::vector<std::string> base{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                  "HOSTNAME=" + full_hostname(c, in.id)};
    if (c.tty) base.push_back("TERM=xterm");
    process.env = merge_env(base, c.env);
    set_env(process.env, "HOME=" + in.user.home, false);
    process.cwd = c.working_dir.empty() ? "/" : c.working_dir;
    process.uid = in.user.uid;
    process.gid = in.user.gid;
    process.additional_gids = in.user.groups;
    process.capabilities = merge_capabilities(c.cap_add, c.cap_drop, c.privileged);
    process.no_new_privileges = security.no_new_privileges;
    process.oom_score_adj = c.oom_score_adj;
    for (const auto &limit : c.ulimits) {
        process.rlimits.push_back(
            {rlimit_type(limit.name), static_cast<uint64_t>(limit.soft), static_cast<uint64_t>(limit.hard)});
    }

    spec.namespaces = namespaces_of(in);
    add_mounts(in, spec);
    add_devices(c, spec);
    spec.cgroups_path =
        (c.cgroup_parent.empty() ? in.cgroup_parent : clean_path("/" + c.cgroup_parent)) + "/" + in.id;
    if (namespace_wish(c).network) {
        spec.sysctl["net.ipv4.ip_unprivileged_port_start"] = "0";
        spec.sysctl["net.ipv4.ping_group_range"] = "0 2147483647";
    }
    for (const auto &[key, value] : c.sysctls)
        spec.sysctl[key] = value;
    if (!c.privileged && !security.unmask_system_paths) {
        spec.masked_paths = c.masked_paths_set ? c.masked_paths : default_masked_paths();
        spec.read_only_paths = c.read_only_paths_set ? c.read_only_paths : default_read_only_paths();
    }
    if (!c.privileged && security.seccomp != "unconfined") {
        spec.seccomp = security.seccomp.empty()
                           ? default_seccomp(process.capabilities)
                           : parse_seccomp_profile(security.seccomp, process.capabilities);
    }
    // A mount that shall propagate needs a root that does not cut it off.
    for (const auto &point : in.mounts) {
        if (point.propagation.ends_with("shared")) {
            spec.rootfs_propagation = "shared";
        } else if (point.propagation.ends_with("slave") && spec.rootfs_propagation != "shared") {
            spec.rootfs_propagation = "rslave";
        }
    }
    spec.annotations = c.annotations;
    return spec;
}

void apply_exec(RuntimeSpec &spec, const ContainerConfig &c, const ExecConfig &exec, const UserIds &user) {
    SpecProcess &process = spec.process;
    process.terminal = exec.tty;
    process.console_height = exec.console_height;
    process.console_width = exec.console_width;
    process.args = exec.cmd;
    std::erase_if(process.env, [](const auto &e) { return e.starts_with("HOME=") || e == "TERM=xterm"; });
    for (const auto &entry : c.env) {
        if (entry.starts_with("HOME=") || entry == "TERM=xterm") process.env.push_back(entry);
    }
    process.env = merge_env(process.env, exec.env);
    if (exec.tty) set_env(process.env, "TERM=xterm", false);
    set_env(process.env, "HOME=" + user.home, false);
    if (!exec.working_dir.empty()) process.cwd = exec.working_dir;
    process.uid = user.uid;
    process.gid = user.gid;
    process.additional_gids = user.groups;
    if (exec.privileged) {
        process.capabilities = all_capabilities();
        spec.seccomp.reset();
    }
}

std::string read_in_root(int root_fd, const std::string &path, size_t limit) {
    open_how how{};
    how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, root_fd, path.c_str(), &how, sizeof how)));
    if (!fd) {
        if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENXIO) return "";
        throw Error::from_errno(errno, "open " + path + " in the container's root");
    }
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) return "";
    return read_all(fd.get(), limit, path);
}

} // namespace gantry
