// What an overlay layer changes, read from its upper directory alone: the cost follows the changes and
// not the image.
#pragma once

#include "plugins/storage/layer_root.h"

namespace gantry {

/// Agrees with a walk of both trees, and sees beyond it a file rewritten within the same size and time.
/// kUnsupported when the layer holds redirected directories, which only that walk can follow.
void overlay_changes(const storage::LayerRoot &root, const std::string &id, const LayerIds &parents,
                     const Call &call, const std::function<void(const Change &)> &found);

} // namespace gantry
