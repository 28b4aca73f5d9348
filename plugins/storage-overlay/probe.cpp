#include "plugins/storage-overlay/probe.h"

#include "plugins/storage/probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace gantry {
namespace {

using storage::Fd;

[[noreturn]] void unsupported(const std::string &path, const std::string &why) {
    throw Error(ErrorClass::kUnsupported, "use overlayfs on " + path + ": " + why,
                "choose the storage driver vfs, or put the root on ext4, xfs or btrfs");
}

} // namespace

void probe_overlay(int root, const std::string &path, const std::vector<std::string> &options) {
    const storage::ProbeDirectory probe(root, path);
    const Fd lower_file(::openat(probe.fd.get(), "lower/file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    if (!lower_file) throw Error::from_errno(errno, "write to " + path);
    const Fd upper = storage::open_directory(probe.fd.get(), "upper");
    if (::fsetxattr(upper.get(), "trusted.overlay.opaque", "n", 1, 0) != 0)
        unsupported(path, std::string("it cannot hold trusted extended attributes: ") + std::strerror(errno));
    if (::fremovexattr(upper.get(), "trusted.overlay.opaque") != 0)
        unsupported(path, "extended attributes cannot be removed");
    if (::mknodat(upper.get(), "device", S_IFCHR, makedev(0, 0)) != 0)
        unsupported(path, std::string("whiteouts cannot be made: ") + std::strerror(errno));
    ::unlinkat(upper.get(), "device", 0);

    std::vector<std::string> all{"lowerdir=" + probe.below("lower"), "upperdir=" + probe.below("upper"),
                                 "workdir=" + probe.below("work")};
    all.insert(all.end(), options.begin(), options.end());
    std::string why;
    const Fd mount = storage::try_mount("overlay", all, why);
    if (!mount) unsupported(path, why);
    // A mount can succeed and still be unable to delete (no whiteouts) or to tell types (no d_type).
    if (::unlinkat(mount.get(), "file", 0) != 0)
        unsupported(path, std::string("a file below cannot be deleted: ") + std::strerror(errno));
    storage::each_entry(probe.fd.get(), path, [&](const dirent &entry) {
        if (entry.d_type == DT_UNKNOWN)
            unsupported(path, "the file system does not tell file types in directories (d_type)");
    });
}

void judge_overlay(const std::string &root) {
    const auto obstacle = [](const std::string &what) { throw Error(ErrorClass::kUnsupported, what); };
    if (!storage::kernel_lists("overlay") && !storage::kernel_could_load("overlay"))
        obstacle("kernel has no overlayfs");
    if (root.find_first_of(":,\\") != std::string::npos)
        obstacle("the path " + root + " holds ':', ',' or '\\'");
    const Fd dir = storage::nearest_directory(root);
    if (!dir) return;
    const std::string type = storage::filesystem_of(dir.get());
    for (const char *bad : {"overlay", "nfs", "fuse", "vfat", "9p", "cifs", "squashfs", "ecryptfs", "aufs"})
        if (type == bad)
            obstacle("the file system of " + root + " (" + type + ") cannot be an upper directory");
}

} // namespace gantry
