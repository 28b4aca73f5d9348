// Dockerfile instructions applied to an image's "config" object, for import and commit.
#pragma once

#include <boost/json/fwd.hpp>
#include <string>
#include <vector>

namespace gantry {

/// CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD SHELL STOPSIGNAL USER VOLUME WORKDIR, in order.
/// Variables are those of the config's Env. Throws kInvalidArgument that names the instruction.
void apply_instructions(boost::json::object &config, const std::vector<std::string> &instructions);

} // namespace gantry
