// Copying files in and out. A running container is entered through its init's root, so that everything
// its processes see is there; a stopped one is mounted in a namespace of its own with its volumes and
// binds, which costs the host's mount table nothing.
//
// The container is hostile: its processes may swap any name for a link while we look at it. So no path of
// it is ever resolved by this process's own root: openat2(2) with RESOLVE_IN_ROOT for every parent,
// nothing followed in the last place, no magic links (cf. CVE-2018-15664, CVE-2019-14271).
#include "core/container/containers_impl.h"

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/layer/decompress.h"
#include "core/layer/extract.h"
#include "core/layer/rooted.h"
#include "core/layer/tree_tar.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <thread>
#include <unistd.h>

namespace gantry {

namespace {

constexpr int kMaxLinks = 255;
constexpr size_t kAccountLimit = 4u << 20;

UniqueFd open_in(int root, const std::string &path, uint64_t flags) {
    open_how how{};
    how.flags = flags | O_CLOEXEC;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    for (;;) {
        const long fd = ::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how);
        // EAGAIN: a rename somewhere raced with "..".
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) return UniqueFd(static_cast<int>(fd));
    }
}

bool ends_in_dot(const std::string &path) { return path == "." || path.ends_with("/."); }

/// "/" + path without ".", ".." and doubled slashes; a trailing "/" or "/." stays, for it asks for a
/// directory.
std::string absolute(const std::string &path) {
    std::vector<std::string_view> parts;
    for (size_t at = 0; at < path.size();) {
        const size_t end = std::min(path.find('/', at), path.size());
        const std::string_view part = std::string_view(path).substr(at, end - at);
        at = end + 1;
        if (part == "..") {
            if (!parts.empty()) parts.pop_back();
        } else if (!part.empty() && part != ".") {
            parts.push_back(part);
        }
    }
    std::string out;
    for (const auto part : parts)
        out += "/" + std::string(part);
    if (ends_in_dot(path)) return out + "/.";
    if (out.empty() || path.ends_with('/')) out += '/';
    return out;
}

/// The last component, as Go's filepath.Base says it.
std::string base_of(std::string path) {
    while (path.size() > 1 && path.ends_with('/'))
        path.pop_back();
    return path == "/" ? path : path.substr(path.rfind('/') + 1);
}

/// All links of a path followed within the root, as far as it exists. For showing and comparing only:
/// by the time anybody uses it, it may be another.
std::string follow_links(int root, const std::string &path) {
    std::string done;
    std::deque<std::string> rest;
    const auto push_front = [&](const std::string &text) {
        std::vector<std::string> parts;
        for (size_t at = 0; at < text.size();) {
            const size_t end = std::min(text.find('/', at), text.size());
            if (end > at) parts.push_back(text.substr(at, end - at));
            at = end + 1;
        }
        rest.insert(rest.begin(), parts.begin(), parts.end());
    };
    push_front(path);
    for (int links = 0; !rest.empty();) {
        const std::string part = rest.front();
        rest.pop_front();
        if (part == ".") continue;
        if (part == "..") {
            done.resize(done.empty() ? 0 : done.rfind('/'));
            continue;
        }
        const std::string candidate = done + "/" + part;
        const UniqueFd fd = open_in(root, candidate, O_PATH | O_NOFOLLOW);
        char target[4096];
        const ssize_t size = fd ? ::readlinkat(fd.get(), "", target, sizeof target) : -1;
        if (size <= 0) {
            done = candidate;
            continue;
        }
        if (++links > kMaxLinks)
            throw Error(ErrorClass::kInvalidArgument, "resolve " + path + ": too many symbolic links");
        const std::string text(target, static_cast<size_t>(size));
        if (text[0] == '/') done.clear();
        push_front(text);
    }
    return done.empty() ? "/" : done;
}

bool below_or_same(const std::string &path, const std::string &directory) {
    return path == directory || directory == "/" || path.starts_with(directory + "/");
}

/// Kernel interfaces, which have no content of their own: reading them may block, never end or act.
bool is_kernel_interface(int directory) {
    struct statfs info {};
    if (::fstatfs(directory, &info) != 0) return false;
    switch (static_cast<unsigned long>(info.f_type)) {
    case PROC_SUPER_MAGIC:
    case SYSFS_MAGIC:
    case CGROUP_SUPER_MAGIC:
    case CGROUP2_SUPER_MAGIC:
    case DEVPTS_SUPER_MAGIC:
    case DEBUGFS_MAGIC:
    case TRACEFS_MAGIC:
    case SECURITYFS_MAGIC:
    case BPF_FS_MAGIC:
    case 0x19800202: // mqueue
        return true;
    default: return false;
    }
}

[[noreturn]] void not_found(const std::string &path, const std::string &container) {
    throw Error(ErrorClass::kNotFound, "Could not find the file " + path + " in container " + container);
}

struct PlacedMount {
    MountPoint point;
    UniqueFd tree;
};

/// Clones, so that the container's namespace gets mounts of its own.
std::vector<PlacedMount> clone_mounts(std::vector<MountPoint> points, bool write) {
    // A mount within another comes after it.
    std::stable_sort(points.begin(), points.end(), [](const auto &a, const auto &b) {
        return a.destination.size() < b.destination.size();
    });
    std::vector<PlacedMount> out;
    for (auto &point : points) {
        if (point.type == "tmpfs" || point.source.empty()) continue; // empty while nothing runs
        UniqueFd tree(static_cast<int>(::syscall(SYS_open_tree, AT_FDCWD, point.source.c_str(),
                                                 OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)));
        if (!tree) {
            // Reading goes on without it; a write would land below the mount where nobody finds it.
            if (errno == ENOENT && !write) continue;
            throw Error::from_errno(errno, "mount " + point.source + " at " + point.destination);
        }
        struct mount_attr attributes {};
        attributes.propagation = MS_PRIVATE;
        attributes.attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID;
        if (!point.rw) attributes.attr_set |= MOUNT_ATTR_RDONLY;
        if (::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                      sizeof attributes) != 0)
            throw Error::from_errno(errno, "mount " + point.source + " at " + point.destination);
        out.push_back({std::move(point), std::move(tree)});
    }
    return out;
}

/// As a start would make it: a directory, or an empty file for a file.
UniqueFd make_mount_point(int root, const PlacedMount &mount) {
    struct stat st {};
    if (::fstat(mount.tree.get(), &st) != 0) throw Error::from_errno(errno, "stat " + mount.point.source);
    RootedTree tree(root);
    const std::string path = clean_entry_path(mount.point.destination);
    const auto at = tree.place(path);
    const int made = S_ISDIR(st.st_mode) ? ::mkdirat(at.parent, at.name, 0755)
                     : UniqueFd(::openat(at.parent, at.name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644))
                         ? 0
                         : -1;
    if (made != 0 && errno != EEXIST)
        throw Error::from_errno(errno, "make mount point " + mount.point.destination);
    return open_in(root, "/" + path, O_PATH);
}

} // namespace

class Containers::Impl::View {
  public:
    UniqueFd root;   // O_PATH
    UniqueFd mounts; // keeps the namespace, and with it what is mounted below the root
    std::unique_lock<std::mutex> operation;

    /// The layer's tree with the mounts on it, alone in a namespace. False when a place to mount at is
    /// missing and may not be made.
    bool assemble(UniqueFd tree, std::vector<PlacedMount> placed, bool write) {
        bool complete = true;
        std::exception_ptr error;
        std::thread([&] {
            try {
                // The thread's own namespaces; they live on by the descriptor.
                if (::unshare(CLONE_FS | CLONE_NEWNS) != 0)
                    throw Error::from_errno(errno, "mount container: make a mount namespace");
                ::umask(0);
                mounts = open_file("/proc/thread-self/ns/mnt", O_RDONLY);
                if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
                    throw Error::from_errno(errno, "mount container: make mounts private");
                const char *point = "/proc"; // always there, and hidden in this namespace only
                if (::syscall(SYS_move_mount, tree.get(), "", AT_FDCWD, point, MOVE_MOUNT_F_EMPTY_PATH) !=
                        0 ||
                    ::chdir(point) != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0 ||
                    ::umount2(".", MNT_DETACH) != 0 || ::chdir("/") != 0)
                    throw Error::from_errno(errno, "mount container: enter its tree");
                root = open_file("/", O_PATH | O_DIRECTORY);
                for (const PlacedMount &mount : placed) {
                    UniqueFd target = open_in(root.get(), mount.point.destination, O_PATH);
                    if (!target && errno == ENOENT && write) target = make_mount_point(root.get(), mount);
                    if (!target && errno == ENOENT) {
                        complete = false;
                        return;
                    }
                    if (!target || ::syscall(SYS_move_mount, mount.tree.get(), "", target.get(), "",
                                             MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0)
                        throw Error::from_errno(errno, "mount " + mount.point.source + " at " +
                                                           mount.point.destination);
                }
            } catch (...) {
                error = std::current_exception();
            }
        }).join();
        if (error) std::rethrow_exception(error);
        return complete;
    }
};

std::unique_ptr<Containers::Impl::View> Containers::Impl::view(const RecordPtr &record, bool write) {
    auto view = std::make_unique<View>();
    for (;;) {
        std::shared_ptr<Task> task;
        std::vector<MountPoint> points;
        {
            std::lock_guard lock(record->mutex);
            if (record->removed) throw Error(ErrorClass::kNotFound, "No such container: " + record->id);
            if (record->state.running) task = need_task(*record);
            points = record->mounts;
        }
        if (task) {
            const std::string process = "/proc/" + std::to_string(task->pid());
            view->root = UniqueFd(::open((process + "/root").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
            view->mounts = UniqueFd(::open((process + "/ns/mnt").c_str(), O_RDONLY | O_CLOEXEC));
            // It was alive after both were opened, so the number was still its own.
            const bool alive = task->pid() > 0 && !task->process_ended();
            if (view->operation) view->operation.unlock();
            if (view->root && view->mounts && alive) return view;
            std::unique_lock lock(record->mutex);
            if (!record->changed.wait_for(lock, std::chrono::seconds(10),
                                          [&] { return record->task != task; }))
                throw Error(ErrorClass::kUnavailable, "copy files: container " + record->id + " is ending");
            continue;
        }
        if (!view->operation) { // nobody starts or removes it between the look and the mounts
            view->operation = std::unique_lock(record->operation);
            continue;
        }
        const std::string dir = directory(record->id);
        for (const char *name : {"hosts", "hostname", "resolv.conf"})
            if (path_exists(dir + "/" + name)) {
                const std::string target = std::string("/etc/") + name;
                if (std::none_of(points.begin(), points.end(),
                                 [&](const auto &p) { return p.destination == target; }))
                    points.push_back({"bind", "", dir + "/" + name, target, "", "", "", true});
            }
        if (!write && view->assemble(mount_detached(parts.layers->mounts(record->layer, true)),
                                     clone_mounts(points, false), false)) {
            view->operation.unlock(); // a reader that takes its time keeps nobody from starting it
            return view;
        }
        if (!view->assemble(mount_detached(parts.layers->mounts(record->layer, false)),
                            clone_mounts(points, write), true))
            throw Error(ErrorClass::kInternal,
                        "mount container " + record->id + ": a mount point is missing");
        return view;
    }
}

namespace {

PathStat stat_in(int root, const std::string &path, const std::string &asked, const std::string &container) {
    const UniqueFd fd = open_in(root, path, O_PATH | O_NOFOLLOW);
    struct stat st {};
    if (!fd || ::fstat(fd.get(), &st) != 0) {
        if (errno == ENOENT) not_found(asked, container);
        if (errno == ENOTDIR)
            throw Error(ErrorClass::kInvalidArgument,
                        "stat " + asked + " in container " + container + ": not a directory");
        throw Error::from_errno(errno, "stat " + asked + " in container " + container);
    }
    PathStat out;
    out.name = base_of(path);
    out.size = static_cast<uint64_t>(st.st_size);
    out.mode = st.st_mode;
    out.mtime_ns = st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec;
    if (S_ISLNK(st.st_mode)) out.link_target = follow_links(root, path);
    return out;
}

std::function<void()> check_of(const CancelSource &cancel) {
    return [&cancel] {
        if (cancel.cancelled()) throw Error(ErrorClass::kCancelled, "copy files: cancelled by the caller");
    };
}

} // namespace

PathStat Containers::stat_path(const std::string &name, const std::string &path) {
    auto record = impl_->find(name);
    const auto view = impl_->view(record, false);
    return stat_in(view->root.get(), absolute(path), path, name);
}

void Containers::read_archive(const std::string &name, const std::string &asked,
                              const std::function<void(const PathStat &)> &begin, const ByteSink &sink,
                              const CancelSource &cancel) {
    auto record = impl_->find(name);
    const auto view = impl_->view(record, false);
    const int root = view->root.get();
    const std::string path = absolute(asked);
    const PathStat stat = stat_in(root, path, asked, name);

    // /dev of a running container is the kernel's too, though its file system is not.
    struct stat devices {};
    const bool has_devices = ::fstatat(root, "dev", &devices, AT_SYMLINK_NOFOLLOW) == 0;
    struct stat top {};
    ::fstat(root, &top);
    TreeTarOptions options;
    options.notice = [&](const std::string &note) {
        log_info("copy from container {}: {}", record->id, note);
    };
    options.check = check_of(cancel);
    options.enter = [&](int directory) {
        struct stat st {};
        if (::fstat(directory, &st) != 0 || is_kernel_interface(directory)) return false;
        return !(has_devices && devices.st_dev != top.st_dev && st.st_dev == devices.st_dev &&
                 st.st_ino == devices.st_ino);
    };
    TreeTar tar(sink, options);
    const std::string stored = stat.name;
    if (S_ISDIR(stat.mode)) {
        const UniqueFd directory = open_in(root, path, O_RDONLY | O_DIRECTORY);
        if (!directory) throw Error::from_errno(errno, "open " + asked + " in container " + name);
        begin(stat);
        tar.add(directory.get(), ".", stored, true);
    } else {
        const std::string folder = path.substr(0, path.rfind('/') + 1);
        const UniqueFd parent = open_in(root, folder, O_PATH | O_DIRECTORY);
        if (!parent) not_found(asked, name);
        begin(stat);
        tar.add(parent.get(), stored, stored, false);
    }
    tar.finish();
    impl_->publish(*record, "archive-path");
}

void Containers::write_archive(const std::string &name, const std::string &asked,
                               const ExtractOptions &options, const ByteSource &source,
                               const CancelSource &cancel) {
    auto record = impl_->find(name);
    const auto view = impl_->view(record, true);
    const int root = view->root.get();
    const std::string path = absolute(asked);
    const UniqueFd directory = open_in(root, path, O_PATH);
    struct stat st {};
    if (!directory || ::fstat(directory.get(), &st) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) not_found(asked, name);
        throw Error::from_errno(errno, "open " + asked + " in container " + name);
    }
    if (!S_ISDIR(st.st_mode))
        throw Error(ErrorClass::kInvalidArgument, "extraction point is not a directory");

    ExtractRules rules;
    const std::string resolved = follow_links(root, path);
    rules.below = clean_entry_path(resolved);
    rules.keep_kinds = options.no_overwrite_dir_non_dir;
    rules.check = check_of(cancel);
    std::shared_ptr<const ContainerConfig> config;
    {
        std::lock_guard lock(record->mutex);
        config = record->config;
        const MountPoint *mount = nullptr;
        for (const auto &point : record->mounts)
            if (below_or_same(resolved, point.destination) &&
                (!mount || point.destination.size() > mount->destination.size()))
                mount = &point;
        // A tmpfs asked for with --tmpfs is in no list of mounts; the kernel knows what is writable there.
        if (mount && !mount->rw)
            throw Error(ErrorClass::kPermissionDenied, "mounted volume is marked read-only");
        if (!mount && config->read_only && !record->state.running)
            throw Error(ErrorClass::kPermissionDenied, "container rootfs is marked read-only");
    }
    if (options.container_owner && !config->user.empty()) {
        const UserIds user = resolve_user(config->user, {}, read_in_root(root, "/etc/passwd", kAccountLimit),
                                          read_in_root(root, "/etc/group", kAccountLimit));
        rules.owner = {user.uid, user.gid};
    }
    // What is overwritten may be a tree of any depth, and this thread's stack is small.
    std::exception_ptr failed;
    std::thread([&] {
        try {
            const auto stream = open_decompressor(source);
            extract_tar([&](void *bytes, size_t size) { return stream->read(bytes, size); }, root, rules);
        } catch (const Error &error) {
            failed = error.errno_value() != EROFS
                         ? std::current_exception()
                         : std::make_exception_ptr(
                               Error(ErrorClass::kPermissionDenied, "container rootfs is marked read-only"));
        } catch (...) {
            failed = std::current_exception();
        }
    }).join();
    if (failed) std::rethrow_exception(failed);
    impl_->publish(*record, "extract-to-dir");
}

} // namespace gantry
