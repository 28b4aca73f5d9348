// From the flags of run and create to the JSON body of POST /containers/create.
#pragma once

#include "core/cli/flag_values.h"
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

} // namespace gantry::cli
