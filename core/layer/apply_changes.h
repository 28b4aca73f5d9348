// A layer's changes carried from one tree to another as they are, for the move between storage drivers.
// A tar would lose what images may hold and archives do not: holes, sockets, access lists, trusted
// attributes, access times.
#pragma once

#include <gantry/storage.hpp>

#include <functional>
#include <vector>

namespace gantry {

struct ApplyTarget {
    int root = -1;
    /// How deletions are written: GANTRY_WHITEOUT_NONE deletes what is there.
    gantry_whiteout whiteout = GANTRY_WHITEOUT_NONE;
};

/// Makes `target` show what `source` (a tree that nobody changes) shows of `changes`, parents before
/// children as drivers tell them, and gives its root the source's attributes. `copied` is told bytes.
void apply_changes(int source, const ApplyTarget &target, const std::vector<Change> &changes,
                   const Call &call, const std::function<void(uint64_t)> &copied);

} // namespace gantry
