// The container's file tree, built by the child in its own mount namespace. Everything goes through the
// new mount API on descriptors: a destination is resolved with openat2(RESOLVE_IN_ROOT), so no symlink
// of the image can lead a mount outside, and move_mount puts the mount on that very inode, so there is
// no time between check and use. Kernels without overlay's `lowerdir+` (before 6.8) get the classic
// option page with names relative to their common directory.
#include "core/base/mount_options.h"
#include "core/runtime/shim/shim.h"

#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

namespace gantry::shim {
namespace {

int root_fd = -1;

int open_in_root(const char *path, uint64_t flags) {
    struct open_how how = {};
    how.flags = flags | O_CLOEXEC;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    int fd;
    // EAGAIN: a rename somewhere raced with the walk; the kernel asks for a retry.
    for (int tries = 0; tries < 64; tries++) {
        fd = int(syscall(SYS_openat2, root_fd, *path ? path : "/", &how, sizeof how));
        if (fd >= 0 || errno != EAGAIN) break;
    }
    return fd;
}

Path &fd_path(int fd) {
    static Path path;
    path = Path();
    return (path.add("/proc/self/fd/").number(unsigned(fd)), path);
}

/// O_PATH descriptor of `path` inside the root; missing directories are made, the last component as a
/// file when `as_file`.
int make_in_root(const char *path, bool as_file, int depth = 0) {
    int fd = open_in_root(path, O_PATH);
    if (fd >= 0 || errno != ENOENT) return fd;
    Path prefix;
    int parent = open_in_root("/", O_PATH | O_DIRECTORY);
    const char *p = path;
    while (parent >= 0) {
        while (*p == '/')
            p++;
        if (!*p) return parent;
        const char *end = strchrnul(p, '/');
        const char *rest = end;
        while (*rest == '/')
            rest++;
        bool last = *rest == 0;
        TextBuffer<256> name;
        name.add(p, size_t(end - p));
        prefix.add("/").add(p, size_t(end - p));
        int next = open_in_root(prefix.c(), O_PATH);
        if (next < 0 && errno == ENOENT && strcmp(name.c(), "..") != 0) {
            int made;
            if (last && as_file) {
                made = openat(parent, name.c(), O_CREAT | O_EXCL | O_CLOEXEC | O_WRONLY | O_NOFOLLOW, 0644);
                if (made >= 0) close(made), made = 0;
            } else {
                made = mkdirat(parent, name.c(), 0755);
            }
            if (made == 0) {
                next = open_in_root(prefix.c(), O_PATH);
            } else if (errno == EEXIST && depth < 16) {
                // A link whose target is missing in this root (/var/run -> /run): make the target.
                char target[1024];
                ssize_t n = readlinkat(parent, name.c(), target, sizeof target);
                close(parent);
                if (n <= 0 || n == sizeof target) return -1;
                Path other;
                if (target[0] != '/') other.add(prefix.c(), prefix.size - name.size);
                other.add(target, size_t(n)).add("/").add(rest);
                while (other.size > 1 && other.bytes[other.size - 1] == '/')
                    other.bytes[--other.size] = 0;
                return make_in_root(other.c(), as_file, depth + 1);
            }
        }
        int error = errno;
        close(parent);
        errno = error;
        parent = next;
        p = end;
    }
    return -1;
}

int attach_mount(int mount_fd, int target) {
    return move_mount(mount_fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

constexpr uint64_t kAtime = MOUNT_ATTR__ATIME;

int set_attributes(int mount_fd, uint64_t set, uint64_t propagation, bool recursive) {
    struct mount_attr attr = {};
    attr.attr_set = set;
    if (set & kAtime) attr.attr_clr = kAtime;
    attr.propagation = propagation;
    return mount_setattr(mount_fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof attr);
}

/// For kernels before 5.12: the old remount, on the attached mount.
int remount_classic(int target, uint64_t set) {
    unsigned long flags = MS_REMOUNT | MS_BIND;
    if (set & MOUNT_ATTR_RDONLY) flags |= MS_RDONLY;
    if (set & MOUNT_ATTR_NOSUID) flags |= MS_NOSUID;
    if (set & MOUNT_ATTR_NODEV) flags |= MS_NODEV;
    if (set & MOUNT_ATTR_NOEXEC) flags |= MS_NOEXEC;
    return mount(nullptr, fd_path(target).c(), nullptr, flags, nullptr);
}

int clone_tree(int dir, const char *path, bool recursive) {
    return open_tree(dir, path,
                     OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (*path ? 0 : AT_EMPTY_PATH) |
                         (recursive ? AT_RECURSIVE : 0));
}

/// One mount(8) word for a filesystem context.
int set_option(int fs, const char *option) {
    return mount_options::each_setting(option, [&](const char *key, const char *value) {
        return fsconfig(fs, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, key, value, 0);
    });
}

/// Ends the context: the detached mount when all options were taken (`result` 0), else -1 with their errno.
int finish_fs(int fs, int result, uint64_t attributes) {
    if (result == 0) result = fsconfig(fs, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
    int mount_fd = result == 0 ? fsmount(fs, FSMOUNT_CLOEXEC, unsigned(attributes)) : -1;
    int error = errno;
    close(fs);
    errno = error;
    return mount_fd;
}

int new_fs(const char *type, const char *source, uint64_t attributes, const plan::View *view,
           uint32_t first) {
    int fs = fsopen(type, FSOPEN_CLOEXEC);
    if (fs < 0) return -1;
    int result = 0;
    if (source && *source) fsconfig(fs, FSCONFIG_SET_STRING, "source", source, 0);
    for (uint32_t i = first; view && i < view->strings() && result == 0; i++)
        result = set_option(fs, view->text(i));
    return finish_fs(fs, result, attributes);
}

/// mount(2) on the mount point, with a remount for each further page of options.
int mount_classic(const plan::View &view, uint64_t attributes, const char *mount_point) {
    static mount_options::Pages pages;
    unsigned count = view.strings() - 3;
    auto option = [&](unsigned i) { return view.text(i + 3); };
    pages.begin(count, option);
    if (pages.folder[0] && chdir(pages.folder) != 0) return -1;
    unsigned long flags = attributes & MOUNT_ATTR_RDONLY ? MS_RDONLY : 0;
    bool too_long = false;
    int result = 0;
    for (; result == 0 && pages.fill(count, option, too_long); flags |= MS_REMOUNT)
        result = mount(view.text(0), mount_point, view.text(0), flags, pages.data);
    int error = too_long ? E2BIG : errno;
    if (chdir("/") != 0) return -1;
    errno = error;
    if (result != 0 || too_long) return -1;
    return open(mount_point, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

void do_mount(const plan::View &view) {
    const char *source = view.text(0), *target = view.text(1), *type = view.text(2);
    uint64_t kind = view.number(0), attributes = view.number(1), propagation = view.number(2);
    bool optional = view.number(3) != 0, recursive = kind == plan::kRecursiveBind;
    int mount_fd;
    bool as_file = false;
    if (kind == plan::kNewFs) {
        mount_fd = new_fs(type, source, attributes, &view, 3);
    } else {
        mount_fd = clone_tree(AT_FDCWD, source, recursive);
        struct stat status;
        if (mount_fd >= 0 && fstat(mount_fd, &status) == 0) as_file = !S_ISDIR(status.st_mode);
    }
    if (mount_fd < 0) {
        if (optional) return;
        Text what;
        what.add(kind == plan::kNewFs ? type : source).add(" to rootfs at ").add(target);
        child_fail(errno == ENOENT ? kClassNotFound : kClassInternal, errno, "mount", what.c());
    }
    bool old_kernel = false;
    if (kind != plan::kNewFs && attributes && set_attributes(mount_fd, attributes, 0, recursive) != 0)
        old_kernel = true;
    int place = make_in_root(target, as_file);
    if (place < 0 || attach_mount(mount_fd, place) != 0) {
        Text what;
        what.add(target);
        child_fail(kClassInternal, errno, "mount into rootfs at", what.c());
    }
    if (old_kernel && remount_classic(mount_fd, attributes) != 0)
        child_fail(kClassInternal, errno, "set mount options of", target);
    if (propagation) {
        bool all = propagation & MS_REC;
        if (set_attributes(mount_fd, 0, propagation & ~uint64_t(MS_REC), all) != 0 &&
            mount(nullptr, fd_path(mount_fd).c(), nullptr, propagation, nullptr) != 0)
            child_fail(kClassInternal, errno, "set propagation of", target);
    }
    close(place);
    close(mount_fd);
}

void make_device(const plan::View &view) {
    const char *path = view.text(0);
    mode_t mode = mode_t(view.number(0));
    Path parent, name;
    const char *slash = strrchr(path, '/');
    parent.add(path, slash ? size_t(slash - path) : 0);
    name.add(slash ? slash + 1 : path);
    int dir = make_in_root(parent.size ? parent.c() : "/", false);
    if (dir < 0) child_fail(kClassInternal, errno, "make directory of device", path);
    dev_t device = makedev(unsigned(view.number(1)), unsigned(view.number(2)));
    if (mknodat(dir, name.c(), mode, device) == 0) {
        if (fchownat(dir, name.c(), uid_t(view.number(3)), gid_t(view.number(4)), AT_SYMLINK_NOFOLLOW) != 0)
            child_fail(kClassInternal, errno, "set owner of device", path);
        int made = openat(dir, name.c(), O_PATH | O_NOFOLLOW | O_CLOEXEC);
        // chmod again: mknod is subject to the umask, and fchmod refuses O_PATH.
        if (made >= 0) chmod(fd_path(made).c(), mode & 07777), close(made);
    } else if (errno != EEXIST) {
        // In a user namespace mknod is refused: bind the host's node.
        int error = errno, source = clone_tree(AT_FDCWD, path, false);
        int place = make_in_root(path, true);
        if (source < 0 || place < 0 || attach_mount(source, place) != 0)
            child_fail(kClassInternal, error, "make device", path);
        close(source), close(place);
    }
    close(dir);
}

void make_symlink(const plan::View &view) {
    const char *path = view.text(1), *slash = strrchr(path, '/');
    Path parent;
    parent.add(path, slash ? size_t(slash - path) : 0);
    int dir = make_in_root(parent.size ? parent.c() : "/", false);
    if (dir < 0) return;
    if (symlinkat(view.text(0), dir, slash ? slash + 1 : path) != 0 && errno != EEXIST)
        child_fail(kClassInternal, errno, "make link", path);
    close(dir);
}

void mask(const char *path) {
    int place = open_in_root(path, O_PATH);
    if (place < 0) {
        if (errno == ENOENT || errno == ENOTDIR || errno == EACCES) return;
        child_fail(kClassInternal, errno, "mask", path);
    }
    struct stat status;
    int cover = -1;
    if (fstat(place, &status) == 0 && S_ISDIR(status.st_mode)) {
        cover =
            new_fs("tmpfs", "tmpfs", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, nullptr, 0);
    } else {
        int null = open_in_root("/dev/null", O_PATH);
        cover = null >= 0 ? clone_tree(null, "", false) : clone_tree(AT_FDCWD, "/dev/null", false);
        if (null >= 0) close(null);
    }
    if (cover < 0 || attach_mount(cover, place) != 0) child_fail(kClassInternal, errno, "mask", path);
    close(cover), close(place);
}

void make_read_only(const char *path) {
    int place = open_in_root(path, O_PATH);
    if (place < 0) {
        if (errno == ENOENT || errno == ENOTDIR) return;
        child_fail(kClassInternal, errno, "make read-only", path);
    }
    int tree = clone_tree(place, "", true);
    if (tree < 0) child_fail(kClassInternal, errno, "make read-only", path);
    bool done = set_attributes(tree, MOUNT_ATTR_RDONLY, 0, true) == 0;
    if (attach_mount(tree, place) != 0 ||
        (!done && remount_classic(tree, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                                            MOUNT_ATTR_NOEXEC) != 0))
        child_fail(kClassInternal, errno, "make read-only", path);
    close(tree), close(place);
}

} // namespace

int mount_rootfs(const char *plan_bytes, const char *root_path) {
    int root = -1;
    for (plan::Cursor c(plan_bytes, plan::kRootMount); c.next();) {
        plan::View view = c.view();
        const char *type = view.text(0), *source = view.text(1), *target = view.text(2);
        uint64_t attributes = view.number(0);
        int mount_fd;
        bool attached = false;
        if (!strcmp(type, "overlay") || !strcmp(type, "aufs")) {
            // aufs takes one page of text behind either interface, and more by remounting.
            bool classic = *type == 'a';
            mount_fd = classic ? -1 : new_fs(type, type, attributes, &view, 3);
            if (mount_fd < 0 && root < 0 &&
                (classic || errno == EINVAL || errno == ENOSYS || errno == E2BIG)) {
                mount_fd = mount_classic(view, attributes, root_path);
                attached = mount_fd >= 0;
            }
        } else if (!strcmp(type, "bind") || !strcmp(type, "rbind") || !*type) {
            mount_fd = clone_tree(AT_FDCWD, source, true);
            if (mount_fd >= 0 && attributes && set_attributes(mount_fd, attributes, 0, true) != 0 &&
                errno != ENOSYS)
                child_fail(kClassInternal, errno, "set mount options of rootfs", source);
        } else {
            mount_fd = new_fs(type, source, attributes, &view, 3);
        }
        if (mount_fd < 0) child_fail(kClassInternal, errno, "mount rootfs", *source ? source : type);
        if (root < 0) {
            int place = attached ? -1 : open(root_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
            if (!attached && (place < 0 || attach_mount(mount_fd, place) != 0))
                child_fail(kClassInternal, errno, "mount rootfs on", root_path);
            if (place >= 0) close(place);
            root = root_fd = mount_fd;
        } else {
            int place = make_in_root(target, false);
            if (place < 0 || attach_mount(mount_fd, place) != 0)
                child_fail(kClassInternal, errno, "mount rootfs part", target);
            close(place), close(mount_fd);
        }
    }
    if (root < 0) child_fail(kClassInvalid, EINVAL, "mount rootfs: no mounts given");
    return root;
}

void make_root(const char *plan_bytes, const char *root_path) {
    mount_rootfs(plan_bytes, root_path);
    for (plan::Cursor c(plan_bytes); c.next();) {
        plan::View view = c.view();
        switch (view.type()) {
        case plan::kMount: do_mount(view); break;
        case plan::kDevice: make_device(view); break;
        case plan::kSymlink: make_symlink(view); break;
        case plan::kMasked: mask(view.text(0)); break;
        case plan::kReadOnly: make_read_only(view.text(0)); break;
        default: break;
        }
    }
    for (plan::Cursor c(plan_bytes, plan::kOptions); c.next();) {
        // The working directory is made when it is missing, as runc does.
        int cwd = make_in_root(c.view().text(plan::kCwd), false);
        if (cwd >= 0) close(cwd);
    }
}

void enter_root(const char *plan_bytes) {
    uint64_t flags = 0;
    for (plan::Cursor c(plan_bytes, plan::kOptions); c.next();)
        flags = c.view().number(plan::kFlags);
    // pivot_root(".", "."): the old root lies on top of the new one at "/" and is detached from there;
    // no directory for it is needed in the image.
    if (fchdir(root_fd) != 0 || syscall(SYS_pivot_root, ".", ".") != 0)
        child_fail(kClassInternal, errno, "pivot_root");
    if (umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
        child_fail(kClassInternal, errno, "leave the host's root");
    if (flags & plan::kRootReadOnly) {
        int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (set_attributes(root, MOUNT_ATTR_RDONLY, 0, false) != 0 &&
            mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) != 0)
            child_fail(kClassInternal, errno, "make the root read-only");
        close(root);
    }
    close(root_fd);
}

} // namespace gantry::shim
