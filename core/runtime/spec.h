// The OCI runtime-spec document as typed structs (specs: config.md, config-linux.md). A container is
// described by it first; the native runtime compiles it to a start plan, an external runtime gets it
// as config.json of a bundle.
#pragma once

#include <gantry/storage.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace gantry {

struct SpecMount {
    std::string destination, type, source;
    std::vector<std::string> options; // mount(8) words: "ro", "nosuid", "rbind", "rprivate", "mode=755"
};

struct SpecRlimit {
    std::string type; // "RLIMIT_NOFILE"
    uint64_t soft = 0, hard = 0;
};

struct SpecNamespace {
    std::string type; // "pid", "network", "mount", "ipc", "uts", "user", "cgroup"
    std::string path; // join this one instead of a new one; "" for new
};

struct SpecDevice {
    std::string path;
    char type = 'c';
    int64_t major = 0, minor = 0;
    uint32_t mode = 0666, uid = 0, gid = 0;
};

struct SpecDeviceRule {
    bool allow = false;
    char type = 'a';
    int64_t major = -1, minor = -1; // -1: any
    std::string access = "rwm";
};

struct SpecResources {
    std::optional<int64_t> memory_limit, memory_reservation, memory_swap; // bytes; -1 unlimited
    std::optional<int64_t> cpu_shares, cpu_quota, cpu_period;             // us
    std::string cpuset_cpus, cpuset_mems;
    std::optional<int64_t> pids_limit; // -1 unlimited
    std::optional<uint16_t> blkio_weight;
    bool disable_oom_killer = false;
    std::vector<SpecDeviceRule> devices;
};

struct SpecProcess {
    bool terminal = false;
    uint16_t console_height = 0, console_width = 0;
    std::vector<std::string> args, env;
    std::string cwd = "/";
    uint32_t uid = 0, gid = 0, umask = 022;
    std::vector<uint32_t> additional_gids;
    std::vector<std::string> capabilities; // bounding = effective = permitted; "CAP_CHOWN"
    std::vector<std::string> inheritable_capabilities, ambient_capabilities;
    std::vector<SpecRlimit> rlimits;
    bool no_new_privileges = false;
    std::optional<int> oom_score_adj;
    std::string apparmor_profile;
};

struct SpecSeccompArg {
    uint32_t index = 0;
    uint64_t value = 0, value_two = 0;
    std::string op; // "SCMP_CMP_EQ", ...
};
struct SpecSeccompRule {
    std::vector<std::string> names;
    std::string action; // "SCMP_ACT_ALLOW"
    std::optional<uint32_t> errno_ret;
    std::vector<SpecSeccompArg> args;
};
struct SpecSeccomp {
    std::string default_action = "SCMP_ACT_ERRNO";
    std::optional<uint32_t> default_errno_ret;
    std::vector<std::string> architectures; // "SCMP_ARCH_X86_64"
    std::vector<SpecSeccompRule> rules;
};

struct RuntimeSpec {
    SpecProcess process;
    std::string root_path = "rootfs";
    bool root_read_only = false;
    std::string hostname, domainname;
    std::vector<SpecMount> mounts;
    std::vector<SpecNamespace> namespaces;
    std::vector<SpecDevice> devices;
    SpecResources resources;
    std::string cgroups_path; // absolute within each hierarchy: "/gantry/<id>"
    std::map<std::string, std::string> sysctl;
    std::vector<std::string> masked_paths, read_only_paths;
    std::optional<SpecSeccomp> seccomp;
    std::string rootfs_propagation = "rprivate";
    std::map<std::string, std::string> annotations;
};

/// The document as JSON text, ociVersion 1.0.2.
std::string to_json(const RuntimeSpec &spec);

/// Docker's default policy for a set of capabilities, as document. Deterministic.
SpecSeccomp default_seccomp(const std::vector<std::string> &capabilities);
/// A custom profile in Docker's JSON format (--security-opt seccomp=FILE contents).
SpecSeccomp parse_seccomp_profile(const std::string &json, const std::vector<std::string> &capabilities);
/// Docker's 14 default capabilities, and every capability this kernel knows.
std::vector<std::string> default_capabilities();
std::vector<std::string> all_capabilities();

} // namespace gantry
