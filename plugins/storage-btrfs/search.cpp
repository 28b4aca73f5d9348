#include "plugins/storage-btrfs/search.h"

#include <cstddef>
#include <cstring>
#include <endian.h>
#include <linux/btrfs_tree.h>
#include <memory>
#include <sys/ioctl.h>
#include <vector>

namespace gantry::btrfs {
namespace {

constexpr size_t kBuffer = 64 << 10;

// Items lie unaligned in the buffer, and an old file system may hold shorter ones.
template <typename Raw> bool read_item(const Item &item, Raw &out) {
    if (item.bytes.size() < sizeof out) return false;
    std::memcpy(&out, item.bytes.data(), sizeof out);
    return true;
}

} // namespace

bool search(int fd, const Range &range, const Call &call, const std::function<void(const Item &)> &each) {
    std::vector<uint64_t> memory((sizeof(btrfs_ioctl_search_args_v2) + kBuffer) / sizeof(uint64_t));
    auto *args = reinterpret_cast<btrfs_ioctl_search_args_v2 *>(memory.data());
    btrfs_ioctl_search_key &key = args->key;
    key.tree_id = range.tree;
    key.min_objectid = range.first;
    key.max_objectid = range.last;
    key.min_type = range.first_type;
    key.max_type = range.last_type;
    key.max_offset = UINT64_MAX;
    key.min_transid = range.since;
    key.max_transid = UINT64_MAX;
    for (;;) {
        call.check("search the tree of a layer");
        key.nr_items = UINT32_MAX;
        args->buf_size = kBuffer;
        if (::ioctl(fd, BTRFS_IOC_TREE_SEARCH_V2, args) != 0) {
            if (errno == ENOENT && range.tree != 0) return false;
            if (errno == EINTR) continue;
            throw Error::from_errno(errno, "search the tree of a layer");
        }
        if (key.nr_items == 0) return true;
        const char *at = reinterpret_cast<const char *>(args->buf);
        const char *const end = at + kBuffer;
        btrfs_ioctl_search_header header{};
        for (uint32_t i = 0; i < key.nr_items; ++i) {
            if (end - at < static_cast<ptrdiff_t>(sizeof header)) break;
            std::memcpy(&header, at, sizeof header);
            at += sizeof header;
            if (end - at < static_cast<ptrdiff_t>(header.len)) break;
            // The range is one of whole keys, so types outside of it come up between two objects.
            if (header.type >= range.first_type && header.type <= range.last_type)
                each({header.objectid, header.offset, header.type, {at, header.len}});
            at += header.len;
        }
        key.min_objectid = header.objectid;
        key.min_type = header.type;
        key.min_offset = header.offset;
        if (++key.min_offset != 0) continue;
        if (key.min_type < 255) {
            ++key.min_type;
        } else {
            key.min_type = 0;
            if (key.min_objectid++ == range.last) return true;
        }
    }
}

Touched find_touched(int fs, uint64_t since, const Call &call) {
    Touched out;
    std::vector<uint64_t> open; // inodes whose directories are still to be found
    Range range;
    range.first = BTRFS_FIRST_FREE_OBJECTID;
    range.last = BTRFS_LAST_FREE_OBJECTID;
    range.since = since + 1;
    search(fs, range, call, [&](const Item &item) {
        btrfs_inode_item inode;
        // Leaves are written whole: most items in a new one are old.
        if (item.type != BTRFS_INODE_ITEM_KEY || !read_item(item, inode)) return;
        if (le64toh(inode.transid) <= since) return;
        out.changed.insert(item.objectid);
        // The directory of an inode that was made after the snapshot has changed itself.
        if (le64toh(inode.generation) <= since) open.push_back(item.objectid);
    });
    while (!open.empty()) {
        const uint64_t inode = open.back();
        open.pop_back();
        const auto pass = [&](uint64_t directory) {
            if (directory != inode && !out.changed.contains(directory) && out.passed.insert(directory).second)
                open.push_back(directory);
        };
        Range names;
        names.first = names.last = inode;
        names.first_type = BTRFS_INODE_REF_KEY;
        names.last_type = BTRFS_INODE_EXTREF_KEY;
        search(fs, names, call, [&](const Item &item) {
            if (item.type == BTRFS_INODE_REF_KEY) return pass(item.offset);
            constexpr size_t kHead = offsetof(btrfs_inode_extref, name);
            for (size_t at = 0; at + kHead <= item.bytes.size();) {
                btrfs_inode_extref ref;
                std::memcpy(&ref, item.bytes.data() + at, kHead);
                pass(le64toh(ref.parent_objectid));
                at += kHead + le16toh(ref.name_len);
            }
        });
    }
    return out;
}

Usage own_usage(int fs, uint64_t since, const Call &call) {
    Usage usage;
    std::unordered_set<uint64_t> extents; // several files, and parts of one, may share an extent
    Range range;
    range.first = BTRFS_FIRST_FREE_OBJECTID;
    range.last = BTRFS_LAST_FREE_OBJECTID;
    range.since = since == 0 ? 0 : since + 1;
    search(fs, range, call, [&](const Item &item) {
        if (item.type == BTRFS_INODE_ITEM_KEY) {
            btrfs_inode_item inode;
            if (item.objectid != BTRFS_FIRST_FREE_OBJECTID && read_item(item, inode) &&
                le64toh(inode.generation) > since)
                ++usage.inodes;
        } else if (item.type == BTRFS_EXTENT_DATA_KEY) {
            constexpr size_t kInlineHead = offsetof(btrfs_file_extent_item, disk_bytenr);
            btrfs_file_extent_item extent{};
            if (item.bytes.size() < kInlineHead) return;
            std::memcpy(&extent, item.bytes.data(), std::min(item.bytes.size(), sizeof extent));
            if (le64toh(extent.generation) <= since) return;
            if (extent.type == BTRFS_FILE_EXTENT_INLINE)
                usage.bytes += item.bytes.size() - kInlineHead;
            else if (const uint64_t place = le64toh(extent.disk_bytenr);
                     place != 0 && extents.insert(place).second) // 0 is a hole
                usage.bytes += le64toh(extent.disk_num_bytes);
        }
    });
    return usage;
}

std::string extent_map(int fs, uint64_t inode, const Call &call) {
    std::string map;
    Range range;
    range.first = range.last = inode;
    range.first_type = range.last_type = BTRFS_EXTENT_DATA_KEY;
    search(fs, range, call, [&](const Item &item) {
        map.append(reinterpret_cast<const char *>(&item.offset), sizeof item.offset);
        map.append(item.bytes);
    });
    return map;
}

} // namespace gantry::btrfs
