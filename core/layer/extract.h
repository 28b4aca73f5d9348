// A tar extracted into a tree that others may be changing at the same time: a running container's, or a
// user's directory. Paths are resolved within the root only (see rooted.h), the last component is never
// followed, and what is opened was made here.
#pragma once

#include "core/layer/tar_writer.h"

#include <optional>
#include <string>
#include <utility>

namespace gantry {

struct ExtractRules {
    std::string below;       // clean path within the root under which everything goes
    bool keep_kinds = false; // a directory never replaces something else, nor the reverse
    bool set_owner = true;   // to the archive's numbers; false: whoever extracts
    bool devices = true;     // false: left out
    std::optional<std::pair<uid_t, gid_t>> owner; // instead of the archive's
    /// Maps entry names (and hard link targets); "" leaves the entry out.
    std::function<std::string(const std::string &)> rename;
    std::function<void()> check; // between entries; throws to end
};

/// Returns the bytes of file content. Throws kInvalidArgument for damaged archives and names that lead
/// out of the root.
uint64_t extract_tar(const std::function<size_t(void *, size_t)> &source, int root_fd,
                     const ExtractRules &rules);

} // namespace gantry
