#include "plugins/storage/quota.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <linux/dqblk_xfs.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <sys/ioctl.h>
#include <sys/quota.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_quotactl_fd // Linux 5.14; glibc 2.36 knows the number on every architecture we build for
#define SYS_quotactl_fd 443
#endif

namespace gantry::storage {
namespace {

// Beyond what administrators number by hand in /etc/projects.
constexpr uint32_t kFirstProject = 0x47000000;

// The X commands answer on xfs and on ext4 alike.
long quota(int fd, int command, uint32_t project, void *argument) {
    return ::syscall(SYS_quotactl_fd, fd, QCMD(static_cast<unsigned>(command), PRJQUOTA), project, argument);
}

uint32_t project_of(int dir) {
    fsxattr attr{};
    return ::ioctl(dir, FS_IOC_FSGETXATTR, &attr) == 0 ? attr.fsx_projid : 0;
}

constexpr uint64_t kBlock = 512; // of quotas, whatever the file system's is
constexpr uint64_t kRoom = (256 << 10) / kBlock, kMostRoom = (1 << 20) / kBlock;

bool set_blocks(int dir, uint32_t project, uint64_t soft, uint64_t hard) {
    fs_disk_quota limit{};
    limit.d_version = FS_DQUOT_VERSION;
    limit.d_flags = FS_PROJ_QUOTA;
    limit.d_id = project;
    limit.d_fieldmask = FS_DQ_BHARD | FS_DQ_BSOFT;
    limit.d_blk_softlimit = soft;
    limit.d_blk_hardlimit = hard;
    return quota(dir, Q_XSETQLIM, project, &limit) == 0;
}
bool set_limit(int dir, uint32_t project, uint64_t bytes) { // 0: none
    const uint64_t blocks = bytes / kBlock + (bytes % kBlock != 0);
    return set_blocks(dir, project, blocks, blocks);
}

} // namespace

ProjectQuota::ProjectQuota(const LayerRoot &root) : root_(root), next_(kFirstProject) {
    fs_quota_statv state{};
    state.qs_version = FS_QSTATV_VERSION1;
    if (quota(root.fd(), Q_XGETQSTATV, 0, &state) != 0)
        reason_ = errno == ENOSYS
                      ? "the kernel has no project quotas"
                      : std::string("the file system has no project quotas (") + std::strerror(errno) + ")";
    else if (!(state.qs_flags & FS_QUOTA_PDQ_ENFD))
        reason_ = "the file system is mounted without prjquota";
    if (!usable()) return;
    uint32_t highest = kFirstProject;
    for (const std::string &id : root.list())
        try {
            highest = std::max(highest, project_of(root.open(id).get()));
        } catch (const Error &) {
            // removed meanwhile
        }
    next_ = highest + 1;
}

void ProjectQuota::limit(int dir, const std::string &id, uint64_t bytes) {
    if (!usable())
        throw Error(ErrorClass::kUnsupported, "limit the size of layer " + id + ": " + reason_,
                    "put " + root_.path() + " on xfs or ext4 and mount that with the option prjquota");
    const uint32_t project = next_++;
    fsxattr attr{};
    if (!set_limit(dir, project, bytes) || ::ioctl(dir, FS_IOC_FSGETXATTR, &attr) != 0)
        throw Error::from_errno(errno, "limit the size of layer " + id);
    attr.fsx_projid = project;
    attr.fsx_xflags |= FS_XFLAG_PROJINHERIT;
    if (::ioctl(dir, FS_IOC_FSSETXATTR, &attr) != 0) {
        const int error = errno;
        set_limit(dir, project, 0);
        throw Error::from_errno(error, "limit the size of layer " + id);
    }
}

void ProjectQuota::change(int dir, uint64_t bytes) const {
    if (!set_limit(dir, project_of(dir), bytes))
        throw Error::from_errno(errno, "change the limit of a layer");
}

void ProjectQuota::make_room(int dir) const noexcept {
    if (!usable()) return;
    const uint32_t project = project_of(dir);
    fs_disk_quota now{};
    if (project < kFirstProject || quota(dir, Q_XGETQUOTA, project, &now) != 0 || now.d_blk_softlimit == 0)
        return;
    const uint64_t size = now.d_blk_softlimit,
                   hard = std::clamp<uint64_t>(now.d_bcount + kRoom, size, size + kMostRoom);
    if (hard != now.d_blk_hardlimit) set_blocks(dir, project, size, hard);
}

void ProjectQuota::release(const std::string &id) const noexcept {
    if (!usable()) return;
    try {
        const UniqueFd dir = root_.open(id);
        if (const uint32_t project = project_of(dir.get()); project >= kFirstProject)
            set_limit(dir.get(), project, 0);
    } catch (const std::exception &) {
        // not there; a limit that stays is set anew when its number comes again
    }
}

} // namespace gantry::storage
