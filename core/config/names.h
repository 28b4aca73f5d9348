// Tables whose keys are image names: short names and rules of trust.
#pragma once

#include "core/config/tree.h"

#include <gantry/value.hpp>

namespace gantry {

/// [registry.short_names], longest key first. `table` (may be null) knows where things were written.
std::vector<std::pair<std::string, std::string>> judge_short_names(const Config &map, const Node *table);
/// [trust], with the parts of every pattern. Key files are not opened.
TrustConfig judge_trust(const Config &trust, const Node *section);

} // namespace gantry
