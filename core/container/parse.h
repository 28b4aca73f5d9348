// The small languages inside a create request: binds, ports, signals, capabilities, device rules,
// users. Pure functions; errors are kInvalidArgument with Docker's sentences.
#pragma once

#include "core/container/config.h"
#include "core/runtime/spec.h"

#include <gantry/network.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace gantry {

/// "src:dst[:ro,z,rprivate]", "name:/dst", "/dst".
MountRequest parse_bind(const std::string &text);
bool is_propagation(const std::string &word);
bool valid_volume_name(const std::string &name);
/// Lexical: no "//", ".", "..", no trailing slash.
std::string clean_path(const std::string &path);
void check_tmpfs_options(const std::string &options);

/// "80", "80/udp", "8000-8002/tcp" -> {"80/tcp"}, ...
std::vector<std::string> expand_container_port(const std::string &text);
/// "", "0" -> {0,0}; "8080" -> {8080,8080}; "8000-8010" -> {8000,8010}.
std::pair<uint16_t, uint16_t> parse_host_ports(const std::string &text);
/// Driver bindings of the requests; expose adds those of publish_all.
std::vector<PortBinding> port_bindings(const ContainerConfig &config);

/// "TERM", "SIGTERM", "15", "RTMIN+3". Throws kInvalidArgument "Invalid signal: x".
int parse_signal(const std::string &text);
std::string signal_name(int signal);
/// "nofile" -> "RLIMIT_NOFILE".
std::string rlimit_type(const std::string &name);
/// "10m", "512k", "1gb", "123".
uint64_t parse_bytes(const std::string &text);
/// "c 1:3 rwm", "b *:* m".
SpecDeviceRule parse_device_rule(const std::string &text);

/// Docker's default set with CapAdd and CapDrop applied; privileged: everything.
std::vector<std::string> merge_capabilities(const std::vector<std::string> &add,
                                            const std::vector<std::string> &drop, bool privileged);

struct SecurityOptions {
    bool no_new_privileges = false;
    std::string seccomp; // "", "unconfined" or a profile's JSON
    bool unmask_system_paths = false;
};
SecurityOptions parse_security_options(const std::vector<std::string> &options);

/// Namespace modes and their combinations; log driver; sysctls.
void check_modes(const ContainerConfig &config);
void check_log_options(const std::string &driver, const std::map<std::string, std::string> &options);
void check_sysctls(const ContainerConfig &config);

const std::vector<std::string> &default_masked_paths();
const std::vector<std::string> &default_read_only_paths();

struct UserIds {
    uint32_t uid = 0, gid = 0;
    std::vector<uint32_t> groups;
    std::string home = "/";
};
/// "name", "uid", "name:group", "uid:gid" against the texts of passwd and group.
UserIds resolve_user(const std::string &user, const std::vector<std::string> &group_add,
                     const std::string &passwd, const std::string &group);

/// Sets or replaces NAME in a list of NAME=VALUE.
void set_env(std::vector<std::string> &env, const std::string &entry, bool replace);
/// Applies entries in order as Docker does: NAME=VALUE replaces, NAME alone removes.
std::vector<std::string> merge_env(const std::vector<std::string> &base,
                                   const std::vector<std::string> &over);

/// Delay before the nth restart in a row (0: first): 100 ms doubling to 1 min.
int64_t restart_delay_ms(int failures);

} // namespace gantry
