// Capability names in the order of their numbers.
#pragma once

#include <string>
#include <vector>

namespace gantry {

/// Every capability gantry has a name for; all_capabilities() is what of these the kernel knows.
const std::vector<std::string> &capability_names();

} // namespace gantry
