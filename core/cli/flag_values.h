// Values of flags that have a grammar of their own. All throw FlagError.
#pragma once

#include <boost/json/fwd.hpp>

#include <string>
#include <utility>
#include <vector>

namespace gantry::cli {

std::vector<std::string> split(const std::string &text, char separator);
/// "80" or "80-90"; `whole` is for the message.
std::pair<int, int> parse_port_range(const std::string &text, const std::string &whole);
/// "nofile=1024:2048" to an element of HostConfig.Ulimits.
boost::json::value parse_ulimit(const std::string &text);
/// "/dev/x[:/dev/y][:rwm]" to an element of HostConfig.Devices.
boost::json::value parse_device(const std::string &text);
/// "on-failure:3" to HostConfig.RestartPolicy.
boost::json::object parse_restart(const std::string &text);
/// Reads the profile of "seccomp=FILE"; other options stay as they are.
std::string security_option(const std::string &text);

struct PortSpec {
    std::string host_ip, host_port, container_port, protocol;
};
/// "[IP:][HOST:]CONTAINER[/PROTO]" with ranges; one element for each container port. Throws FlagError.
std::vector<PortSpec> parse_publish(const std::string &text);
/// "A", "A=B" and comment lines of an env or label file; a bare name is looked up in the environment
/// when `from_environment`. Throws FlagError.
std::vector<std::string> read_key_values(const std::string &path, bool from_environment);
/// "type=bind,source=/a,target=/b,readonly" to an element of HostConfig.Mounts. Throws FlagError.
boost::json::object parse_mount(const std::string &text);

} // namespace gantry::cli
