// What a layer changed. The walk compares both trees as the core's own does, but enters only the
// directories that the tree search names: its cost follows the changes, not the image. An inode number
// is the same file in a snapshot and its source, so equal numbers that the search does not name are
// equal trees, wherever they have been moved.
#pragma once

#include "plugins/storage-btrfs/search.h"

namespace gantry::btrfs {

struct ChangeInput {
    int lower = -1;                   // the parent's tree; -1 without one
    int upper = -1;                   // the layer's, or a snapshot of it
    int live = -1;                    // what the snapshot was taken of: has the content of nested subvolumes
    const Touched *touched = nullptr; // null when the trees are no snapshots of each other
};
void compare(const ChangeInput &in, const Call &call, const std::function<void(const Change &)> &found);

} // namespace gantry::btrfs
