// Where this host keeps its cgroups, and the files a limit is written to.
#pragma once

#include "core/runtime/spec.h"

#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

namespace gantry {

struct CgroupHierarchy {
    std::string mount_point;
    std::vector<std::string> controllers; // v1; "name=systemd" for named ones; empty for cgroup2
    bool unified = false;
};

struct CgroupLayout {
    std::vector<CgroupHierarchy> hierarchies;
    std::string version; // "1", "hybrid", "2"
    /// Mount point of the hierarchy with this v1 controller, "" if none.
    std::string mount_of(const std::string &controller) const;
    bool unified_only() const { return version == "2"; }
};

CgroupLayout detect_cgroups();
/// Makes <mount>/<parent>/<id> in every hierarchy; returns the directories.
std::vector<std::string> make_cgroups(const CgroupLayout &layout, const std::string &parent,
                                      const std::string &id);
std::vector<std::string> cgroup_dirs(const CgroupLayout &layout, const std::string &parent,
                                     const std::string &id);
void remove_cgroup_dirs(const std::vector<std::string> &dirs) noexcept;

struct CgroupWrite {
    std::string path, value;
    bool required = true;
};
/// `group` is <parent>/<id> below each hierarchy. Order matters and is kept.
std::vector<CgroupWrite> compile_resources(const CgroupLayout &layout, const std::string &group,
                                           const SpecResources &resources, bool with_devices);
/// cpu.shares 2..262144 to cpu.weight 1..10000, runc's formula.
uint64_t weight_of_shares(uint64_t shares);

/// cgroup v2: the device rules as a program on the group; it goes with the group.
void attach_device_program(const std::string &dir, const std::vector<SpecDeviceRule> &rules);

/// Every process of the group and its children.
std::vector<pid_t> cgroup_pids(const std::string &dir);
void freeze_cgroup(const CgroupLayout &layout, const std::string &group, bool frozen);

} // namespace gantry
