#include "plugins/storage-overlay/probe.h"

#include "plugins/storage/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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

// Relative names below the probe directory keep every string short, as fsconfig wants it.
class ProbeDirectory {
  public:
    ProbeDirectory(int root, const std::string &path)
        : root_(root), name_(".probe-" + std::to_string(::getpid())) {
        storage::remove_tree(root, name_);
        if (::mkdirat(root, name_.c_str(), 0700) != 0)
            throw Error::from_errno(errno, "make directory in " + path);
        fd = storage::open_directory(root, name_);
        for (const char *sub : {"lower", "upper", "work"})
            if (::mkdirat(fd.get(), sub, 0700) != 0)
                throw Error::from_errno(errno, "make directory in " + path);
    }
    ~ProbeDirectory() {
        try {
            storage::remove_tree(root_, name_);
        } catch (const Error &) {
            // swept at the next start
        }
    }
    std::string below(const char *sub) const {
        return "/proc/self/fd/" + std::to_string(fd.get()) + "/" + sub;
    }
    Fd fd;

  private:
    int root_;
    std::string name_;
};

} // namespace

void probe_overlay(int root, const std::string &path, const std::vector<std::string> &options) {
    const ProbeDirectory probe(root, path);
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

    const Fd fs(static_cast<int>(::syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC)));
    if (!fs) unsupported(path, std::string("the kernel has no overlayfs: ") + std::strerror(errno));
    const auto set = [&](const char *key, const std::string &value) {
        return ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0;
    };
    bool configured = set("lowerdir", probe.below("lower")) && set("upperdir", probe.below("upper")) &&
                      set("workdir", probe.below("work"));
    for (const std::string &option : options) {
        const size_t equals = option.find('=');
        configured = configured && (equals == std::string::npos
                                        ? ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_FLAG, option.c_str(),
                                                    nullptr, 0) == 0
                                        : set(option.substr(0, equals).c_str(), option.substr(equals + 1)));
    }
    Fd mount;
    if (configured && ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0)
        mount = Fd(static_cast<int>(::syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC, 0)));
    if (!mount) {
        const int error = errno;
        char reason[256] = {};
        const ssize_t n = ::read(fs.get(), reason, sizeof reason - 1);
        unsupported(path, n > 2 ? std::string(reason + 2, static_cast<size_t>(n) - 2) : std::strerror(error));
    }
    // A mount can succeed and still be unable to delete (no whiteouts) or to tell types (no d_type).
    if (::unlinkat(mount.get(), "file", 0) != 0)
        unsupported(path, std::string("a file below cannot be deleted: ") + std::strerror(errno));
    DIR *dir = ::fdopendir(::openat(probe.fd.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    bool typed = dir != nullptr;
    while (const dirent *entry = dir ? ::readdir(dir) : nullptr)
        typed = typed && entry->d_type != DT_UNKNOWN;
    if (dir) ::closedir(dir);
    if (!typed) unsupported(path, "the file system does not tell file types in directories (d_type)");
}

} // namespace gantry
