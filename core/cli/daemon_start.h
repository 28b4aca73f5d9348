// Reaching the daemon, and starting it when the default socket has nobody behind it.
#pragma once

#include "core/base/fd.h"

#include <string>

namespace gantry::cli {

struct Endpoint;

/// A connected socket. On an explicit endpoint a missing daemon is an error with the way to start it.
UniqueFd connect_or_start(const Endpoint &endpoint);
/// gantryd beside this binary, else /usr/bin/gantryd, else "".
std::string find_daemon_binary();

} // namespace gantry::cli
