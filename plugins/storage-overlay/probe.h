// Whether overlayfs can work on a directory is found by trying it on a detached mount.
#pragma once

#include <string>
#include <vector>

namespace gantry {

/// What can be told without touching anything, for a listing: throws kUnsupported with the obstacle alone.
void judge_overlay(const std::string &root);
/// Throws kUnsupported with the kernel's reason.
void probe_overlay(int root, const std::string &path, const std::vector<std::string> &options);

} // namespace gantry
