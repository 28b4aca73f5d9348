// The configuration commands of the client, run inside gantryd because they need the plugins' schemas.
#pragma once

#include <string>
#include <vector>

namespace gantry {

/// `check [FILE]`, `show [--origin] [FILE]`, `docs`, `import-docker FILE`; each with `--config FILE`.
/// Prints to stdout, errors to stderr; returns the exit code. Needs neither root nor an engine.
int run_config_command(const std::vector<std::string> &args);

} // namespace gantry
