#include "bench.h"

namespace gantry::kit {

std::vector<Case> storage_tree_cases() { return {}; }

} // namespace gantry::kit
