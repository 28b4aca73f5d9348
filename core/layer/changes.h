// The difference of two trees, for drivers without a native one.
#pragma once

#include <gantry/storage.hpp>

#include <vector>

namespace gantry {

/// Walks `upper` against `lower` (-1: empty). Parents come before children; a directory is modified
/// when its own metadata differs. `links` false: numbers of links do not count; a union counts those of a
/// file in its layer, also the ones that another layer hides.
std::vector<Change> compare_trees(int lower_fd, int upper_fd, const Call &call, bool links = true);

} // namespace gantry
