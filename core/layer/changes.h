// The difference of two trees, for drivers without a native one.
#pragma once

#include <gantry/storage.hpp>

#include <vector>

namespace gantry {

/// Walks `upper` against `lower` (-1: empty). Parents come before children; a directory is modified
/// when its own metadata differs.
std::vector<Change> compare_trees(int lower_fd, int upper_fd, const Call &call);

} // namespace gantry
