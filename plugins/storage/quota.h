// Size limits of single layers by project quota (xfs, ext4): every file below a directory belongs to its
// project, and the file system counts and limits a project's blocks. The project id of a layer is written
// on its directory only, so nothing else has to be remembered.
#pragma once

#include "plugins/storage/layer_root.h"

#include <atomic>

namespace gantry::storage {

class ProjectQuota {
  public:
    /// Finds out whether the file system of the root enforces project quotas.
    explicit ProjectQuota(const LayerRoot &root);

    bool usable() const noexcept { return reason_.empty(); }
    /// Puts the (empty) directory of a new layer into a project of its own that may hold `bytes`.
    /// kUnsupported, with what is missing, where that cannot be.
    void limit(int dir, const std::string &id, uint64_t bytes);
    /// Changes the limit of a layer that has one.
    void change(int dir, uint64_t bytes) const;
    /// Before a stack is mounted for writing: overlayfs makes a directory then, and where it cannot the mount
    /// is read-only, so that a full container could never be emptied. Lifts the limit to a little above
    /// what is in use, at most by 1 MiB in all; the soft limit keeps the size that was asked for.
    void make_room(int dir) const noexcept;
    /// Forgets the limit before the layer is removed; nothing where there is none.
    void release(const std::string &id) const noexcept;

  private:
    const LayerRoot &root_;
    std::string reason_;
    std::atomic<uint32_t> next_;
};

} // namespace gantry::storage
