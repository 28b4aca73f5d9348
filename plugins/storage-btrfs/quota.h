// How much a layer may hold, by quota groups. Simple quotas (Linux 6.7) charge an extent to the
// subvolume that wrote it: cheap, exact for a layer over its parents, and subvolumes that a container
// makes are charged to its group too. Older kernels have full quotas, which follow every back reference:
// they slow the whole file system down, so that nobody gets them without asking.
#pragma once

#include <gantry/storage.hpp>

namespace gantry::btrfs {

class Quota {
  public:
    /// Turns quotas on if `enable` and they are off; never turns them off, as others may use them.
    void open(int root, bool enable, const Call &call);
    bool on() const noexcept { return mode_ != Mode::kOff; }

    /// Limits the new subvolume `fs`. Parents' data does not count.
    void limit(int root, int fs, uint64_t bytes) const;
    /// Before the subvolume goes.
    void forget(int root, uint64_t subvolume, const Call &call) const;

  private:
    enum class Mode { kOff, kFull, kSimple };
    static Mode mode_of(int root, const Call &call);
    void release(int root, uint64_t group, const Call &call) const;

    Mode mode_ = Mode::kOff;
};

} // namespace gantry::btrfs
