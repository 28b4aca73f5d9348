// What the file system itself knows about a layer: every item of a subvolume's tree that was written
// after the snapshot was taken is found without reading the rest (BTRFS_IOC_TREE_SEARCH_V2 skips whole
// branches whose generation is older). Chosen over a send stream: that names paths in an order of
// renames which would have to be replayed, and reads nothing less.
#pragma once

#include <gantry/storage.hpp>

#include <cstdint>
#include <functional>
#include <linux/btrfs.h>
#include <string_view>
#include <unordered_set>

namespace gantry::btrfs {

struct Item {
    uint64_t objectid, offset;
    uint32_t type;
    std::string_view bytes;
};
/// The range of keys and of objects in `tree` (0: the subvolume that `fd` lies in).
struct Range {
    uint64_t tree = 0, first = 0, last = UINT64_MAX, since = 0; // since: at least this transaction
    uint32_t first_type = 0, last_type = 255;
};
/// False when there is no such tree.
bool search(int fd, const Range &range, const Call &call, const std::function<void(const Item &)> &each);

struct Touched {
    std::unordered_set<uint64_t> changed; // inodes written after the snapshot
    std::unordered_set<uint64_t> passed;  // directories on the way to them that are as they were
    bool concerns(uint64_t inode) const { return changed.contains(inode) || passed.contains(inode); }
};
/// Inodes of the subvolume `fs` that a transaction after `since` wrote.
Touched find_touched(int fs, uint64_t since, const Call &call);

/// Bytes allocated and inodes made after `since`: what the parents share is in neither.
Usage own_usage(int fs, uint64_t since, const Call &call);

/// The places of a file's data, as comparable bytes: equal maps are equal contents.
std::string extent_map(int fs, uint64_t inode, const Call &call);

} // namespace gantry::btrfs
