// The move of everything to another storage driver. Layers are made anew in the target one by one, base
// layers first, while the old ones stay as they are; one transaction then turns images and containers
// over to the new ones, and only after it has reached the disk the old ones go. A kill before that
// transaction leaves the old driver in charge and what was copied to be used again; a kill after it
// leaves old layers in state 'removing', which the next start ends.
//
// The engine is at rest meanwhile: nobody makes, runs or removes anything.
#pragma once

#include "core/layer/layers.h"

#include <map>

namespace gantry {

struct MigrationStep {
    std::string layer;            // "" for a phase as a whole
    std::string doing;            // "Copying", "Checking", ...
    uint64_t done = 0, total = 0; // bytes
};

class Migration {
  public:
    struct Side {
        std::string name;
        std::shared_ptr<StorageDriver> driver;
    };
    using Progress = std::function<void(const MigrationStep &)>;
    /// `size_limits`: of containers' writable layers, by layer id.
    Migration(Db &db, Side from, Side to, std::string root, std::map<std::string, uint64_t> size_limits,
              Progress progress);
    ~Migration();

    /// Refuses what cannot end well: kNoSpace, or limits that the target cannot keep.
    void judge(const Call &call);
    /// Copies what is not there yet; then every image and container is compared as a whole.
    void copy(const Call &call);
    /// From here on the new driver is in charge, also after a power cut.
    void switch_over();
    /// Undoes an unfinished move to `to`: what was copied so far goes.
    void forget(const Call &call);
    size_t layers() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Drivers other than `current` whose layers wait for their removal after a move.
std::vector<std::string> drivers_moved_from(Db &db, const std::string &current);
/// Drivers other than `current` that hold copies of a move which was interrupted.
std::vector<std::string> drivers_with_copies(Db &db, const std::string &current);
/// Ends that removal: all layers, and `folder`, the driver's own, when nothing is left in it.
void remove_moved(Db &db, const Migration::Side &old, const std::string &folder, const Call &call,
                  const Migration::Progress &progress);

} // namespace gantry
