// What a layer of a stacking file system (overlayfs, aufs) changes, read from its own directory alone:
// the cost follows the changes and not the image.
#pragma once

#include "plugins/storage/layer_root.h"

namespace gantry::storage {

/// aufs' marks: ".wh.NAME" deletes, ".wh..wh..opq" makes its directory opaque, other ".wh..wh.*" are
/// bookkeeping of a mount (pseudo-links, orphans) and no part of the tree.
inline constexpr std::string_view kAufsPrefix = ".wh.", kAufsMeta = ".wh..wh.", kAufsOpaque = ".wh..wh..opq";

/// Agrees with a walk of both trees, and sees beyond it a file rewritten within the same size and time.
/// kUnsupported when the layer holds redirected directories, which only that walk can follow.
void stacked_changes(const LayerRoot &root, gantry_whiteout whiteout, const std::string &id,
                     const LayerIds &parents, const Call &call,
                     const std::function<void(const Change &)> &found);

/// Takes out of a base layer the marks that delete nothing: it is shown by a bind mount, where they would
/// be seen.
StrayWhiteout stray_whiteouts(gantry_whiteout whiteout);

} // namespace gantry::storage
