#include "plugins/storage-btrfs/quota.h"

#include "plugins/storage-btrfs/search.h"
#include "plugins/storage-btrfs/subvolume.h"

#include <cstddef>
#include <cstring>
#include <endian.h>
#include <linux/btrfs_tree.h>
#include <sys/ioctl.h>
#include <vector>

namespace gantry::btrfs {
namespace {

// Of Linux 6.7; Debian 12's headers are older.
constexpr uint64_t kEnableSimple = 4;
constexpr uint64_t kStatusSimple = 1u << 3;
// Groups of this level are gantry's: level/subvolume limits 0/subvolume and what is nested in it.
constexpr uint64_t kLevel = uint64_t(0x6774) << 48;

int create_group(int root, uint64_t group, bool create) {
    btrfs_ioctl_qgroup_create_args args{};
    args.create = create;
    args.qgroupid = group;
    return ::ioctl(root, BTRFS_IOC_QGROUP_CREATE, &args);
}
int assign(int root, uint64_t member, uint64_t group, bool assign) {
    btrfs_ioctl_qgroup_assign_args args{};
    args.assign = assign;
    args.src = member;
    args.dst = group;
    return ::ioctl(root, BTRFS_IOC_QGROUP_ASSIGN, &args);
}

bool subvolume_exists(int root, uint64_t id, const Call &call) {
    bool there = false;
    Range range;
    range.tree = BTRFS_ROOT_TREE_OBJECTID;
    range.first = range.last = id;
    range.first_type = range.last_type = BTRFS_ROOT_ITEM_KEY;
    search(root, range, call, [&](const Item &) { there = true; });
    return there;
}

} // namespace

Quota::Mode Quota::mode_of(int root, const Call &call) {
    Mode mode = Mode::kOff;
    Range range;
    range.tree = BTRFS_QUOTA_TREE_OBJECTID;
    range.last = 0;
    range.first_type = range.last_type = BTRFS_QGROUP_STATUS_KEY;
    search(root, range, call, [&](const Item &item) {
        btrfs_qgroup_status_item status;
        constexpr size_t kHead = offsetof(btrfs_qgroup_status_item, flags) + sizeof status.flags;
        if (item.type != BTRFS_QGROUP_STATUS_KEY || item.bytes.size() < kHead) return;
        std::memcpy(&status, item.bytes.data(), kHead);
        const uint64_t flags = le64toh(status.flags);
        if (flags & BTRFS_QGROUP_STATUS_FLAG_ON) mode = flags & kStatusSimple ? Mode::kSimple : Mode::kFull;
    });
    return mode;
}

void Quota::open(int root, bool enable, const Call &call) {
    mode_ = mode_of(root, call);
    if (mode_ == Mode::kOff && enable) {
        btrfs_ioctl_quota_ctl_args args{};
        args.cmd = kEnableSimple;
        if (::ioctl(root, BTRFS_IOC_QUOTA_CTL, &args) != 0) {
            args.cmd = BTRFS_QUOTA_CTL_ENABLE;
            if (::ioctl(root, BTRFS_IOC_QUOTA_CTL, &args) != 0)
                throw Error::from_errno(errno, "turn on quotas of the btrfs file system");
        }
        mode_ = mode_of(root, call);
    }
    if (mode_ != Mode::kSimple) return;
    // A kill between the end of a subvolume and that of its group leaves the group.
    std::vector<uint64_t> left;
    Range range;
    range.tree = BTRFS_QUOTA_TREE_OBJECTID;
    range.last = 0;
    range.first_type = range.last_type = BTRFS_QGROUP_INFO_KEY;
    search(root, range, call, [&](const Item &item) {
        if ((item.offset & ~((uint64_t(1) << 48) - 1)) == kLevel) left.push_back(item.offset);
    });
    for (const uint64_t group : left)
        if (!subvolume_exists(root, group & ~kLevel, call)) release(root, group, call);
}

void Quota::limit(int root, int fs, uint64_t bytes) const {
    const uint64_t subvolume = describe(fs).id;
    btrfs_ioctl_qgroup_limit_args args{};
    args.qgroupid = subvolume;
    args.lim.flags = BTRFS_QGROUP_LIMIT_MAX_EXCL;
    args.lim.max_excl = bytes;
    if (mode_ == Mode::kSimple) {
        args.qgroupid |= kLevel;
        if (create_group(root, args.qgroupid, true) != 0 && errno != EEXIST)
            throw Error::from_errno(errno, "make quota group");
        if (assign(root, subvolume, args.qgroupid, true) < 0)
            throw Error::from_errno(errno, "assign layer to its quota group");
    }
    if (::ioctl(root, BTRFS_IOC_QGROUP_LIMIT, &args) != 0)
        throw Error::from_errno(errno, "limit the size of a layer");
}

void Quota::release(int root, uint64_t group, const Call &call) const {
    std::vector<uint64_t> members;
    Range range;
    range.tree = BTRFS_QUOTA_TREE_OBJECTID;
    range.first = range.last = group;
    range.first_type = range.last_type = BTRFS_QGROUP_RELATION_KEY;
    search(root, range, call, [&](const Item &item) { members.push_back(item.offset); });
    for (const uint64_t member : members)
        assign(root, member, group, false);
    create_group(root, group, false); // in use by the kernel's own clean-up: the next start tries again
}

void Quota::forget(int root, uint64_t subvolume, const Call &call) const {
    if (mode_ == Mode::kSimple) release(root, subvolume | kLevel, call);
}

} // namespace gantry::btrfs
