// From the flags of run and create to the JSON body of POST /containers/create.
#pragma once

#include "core/cli/flags.h"

#include <boost/json/fwd.hpp>

#include <span>
#include <string>
#include <vector>

namespace gantry::cli {

/// The flags that run and create share.
std::span<const Flag> container_flags();

/// The create body. `detached` is run's -d. Reads env, label and seccomp files. Throws FlagError.
boost::json::object create_body(const ParsedFlags &flags, const std::string &image,
                                const std::vector<std::string> &command, bool detached);

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
