// Subvolumes through libbtrfsutil. A container may make subvolumes of its own inside its layer (the
// kernel asks no privilege for it), and they are in the way twice: a layer with nested subvolumes cannot
// be deleted by one ioctl, and a snapshot shows them as empty directories.
#pragma once

#include "plugins/storage/tree.h"

#include <cstdint>
#include <string>

namespace gantry::btrfs {

/// Throws kUnsupported with what `path` (or the nearest directory above that exists) lies on.
void check_filesystem(const std::string &path);

void make_subvolume(int dir, const char *name);
void make_snapshot(int from, int dir, const std::string &name, bool read_only);
/// Read-only from the next transaction on; the ioctl ends with that transaction on disk.
void set_read_only(int fs, bool read_only);

struct SubvolumeInfo {
    uint64_t id = 0;
    uint64_t made_at = 0;     // transaction in which the snapshot was taken; later ones are the layer's own
    std::string uuid, origin; // 16 bytes each; origin is that of the snapshot's source, zeros without one
};
SubvolumeInfo describe(int fs);

/// Removes `name` below `at`: directories, subvolumes in them and whatever is nested there.
void discard(int at, const std::string &name);

/// Turns subvolumes below `fs` into plain directories, their content shared by reflinks.
void flatten_nested(int fs, const Call &call);

} // namespace gantry::btrfs
