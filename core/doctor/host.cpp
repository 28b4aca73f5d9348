// The host's part: cgroups and the file system that holds the state.
#include "core/base/files.h"
#include "core/doctor/doctor.h"
#include "core/doctor/in_child.h"
#include "core/runtime/cgroups.h"

#include <cstring>
#include <sys/statfs.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace gantry::doctor {

namespace {

std::string human(uint64_t bytes) {
    char text[32];
    snprintf(text, sizeof text, "%.1f GiB", double(bytes) / double(1ull << 30));
    return text;
}

std::string name_of_filesystem(long type) {
    switch (static_cast<unsigned long>(type)) {
    case 0xef53: return "ext4";
    case 0x58465342: return "xfs";
    case 0x9123683e: return "btrfs";
    case 0x01021994: return "tmpfs";
    case 0x794c7630: return "overlay";
    case 0x6969: return "nfs";
    case 0x65735546: return "fuse";
    case 0x2fc12fc1: return "zfs";
    case 0xf2f52010: return "f2fs";
    case 0x01021997: return "9p";
    }
    char text[32];
    snprintf(text, sizeof text, "type 0x%lx", static_cast<unsigned long>(type));
    return text;
}

/// The nearest directory that is there: the root itself may not have been made yet.
std::string existing_part(std::string path) {
    while (path.size() > 1 && !path_exists(path)) {
        const size_t slash = path.rfind('/');
        path.resize(slash == 0 || slash == path.npos ? 1 : slash);
    }
    return path;
}

struct Controller {
    const char *v1, *v2, *serves;
};
constexpr Controller kControllers[] = {
    {"memory", "memory", "--memory, --memory-swap and OOM reports"},
    {"cpu", "cpu", "--cpus and --cpu-shares"},
    {"cpuset", "cpuset", "--cpuset-cpus"},
    {"pids", "pids", "--pids-limit"},
    {"devices", nullptr, "device rules"},
    {"freezer", nullptr, "pause"},
    {"blkio", "io", "--blkio-weight and block statistics"},
};

std::string unified_controllers(const CgroupLayout &layout) {
    for (const CgroupHierarchy &hierarchy : layout.hierarchies) {
        if (!hierarchy.unified) continue;
        bool found = false;
        std::string list = " " + read_file_if(hierarchy.mount_point + "/cgroup.controllers", found);
        for (char &c : list)
            if (c == '\n') c = ' ';
        return list + " ";
    }
    return " ";
}

} // namespace

void examine_cgroups(const std::string &cgroup_parent, Findings &out) {
    constexpr const char *kArea = "cgroups";
    const CgroupLayout layout = detect_cgroups();
    if (layout.hierarchies.empty()) {
        out.push_back({kArea, "hierarchy", Verdict::kError, "no cgroup file system is mounted",
                       "mount -t cgroup2 cgroup2 /sys/fs/cgroup"});
        return;
    }
    out.push_back({kArea, "hierarchy", Verdict::kOk, "version " + layout.version, ""});
    const std::string unified = unified_controllers(layout);
    for (const Controller &controller : kControllers) {
        std::string where;
        if (!layout.mount_of(controller.v1).empty()) {
            where = "version 1";
        } else if (layout.unified_only() && !controller.v2) {
            where = "version 2"; // part of the core there
        } else if (controller.v2 && unified.find(" " + std::string(controller.v2) + " ") != unified.npos) {
            where = "version 2";
        }
        out.push_back({kArea, controller.v1, where.empty() ? Verdict::kWarning : Verdict::kOk,
                       where.empty() ? std::string("absent: ") + controller.serves + " will be refused"
                                     : where + ": " + controller.serves,
                       where.empty() ? std::string("enable the controller: kernel command line, or "
                                                   "cgroup.subtree_control of the parent group")
                                     : ""});
    }
    const std::string memory = layout.mount_of("memory");
    if (!memory.empty() && !path_exists(memory + "/memory.memsw.limit_in_bytes"))
        out.push_back({kArea, "swap accounting", Verdict::kNotice, "absent: --memory-swap will be refused",
                       "swapaccount=1 on the kernel command line"});
    if (geteuid() != 0) return;
    std::vector<std::string> made;
    try {
        made = make_cgroups(layout, cgroup_parent, "doctor-" + std::to_string(getpid()));
        out.push_back({kArea, "writable", Verdict::kOk, "groups can be made below " + cgroup_parent, ""});
    } catch (const Error &error) {
        out.push_back({kArea, "writable", Verdict::kError, error.message(),
                       "remount the hierarchy read-write, or delegate a group and name it in "
                       "engine.cgroup_parent"});
    }
    remove_cgroup_dirs(made);
    for (const CgroupHierarchy &hierarchy : layout.hierarchies)
        rmdir((hierarchy.mount_point + cgroup_parent).c_str()); // stays if an engine uses it
}

void examine_files(const std::string &root, Findings &out) {
    constexpr const char *kArea = "files";
    const std::string place = existing_part(root);
    struct statfs facts {};
    if (statfs(place.c_str(), &facts) != 0) {
        out.push_back({kArea, root, Verdict::kError, strerror(errno), "choose another engine.root"});
        return;
    }
    const std::string kind = name_of_filesystem(facts.f_type);
    out.push_back({kArea, "root", Verdict::kOk,
                   root + " on " + kind + (place == root ? "" : " (not made yet, " + place + " is there)"),
                   ""});
    if (kind == "nfs" || kind == "fuse" || kind == "9p" || kind == "overlay") {
        Finding &last = out.back();
        last.verdict = Verdict::kWarning;
        last.found += ": overlay layers cannot be kept here";
        last.remedy = "engine.root on ext4, xfs or btrfs, or storage.driver = \"vfs\"";
    } else if (kind == "tmpfs") {
        out.back().verdict = Verdict::kNotice;
        out.back().found += ": nothing survives a reboot";
    }
    const uint64_t free = uint64_t(facts.f_bavail) * uint64_t(facts.f_bsize);
    const bool space = free >= (2ull << 30);
    out.push_back({kArea, "space", space ? Verdict::kOk : Verdict::kWarning,
                   human(free) + " free of " + human(uint64_t(facts.f_blocks) * uint64_t(facts.f_bsize)),
                   space ? "" : "gantry image prune, or engine.root on a larger file system"});
    if (facts.f_files > 0) {
        const bool inodes = facts.f_ffree >= 200'000;
        out.push_back(
            {kArea, "inodes", inodes ? Verdict::kOk : Verdict::kWarning,
             std::to_string(facts.f_ffree) + " free of " + std::to_string(facts.f_files),
             inodes ? "" : "a file system with more inodes; images have tens of thousands of files"});
    }
    if (geteuid() != 0) return;
    std::string trial = place + "/.gantry-doctor-XXXXXX";
    if (!mkdtemp(trial.data())) {
        out.push_back({kArea, "writable", Verdict::kError, place + ": " + strerror(errno),
                       "remount read-write, or choose another engine.root"});
        return;
    }
    const bool attributes = setxattr(trial.c_str(), "trusted.gantry.doctor", "y", 1, 0) == 0;
    const int error = errno;
    const bool device = mknod((trial + "/null").c_str(), S_IFCHR | 0600, 0) == 0;
    remove_tree(trial);
    out.push_back({kArea, "extended attributes", attributes ? Verdict::kOk : Verdict::kWarning,
                   attributes ? "trusted and security attributes are kept"
                              : std::string("trusted attributes cannot be set: ") + strerror(error),
                   attributes ? "" : "a file system with extended attributes (ext4, xfs, btrfs)"});
    out.push_back({kArea, "device nodes", device ? Verdict::kOk : Verdict::kWarning,
                   device ? "can be made: layers with devices and overlay whiteouts work"
                          : "cannot be made: overlay whiteouts and layers with devices fail",
                   device ? "" : "CAP_MKNOD for the engine"});
}

} // namespace gantry::doctor
