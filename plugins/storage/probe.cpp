#include "plugins/storage/probe.h"

#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <linux/magic.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

namespace gantry::storage {

ProbeDirectory::ProbeDirectory(int root, const std::string &path)
    : root_(root), name_(".probe-" + std::to_string(::getpid())) {
    remove_tree(root, name_);
    if (::mkdirat(root, name_.c_str(), 0700) != 0)
        throw Error::from_errno(errno, "make directory in " + path);
    fd = open_directory(root, name_);
    for (const char *sub : {"lower", "upper", "work"})
        if (::mkdirat(fd.get(), sub, 0700) != 0) throw Error::from_errno(errno, "make directory in " + path);
}

ProbeDirectory::~ProbeDirectory() {
    try {
        remove_tree(root_, name_);
    } catch (const Error &) {
        // swept at the next start
    }
}

std::string ProbeDirectory::below(const char *sub) const {
    return "/proc/self/fd/" + std::to_string(fd.get()) + "/" + sub;
}

UniqueFd try_mount(const char *type, const std::vector<std::string> &options, std::string &why) {
    const UniqueFd fs(static_cast<int>(::syscall(SYS_fsopen, type, FSOPEN_CLOEXEC)));
    if (!fs) {
        why = std::string("the kernel has no ") + type + ": " + std::strerror(errno);
        return UniqueFd();
    }
    bool configured = true;
    for (const std::string &option : options) {
        const size_t equals = option.find('=');
        const bool flag = equals == std::string::npos;
        configured =
            configured &&
            ::syscall(SYS_fsconfig, fs.get(), flag ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING,
                      option.substr(0, equals).c_str(), flag ? nullptr : option.c_str() + equals + 1, 0) == 0;
    }
    UniqueFd mount;
    if (configured && ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0)
        mount.reset(static_cast<int>(::syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC, 0)));
    if (mount) return mount;
    why = std::strerror(errno);
    char reason[256] = {};
    const ssize_t n = ::read(fs.get(), reason, sizeof reason - 1);
    if (n > 2) why = std::string(reason + 2, static_cast<size_t>(n) - 2);
    while (!why.empty() && why.back() == '\n')
        why.pop_back();
    return mount;
}

bool kernel_lists(const std::string &type) {
    std::ifstream list("/proc/filesystems");
    for (std::string line; std::getline(list, line);)
        if (line.ends_with("\t" + type)) return true;
    return false;
}

bool kernel_could_load(const std::string &module) {
    utsname name{};
    if (::uname(&name) != 0) return false;
    std::ifstream list(std::string("/lib/modules/") + name.release + "/modules.dep");
    for (std::string line; std::getline(list, line);) {
        const std::string file = line.substr(0, line.find(':'));
        if (file.substr(file.rfind('/') + 1).starts_with(module + ".ko")) return true;
    }
    return false;
}

bool kernel_loads(const char *type) {
    return UniqueFd(static_cast<int>(::syscall(SYS_fsopen, type, FSOPEN_CLOEXEC))).get() >= 0;
}

UniqueFd nearest_directory(std::string path) {
    for (;;) {
        UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (fd || errno != ENOENT || path.size() <= 1 || path[0] != '/') return fd;
        const size_t slash = path.find_last_not_of('/', path.rfind('/'));
        path.resize(slash == std::string::npos ? 1 : slash + 1);
    }
}

std::string filesystem_of(int dir) {
    struct statfs st {};
    if (::fstatfs(dir, &st) != 0) return "unknown";
    switch (static_cast<unsigned long>(st.f_type)) {
    case EXT4_SUPER_MAGIC: return "ext4";
    case XFS_SUPER_MAGIC: return "xfs";
    case BTRFS_SUPER_MAGIC: return "btrfs";
    case TMPFS_MAGIC: return "tmpfs";
    case OVERLAYFS_SUPER_MAGIC: return "overlay";
    case NFS_SUPER_MAGIC: return "nfs";
    case FUSE_SUPER_MAGIC: return "fuse";
    case RAMFS_MAGIC: return "ramfs";
    case SQUASHFS_MAGIC: return "squashfs";
    case V9FS_MAGIC: return "9p";
    case MSDOS_SUPER_MAGIC: return "vfat";
    case CIFS_SUPER_MAGIC: return "cifs";
    case ECRYPTFS_SUPER_MAGIC: return "ecryptfs";
    case 0x61756673: return "aufs"; // in no header of the kernel
    default: break;
    }
    char text[32];
    std::snprintf(text, sizeof text, "0x%lx", static_cast<unsigned long>(st.f_type));
    return text;
}

} // namespace gantry::storage
