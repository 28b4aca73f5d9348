// /dev/shm that several containers use (--ipc shareable and container:X). POSIX shared memory is files, so
// an IPC namespace alone does not share it: the donor's tmpfs is mounted on the host, below the engine's
// run directory, and bound into every container that joins. Private ones, the default, cost nothing here.
#include "core/container/containers_impl.h"

#include "core/base/files.h"
#include "core/base/log.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <sys/mount.h>
#include <unistd.h>

namespace gantry {

std::string Containers::Impl::shm_path(const std::string &id) const {
    return parts.config->run + "/shm/" + id;
}

void Containers::Impl::mount_shm(const std::string &id, const ContainerConfig &config) {
    const std::string path = shm_path(id);
    unmount_shm(id); // a start that an engine's death interrupted
    make_directories(path, 0700);
    const std::string options =
        "mode=1777,size=" + std::to_string(config.shm_size ? config.shm_size : kDefaultShmSize);
    if (::mount("shm", path.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options.c_str()) != 0)
        throw Error::from_errno(errno, "mount shared memory of container " + id);
}

void Containers::Impl::unmount_shm(const std::string &id) noexcept {
    const std::string path = shm_path(id);
    // Those who joined have it mounted themselves and keep it.
    if (::umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL && errno != ENOENT)
        log_warn("unmount {}: {}", path, strerror(errno));
    ::rmdir(path.c_str());
}

} // namespace gantry
