// A driver's mounts as a detached tree: fsopen(2) and friends, so that nothing appears in any mount
// table. Kernels before 6.8 have no "lowerdir+", and a fsconfig string ends at 255 characters: there a
// thread in a mount namespace of its own uses mount(2) and takes the tree out with open_tree(2).
#include "core/layer/layers.h"

#include "core/base/files.h"
#include "core/base/mount_options.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

// linux/mount.h and sys/mount.h of glibc 2.36 agree on these; older ones lack some.
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif

namespace gantry {
namespace {

int sys_fsopen(const char *type) { return static_cast<int>(::syscall(SYS_fsopen, type, FSOPEN_CLOEXEC)); }
int sys_fsconfig(int fd, unsigned command, const char *key, const char *value) {
    return static_cast<int>(::syscall(SYS_fsconfig, fd, command, key, value, 0));
}
int sys_open_tree(int dir, const char *path, unsigned flags) {
    return static_cast<int>(::syscall(SYS_open_tree, dir, path, flags));
}

// What the kernel says about a failed fsconfig, e.g. "overlay: Unknown parameter 'lowerdir+'".
std::string kernel_log(int fs) {
    std::string text;
    char line[512];
    for (ssize_t n; (n = ::read(fs, line, sizeof line)) > 2;)
        text += (text.empty() ? "" : "; ") + std::string(line + 2, static_cast<size_t>(n) - 2);
    while (!text.empty() && text.back() == '\n')
        text.pop_back();
    return text;
}

[[noreturn]] void fail(const Mount &mount, const std::string &doing, int error, const std::string &log = {}) {
    throw Error::from_errno(error,
                            "mount " + mount.type + ": " + doing + (log.empty() ? "" : " (" + log + ")"));
}

UniqueFd open_bind(const Mount &mount) {
    UniqueFd tree(sys_open_tree(AT_FDCWD, mount.source.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    if (!tree) fail(mount, "clone " + mount.source, errno);
    if (mount.read_only) {
        struct mount_attr attr {};
        attr.attr_set = MOUNT_ATTR_RDONLY;
        if (::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attr, sizeof attr) != 0)
            fail(mount, "make " + mount.source + " read-only", errno);
    }
    return tree;
}

// True when set; false with errno and the kernel's log.
bool configure(int fs, const std::string &option) {
    return mount_options::each_setting(option.c_str(), [&](const char *key, const char *value) {
               return sys_fsconfig(fs, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, key, value);
           }) == 0;
}

UniqueFd mount_classic(const Mount &mount) {
    const auto count = static_cast<unsigned>(mount.options.size());
    const auto option = [&](unsigned i) { return mount.options[i].c_str(); };
    auto pages = std::make_unique<mount_options::Pages>();
    pages->begin(count, option);
    UniqueFd tree;
    std::exception_ptr error;
    std::thread([&] {
        try {
            // The thread's own namespace and working directory; both end with it.
            if (::unshare(CLONE_FS | CLONE_NEWNS) != 0) fail(mount, "make a mount namespace", errno);
            if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
                fail(mount, "make mounts private", errno);
            if (pages->folder[0] && ::chdir(pages->folder) != 0)
                fail(mount, std::string("enter ") + pages->folder, errno);
            const char *point = "/proc"; // always there, and hidden in this namespace only
            const char *source = mount.source.empty() ? "none" : mount.source.c_str();
            unsigned long flags = mount.read_only ? MS_RDONLY : 0;
            bool too_long = false;
            for (; pages->fill(count, option, too_long); flags |= MS_REMOUNT)
                if (::mount(source, point, mount.type.c_str(), flags, pages->data) != 0)
                    fail(mount, pages->data, errno);
            if (too_long)
                throw Error(ErrorClass::kUnsupported,
                            "mount " + mount.type + ": too many layers for this kernel's mount(2)",
                            "Linux 6.8 or later has no such limit");
            tree.reset(sys_open_tree(AT_FDCWD, point, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
            if (!tree) fail(mount, "take out the tree", errno);
        } catch (...) {
            error = std::current_exception();
        }
    }).join();
    if (error) std::rethrow_exception(error);
    return tree;
}

UniqueFd open_filesystem(const Mount &mount) {
    // aufs takes one page of text behind either interface, and more by remounting.
    if (mount.type == "aufs") return mount_classic(mount);
    UniqueFd fs(sys_fsopen(mount.type.c_str()));
    if (!fs) {
        if (errno == ENOSYS || errno == EINVAL) return mount_classic(mount);
        fail(mount, "open the file system type", errno);
    }
    if (!mount.source.empty()) sys_fsconfig(fs.get(), FSCONFIG_SET_STRING, "source", mount.source.c_str());
    for (const std::string &option : mount.options) {
        if (configure(fs.get(), option)) continue;
        const int error = errno;
        if (error == EINVAL && (option.starts_with("lowerdir") || option.size() > 255))
            return mount_classic(mount);
        fail(mount, option, error, kernel_log(fs.get()));
    }
    if (mount.read_only) sys_fsconfig(fs.get(), FSCONFIG_SET_FLAG, "ro", nullptr);
    if (sys_fsconfig(fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr) != 0) {
        const int error = errno;
        // Before overlay learned the new API (6.5) its options were only collected, and are judged here.
        if (error == EINVAL && std::any_of(mount.options.begin(), mount.options.end(),
                                           [](const auto &option) { return option.starts_with("lowerdir"); }))
            return mount_classic(mount);
        fail(mount, "create", error, kernel_log(fs.get()));
    }
    UniqueFd tree(static_cast<int>(
        ::syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC, mount.read_only ? MOUNT_ATTR_RDONLY : 0)));
    if (!tree) fail(mount, "attach", errno);
    return tree;
}

} // namespace

UniqueFd mount_detached(const std::vector<Mount> &mounts) {
    UniqueFd root;
    for (const Mount &mount : mounts) {
        UniqueFd tree = mount.type == "bind" ? open_bind(mount) : open_filesystem(mount);
        if (!root) {
            if (!mount.target.empty())
                throw Error(ErrorClass::kInternal, "mount layer: the driver's first mount is not the root");
            root = std::move(tree);
            continue;
        }
        open_how how{};
        how.flags = O_PATH | O_CLOEXEC;
        how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
        const UniqueFd target(
            static_cast<int>(::syscall(SYS_openat2, root.get(), mount.target.c_str(), &how, sizeof how)));
        if (!target) fail(mount, "find " + mount.target, errno);
        // Attaching to a tree that is itself detached needs Linux 6.15.
        if (::syscall(SYS_move_mount, tree.get(), "", target.get(), "",
                      MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0)
            fail(mount, "attach at " + mount.target, errno);
    }
    if (!root) throw Error(ErrorClass::kInternal, "mount layer: the driver gave no mounts");
    return root;
}

} // namespace gantry
