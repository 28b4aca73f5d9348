// cgroup v1, hybrid and v2. The sandbox's groups are made and entered long before the limits are known,
// so that a start only writes a few files; limits are therefore plain (path, value) pairs that either
// the shim writes at start or the engine at update.
#include "core/runtime/cgroups.h"

#include "core/base/files.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <sstream>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <thread>
#include <unistd.h>

namespace gantry {

std::string CgroupLayout::mount_of(const std::string &controller) const {
    for (const auto &h : hierarchies)
        if (std::find(h.controllers.begin(), h.controllers.end(), controller) != h.controllers.end())
            return h.mount_point;
    return {};
}

CgroupLayout detect_cgroups() {
    CgroupLayout layout;
    bool v1 = false, v2 = false;
    std::ifstream file("/proc/self/mountinfo");
    for (std::string line; std::getline(file, line);) {
        size_t dash = line.find(" - ");
        if (dash == std::string::npos) continue;
        std::istringstream head(line.substr(0, dash)), tail(line.substr(dash + 3));
        std::string skip, mount_point, type, source, super;
        head >> skip >> skip >> skip >> skip >> mount_point;
        tail >> type >> source >> super;
        if (!mount_point.starts_with("/sys/fs/cgroup")) continue;
        if (std::any_of(layout.hierarchies.begin(), layout.hierarchies.end(),
                        [&](const auto &h) { return h.mount_point == mount_point; }))
            continue;
        CgroupHierarchy h;
        h.mount_point = mount_point;
        if (type == "cgroup2") {
            h.unified = v2 = true;
        } else if (type == "cgroup") {
            v1 = true;
            std::istringstream words(super);
            for (std::string word; std::getline(words, word, ',');)
                if (word != "rw" && word != "ro" && word != "xattr" && word != "clone_children" &&
                    !word.starts_with("release_agent=") && word != "noprefix" && word != "cpuset_v2_mode")
                    h.controllers.push_back(word);
        } else {
            continue;
        }
        layout.hierarchies.push_back(h);
    }
    layout.version = v1 && v2 ? "hybrid" : v2 ? "2" : "1";
    return layout;
}

namespace {

std::string join(const std::string &mount_point, const std::string &group) {
    return mount_point + (group.starts_with("/") ? "" : "/") + group;
}

/// v1 cpuset: a new group is empty and takes no process until it has cpus and mems. Of a group that another
/// thread has just made the same is true, so the way leads up to the first that has them.
void inherit_cpuset(const std::string &mount_point, const std::string &dir) {
    for (const char *name : {"cpuset.cpus", "cpuset.mems"}) {
        bool found = false;
        std::string own = read_file_if(dir + "/" + name, found);
        if (!found || own.find_first_not_of(" \n") != std::string::npos) continue;
        std::string parent = dir.substr(0, dir.rfind('/'));
        if (parent.size() > mount_point.size()) inherit_cpuset(mount_point, parent);
        write_kernel_file(dir + "/" + name, read_file(parent + "/" + name));
    }
}

void enable_controllers(const std::string &dir) {
    bool found = false;
    std::istringstream words(read_file_if(dir + "/cgroup.controllers", found));
    for (std::string word; words >> word;)
        try {
            write_kernel_file(dir + "/cgroup.subtree_control", "+" + word);
        } catch (const Error &) { // busy or threaded: the limit that needs it will say so
        }
}

void make_group(const CgroupHierarchy &h, const std::string &group) {
    bool cpuset = std::find(h.controllers.begin(), h.controllers.end(), "cpuset") != h.controllers.end();
    std::string dir = h.mount_point;
    std::istringstream parts(group);
    for (std::string part; std::getline(parts, part, '/');) {
        if (part.empty()) continue;
        if (h.unified) enable_controllers(dir);
        dir += "/" + part;
        if (mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST)
            throw Error::from_errno(errno, "make cgroup " + dir);
        if (cpuset) inherit_cpuset(h.mount_point, dir);
    }
}

std::string bytes_or_max(int64_t value) { return value < 0 ? "max" : fmt::format("{}", value); }

} // namespace

std::vector<std::string> cgroup_dirs(const CgroupLayout &layout, const std::string &parent,
                                     const std::string &id) {
    std::vector<std::string> dirs;
    for (const auto &h : layout.hierarchies)
        dirs.push_back(join(h.mount_point, parent + "/" + id));
    // The first is where leftovers are looked for: unified has cgroup.kill.
    std::stable_partition(dirs.begin(), dirs.end(), [&](const std::string &dir) {
        return std::any_of(layout.hierarchies.begin(), layout.hierarchies.end(), [&](const auto &h) {
            return h.unified && dir.starts_with(h.mount_point + "/") && h.mount_point != "/sys/fs/cgroup";
        });
    });
    return dirs;
}

std::vector<std::string> make_cgroups(const CgroupLayout &layout, const std::string &parent,
                                      const std::string &id) {
    for (const auto &h : layout.hierarchies) {
        std::string parent_dir = join(h.mount_point, parent);
        if (!h.unified && path_exists(parent_dir)) {
            std::string dir = parent_dir + "/" + id;
            if (mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST)
                throw Error::from_errno(errno, "make cgroup " + dir);
            if (std::find(h.controllers.begin(), h.controllers.end(), "cpuset") != h.controllers.end())
                inherit_cpuset(h.mount_point, dir);
        } else if (h.unified && layout.version == "hybrid" && path_exists(parent_dir)) {
            std::string dir = parent_dir + "/" + id;
            if (mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST)
                throw Error::from_errno(errno, "make cgroup " + dir);
        } else {
            make_group(h, parent + "/" + id);
        }
    }
    return cgroup_dirs(layout, parent, id);
}

void remove_cgroup_dirs(const std::vector<std::string> &dirs) noexcept {
    for (const auto &dir : dirs) {
        for (int i = 0; i < 20 && rmdir(dir.c_str()) != 0 && errno == EBUSY; i++) {
            try {
                for (const auto &name : list_directory(dir)) {
                    struct stat status;
                    std::string below = dir + "/" + name;
                    if (stat(below.c_str(), &status) == 0 && S_ISDIR(status.st_mode))
                        remove_cgroup_dirs({below});
                }
                for (pid_t pid : cgroup_pids(dir))
                    ::kill(pid, SIGKILL);
            } catch (...) {
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
    }
}

uint64_t weight_of_shares(uint64_t shares) {
    if (shares == 0) return 0;
    shares = std::clamp<uint64_t>(shares, 2, 262144);
    return 1 + (shares - 2) * 9999 / 262142;
}

std::vector<CgroupWrite> compile_resources(const CgroupLayout &layout, const std::string &group,
                                           const SpecResources &r, bool with_devices) {
    std::vector<CgroupWrite> out;
    auto v1 = [&](const char *controller, const std::string &file, const std::string &value,
                  bool required = true) {
        std::string mount = layout.mount_of(controller);
        if (mount.empty()) {
            if (required)
                throw Error(ErrorClass::kUnsupported,
                            fmt::format("set {}: this host has no {} cgroup", file, controller));
            return;
        }
        out.push_back({join(mount, group) + "/" + file, value, required});
    };
    if (layout.unified_only()) {
        std::string dir = join(layout.hierarchies.front().mount_point, group) + "/";
        auto v2 = [&](const char *file, const std::string &value, bool required = true) {
            out.push_back({dir + file, value, required});
        };
        if (r.memory_limit) v2("memory.max", bytes_or_max(*r.memory_limit));
        if (r.memory_swap) {
            // v1 counts memory+swap, v2 swap alone.
            int64_t swap = *r.memory_swap;
            if (swap > 0) swap = std::max<int64_t>(0, swap - r.memory_limit.value_or(0));
            if (*r.memory_swap != 0)
                v2("memory.swap.max", bytes_or_max(swap), swap >= 0 && *r.memory_swap > 0);
        }
        if (r.memory_reservation && *r.memory_reservation)
            v2("memory.low", bytes_or_max(*r.memory_reservation));
        if (r.cpu_shares && *r.cpu_shares)
            v2("cpu.weight", fmt::format("{}", weight_of_shares(uint64_t(*r.cpu_shares))));
        if (r.cpu_quota || r.cpu_period) {
            int64_t quota = r.cpu_quota.value_or(-1), period = r.cpu_period.value_or(0);
            v2("cpu.max", fmt::format("{} {}", quota > 0 ? fmt::format("{}", quota) : "max",
                                      period > 0 ? period : 100000));
        }
        if (!r.cpuset_cpus.empty()) v2("cpuset.cpus", r.cpuset_cpus);
        if (!r.cpuset_mems.empty()) v2("cpuset.mems", r.cpuset_mems);
        if (r.pids_limit && *r.pids_limit != 0) v2("pids.max", bytes_or_max(*r.pids_limit));
        if (r.blkio_weight && *r.blkio_weight) v2("io.bfq.weight", fmt::format("{}", *r.blkio_weight), false);
        return out;
    }
    if (r.memory_limit && *r.memory_limit)
        v1("memory", "memory.limit_in_bytes", fmt::format("{}", *r.memory_limit));
    if (r.memory_swap && *r.memory_swap)
        // Kernels without swap accounting lack the file; Docker only warns then.
        v1("memory", "memory.memsw.limit_in_bytes", fmt::format("{}", *r.memory_swap), false);
    if (r.memory_reservation && *r.memory_reservation)
        v1("memory", "memory.soft_limit_in_bytes", fmt::format("{}", *r.memory_reservation));
    if (r.disable_oom_killer) v1("memory", "memory.oom_control", "1");
    if (r.cpu_shares && *r.cpu_shares) v1("cpu", "cpu.shares", fmt::format("{}", *r.cpu_shares));
    if (r.cpu_period && *r.cpu_period) v1("cpu", "cpu.cfs_period_us", fmt::format("{}", *r.cpu_period));
    if (r.cpu_quota && *r.cpu_quota) v1("cpu", "cpu.cfs_quota_us", fmt::format("{}", *r.cpu_quota));
    if (!r.cpuset_cpus.empty()) v1("cpuset", "cpuset.cpus", r.cpuset_cpus);
    if (!r.cpuset_mems.empty()) v1("cpuset", "cpuset.mems", r.cpuset_mems);
    if (r.pids_limit && *r.pids_limit != 0) v1("pids", "pids.max", bytes_or_max(*r.pids_limit));
    if (r.blkio_weight && *r.blkio_weight)
        v1("blkio", "blkio.weight", fmt::format("{}", *r.blkio_weight), false);
    if (with_devices)
        for (const auto &rule : r.devices) {
            std::string number =
                rule.type == 'a' && rule.major < 0 && rule.minor < 0 && rule.access == "rwm"
                    ? "a"
                    : fmt::format("{} {}:{} {}", rule.type, rule.major < 0 ? "*" : std::to_string(rule.major),
                                  rule.minor < 0 ? "*" : std::to_string(rule.minor), rule.access);
            v1("devices", rule.allow ? "devices.allow" : "devices.deny", number);
        }
    return out;
}

std::vector<pid_t> cgroup_pids(const std::string &dir) {
    std::vector<pid_t> pids;
    bool found = false;
    std::istringstream lines(read_file_if(dir + "/cgroup.procs", found));
    for (pid_t pid; lines >> pid;)
        if (pid > 0) pids.push_back(pid);
    if (!found) return pids;
    for (const auto &name : list_directory(dir)) {
        struct stat status;
        if (stat((dir + "/" + name).c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) continue;
        auto below = cgroup_pids(dir + "/" + name);
        pids.insert(pids.end(), below.begin(), below.end());
    }
    return pids;
}

void freeze_cgroup(const CgroupLayout &layout, const std::string &group, bool frozen) {
    std::string v1 = layout.mount_of("freezer"), file, wanted;
    if (!v1.empty()) {
        file = join(v1, group) + "/freezer.state";
        wanted = frozen ? "FROZEN" : "THAWED";
    } else {
        for (const auto &h : layout.hierarchies)
            if (h.unified) file = join(h.mount_point, group) + "/cgroup.freeze";
        wanted = frozen ? "1" : "0";
    }
    if (file.empty())
        throw Error(ErrorClass::kUnsupported, "pause container: this host has no freezer cgroup");
    // v1 stays at FREEZING while a task is in an uninterruptible sleep or just being forked: write again.
    for (int i = 0; i < 1000; i++) {
        write_kernel_file(file, wanted);
        if (v1.empty() || read_file(file).starts_with(wanted)) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(i < 20 ? 1 : 10));
    }
    if (frozen) write_kernel_file(file, "THAWED");
    throw Error(ErrorClass::kDeadline, "pause container: its processes do not freeze");
}

} // namespace gantry
