#include "bench.h"

namespace gantry::kit {

std::vector<Case> network_cases() { return {}; }

} // namespace gantry::kit
