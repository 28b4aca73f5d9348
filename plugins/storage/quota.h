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
    /// Forgets the limit before the layer is removed; nothing where there is none.
    void release(const std::string &id) const noexcept;

  private:
    const LayerRoot &root_;
    std::string reason_;
    std::atomic<uint32_t> next_;
};

} // namespace gantry::storage
