// Reaching the daemon, and starting it when the default socket has nobody behind it.
#pragma once

#include "core/base/fd.h"

#include <string>

namespace gantry::cli {

struct Endpoint;

/// A connected socket. On an explicit endpoint a missing daemon is an error with the way to start it.
UniqueFd connect_or_start(const Endpoint &endpoint);
/// A program of the project beside this one, else in /usr/bin, else "".
std::string find_program(const std::string &name);

} // namespace gantry::cli
