// What a container is asked to be: Docker's Config and HostConfig, typed. The persisted form and the wire
// form are the same JSON dialect; the codec is config_codec.cpp.
#pragma once

#include "core/image/images.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace gantry {

struct MountRequest {
    std::string type; // "bind", "volume", "tmpfs"
    std::string source, target;
    bool read_only = false;
    std::string propagation;    // "rprivate", ...
    bool no_copy = false;       // volume: do not copy the image's content
    bool create_source = false; // -v makes a missing host directory, --mount does not
    uint64_t tmpfs_size = 0;
    uint32_t tmpfs_mode = 0;
    std::string tmpfs_options; // "size=64m,mode=1777"
    std::string mode;          // verbatim "ro,z"
    bool from_bind = false;    // came from HostConfig.Binds
};

struct PortRequest {
    std::string container_port;     // "80/tcp"
    std::string host_ip, host_port; // host_port "", "8080" or "8000-8010"
};

struct UlimitRequest {
    std::string name;
    int64_t soft = 0, hard = 0;
};

struct DeviceRequest {
    std::string host_path, container_path, permissions = "rwm";
};

struct NetworkRequest {
    std::string name;
    std::string ipv4, ipv6, mac;
    std::vector<std::string> aliases, links;
};

struct ContainerConfig {
    // Config
    std::string hostname, domainname, user, image, working_dir, stop_signal, mac_address;
    bool attach_stdin = false, attach_stdout = false, attach_stderr = false;
    bool tty = false, open_stdin = false, stdin_once = false;
    std::vector<std::string> env, cmd, entrypoint;
    bool cmd_set = false, entrypoint_set = false; // [] or "" given on purpose
    std::map<std::string, std::string> labels;
    std::vector<std::string> exposed_ports, volumes;
    std::optional<int> stop_timeout;
    std::optional<HealthcheckConfig> healthcheck;
    // HostConfig
    std::vector<std::string> binds;   // verbatim
    std::vector<MountRequest> mounts; // from Binds, Mounts and Tmpfs together
    std::string container_id_file, network_mode = "default", restart_policy = "no", runtime;
    std::string ipc_mode, pid_mode, uts_mode, userns_mode, cgroupns_mode, cgroup_parent, log_driver;
    std::map<std::string, std::string> log_options, sysctls, storage_options, annotations;
    int restart_max = 0;
    bool auto_remove = false, privileged = false, publish_all = false, read_only = false;
    std::optional<bool> init;
    std::vector<std::string> cap_add, cap_drop, dns, dns_options, dns_search, extra_hosts, group_add;
    std::vector<std::string> security_opt, volumes_from, device_cgroup_rules, links;
    std::vector<PortRequest> ports;
    std::vector<UlimitRequest> ulimits;
    std::vector<DeviceRequest> devices;
    int64_t memory = 0, memory_swap = 0, memory_reservation = 0, nano_cpus = 0;
    int64_t cpu_shares = 0, cpu_period = 0, cpu_quota = 0, shm_size = 0;
    std::optional<int64_t> pids_limit, memory_swappiness;
    std::string cpuset_cpus, cpuset_mems;
    std::optional<int> oom_score_adj;
    std::optional<bool> oom_kill_disable;
    uint16_t blkio_weight = 0;
    std::vector<std::string> masked_paths, read_only_paths;
    bool masked_paths_set = false, read_only_paths_set = false;
    uint16_t console_height = 0, console_width = 0;
    // NetworkingConfig
    std::vector<NetworkRequest> networks;
};

/// From the body of POST /containers/create. Types and ranges are checked, the field is named in the
/// error (kInvalidArgument). What gantry cannot honour is refused with a sentence (kUnsupported).
ContainerConfig parse_container_config(const std::string &json);
/// Docker's "Config" and "HostConfig" objects as JSON text, every key present.
std::string config_json(const ContainerConfig &config);
std::string host_config_json(const ContainerConfig &config);
/// Round trip for the database.
std::string encode_container_config(const ContainerConfig &config);
ContainerConfig decode_container_config(const std::string &text);

} // namespace gantry
