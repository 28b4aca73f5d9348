#include "bench.h"

namespace gantry::kit {

std::vector<Case> registry_cases() { return {}; }

} // namespace gantry::kit
