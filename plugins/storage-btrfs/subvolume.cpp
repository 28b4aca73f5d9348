#include "plugins/storage-btrfs/subvolume.h"

#include <atomic>
#include <btrfsutil.h>
#include <cstring>
#include <fcntl.h>
#include <linux/btrfs_tree.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <memory>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace gantry::btrfs {
namespace {

using storage::Fd;

void check(btrfs_util_error result, const std::string &doing) {
    if (result == BTRFS_UTIL_OK) return;
    const int error = errno;
    throw Error::from_errno(error, doing + " (" + btrfs_util_strerror(result) + ")");
}

std::string filesystem_name(const struct statfs &fs) {
    switch (static_cast<unsigned long>(fs.f_type)) {
    case EXT4_SUPER_MAGIC: return "ext4";
    case XFS_SUPER_MAGIC: return "xfs";
    case TMPFS_MAGIC: return "tmpfs";
    case OVERLAYFS_SUPER_MAGIC: return "overlay";
    case F2FS_SUPER_MAGIC: return "f2fs";
    case NFS_SUPER_MAGIC: return "nfs";
    case 0x2fc12fc1: return "zfs";
    case 0xca451a4e: return "bcachefs";
    }
    char text[32];
    std::snprintf(text, sizeof text, "of type 0x%lx", static_cast<unsigned long>(fs.f_type));
    return text;
}

bool is_subvolume(int dir, const std::string &name) {
    struct stat st {};
    return ::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode) &&
           st.st_ino == BTRFS_FIRST_FREE_OBJECTID;
}

/// Paths of the subvolumes below `fs`, each before those nested in it.
std::vector<std::string> nested_below(int fs) {
    btrfs_util_subvolume_iterator *iterator = nullptr;
    check(btrfs_util_create_subvolume_iterator_fd(fs, 0, 0, &iterator), "list nested subvolumes");
    const std::unique_ptr<btrfs_util_subvolume_iterator, decltype(&btrfs_util_destroy_subvolume_iterator)>
        owner(iterator, btrfs_util_destroy_subvolume_iterator);
    std::vector<std::string> paths;
    for (;;) {
        char *path = nullptr;
        const auto result = btrfs_util_subvolume_iterator_next(iterator, &path, nullptr);
        const std::unique_ptr<char, decltype(&std::free)> text(path, std::free);
        if (result == BTRFS_UTIL_ERROR_STOP_ITERATION) return paths;
        check(result, "list nested subvolumes");
        paths.emplace_back(path);
    }
}

// The paths come from the file system, but what lies there is the container's: no symlink is followed.
Fd open_beneath(int fs, const std::string &path) {
    open_how how{};
    how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    Fd fd(static_cast<int>(::syscall(SYS_openat2, fs, path.c_str(), &how, sizeof how)));
    if (!fd) throw Error::from_errno(errno, "open nested subvolume " + path.substr(0, 200));
    return fd;
}
Fd open_folder(int fs, const std::string &path, std::string &name) {
    const size_t slash = path.rfind('/');
    name = slash == std::string::npos ? path : path.substr(slash + 1);
    return open_beneath(fs, slash == std::string::npos ? "." : path.substr(0, slash));
}

void destroy(int dir, const std::string &name) {
    const auto result = btrfs_util_delete_subvolume_fd(dir, name.c_str(), 0);
    if (result != BTRFS_UTIL_OK && errno == ENOENT) return;
    check(result, "delete subvolume " + name);
}

void destroy_with_nested(int dir, const std::string &name);

// For subvolumes that lie deeper than any path: descends by descriptor, and moves what is nested too
// deep even for that up to the top, as all of it goes anyway. True while there is more to do.
bool destroy_below(int top, int dir, int depth) {
    constexpr int kMaxDepth = 64;
    bool moved = false;
    for (const std::string &name : storage::names_in(dir, "layer")) {
        if (is_subvolume(dir, name)) {
            destroy_with_nested(dir, name);
        } else if (const Fd below(
                       ::openat(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
                   below && depth < kMaxDepth) {
            moved = destroy_below(top, below.get(), depth + 1) || moved;
        } else if (below) {
            static std::atomic<unsigned long> count{0};
            const std::string up = ".gantry-deep-" + std::to_string(++count);
            if (::renameat(dir, name.c_str(), top, up.c_str()) != 0)
                throw Error::from_errno(errno, "move " + name + " up to remove it");
            moved = true;
        }
    }
    return moved;
}

void destroy_with_nested(int dir, const std::string &name) {
    const Fd fs = storage::open_directory(dir, name);
    try {
        const auto nested = nested_below(fs.get());
        // Outer ones first: below a read-only subvolume nothing can be deleted.
        if (!nested.empty()) set_read_only(fs.get(), false);
        for (const std::string &path : nested)
            set_read_only(open_beneath(fs.get(), path).get(), false);
        for (auto path = nested.rbegin(); path != nested.rend(); ++path) {
            std::string last;
            const Fd folder = open_folder(fs.get(), *path, last);
            destroy(folder.get(), last);
        }
    } catch (const Error &error) {
        if (error.errno_value() != ENAMETOOLONG) throw;
        set_read_only(fs.get(), false);
        while (destroy_below(fs.get(), fs.get(), 0)) {
        }
    }
    destroy(dir, name);
}

} // namespace

void check_filesystem(const std::string &path) {
    struct statfs fs {};
    std::string at = path;
    while (::statfs(at.c_str(), &fs) != 0) {
        const size_t slash = at.rfind('/');
        if ((errno != ENOENT && errno != ENOTDIR) || slash == std::string::npos || at == "/")
            throw Error::from_errno(errno, "look at the file system of " + path);
        at = slash == 0 ? "/" : at.substr(0, slash);
    }
    if (fs.f_type == BTRFS_SUPER_MAGIC) return;
    throw Error(ErrorClass::kUnsupported, path + " is " + filesystem_name(fs) + ", not btrfs",
                "put engine.root on a btrfs file system");
}

void make_subvolume(int dir, const char *name) {
    check(btrfs_util_create_subvolume_fd(dir, name, 0, nullptr, nullptr), "make subvolume");
    if (::fchmodat(dir, name, 0755, 0) != 0) throw Error::from_errno(errno, "make subvolume");
}

void make_snapshot(int from, int dir, const std::string &name, bool read_only) {
    check(btrfs_util_create_snapshot_fd2(from, dir, name.c_str(),
                                         read_only ? BTRFS_UTIL_CREATE_SNAPSHOT_READ_ONLY : 0, nullptr,
                                         nullptr),
          "take snapshot");
}

void set_read_only(int fs, bool read_only) {
    bool before = false;
    check(btrfs_util_get_subvolume_read_only_fd(fs, &before), "ask whether a subvolume is read-only");
    if (before != read_only)
        check(btrfs_util_set_subvolume_read_only_fd(fs, read_only),
              read_only ? "make subvolume read-only" : "make subvolume writable");
}

SubvolumeInfo describe(int fs) {
    struct btrfs_util_subvolume_info raw {};
    check(btrfs_util_subvolume_info_fd(fs, 0, &raw), "look at subvolume");
    SubvolumeInfo info;
    info.id = raw.id;
    info.made_at = raw.otransid;
    info.uuid.assign(reinterpret_cast<const char *>(raw.uuid), sizeof raw.uuid);
    info.origin.assign(reinterpret_cast<const char *>(raw.parent_uuid), sizeof raw.parent_uuid);
    return info;
}

void discard(int at, const std::string &name) {
    if (is_subvolume(at, name)) return destroy_with_nested(at, name);
    const Fd dir(::openat(at, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (dir)
        for (const std::string &child : storage::names_in(dir.get(), name))
            if (is_subvolume(dir.get(), child)) destroy_with_nested(dir.get(), child);
    storage::remove_tree(at, name);
}

void flatten_nested(int fs, const Call &call) {
    const auto nested = nested_below(fs);
    for (const std::string &path : nested)
        set_read_only(open_beneath(fs, path).get(), false);
    int number = 0;
    for (auto path = nested.rbegin(); path != nested.rend(); ++path) {
        std::string name, temporary;
        const Fd folder = open_folder(fs, *path, name);
        do
            temporary = ".gantry-flat-" + std::to_string(++number);
        while (::mkdirat(folder.get(), temporary.c_str(), 0700) != 0 && errno == EEXIST);
        storage::copy_tree(storage::open_directory(folder.get(), name).get(),
                           storage::open_directory(folder.get(), temporary).get(), call);
        destroy(folder.get(), name);
        if (::renameat(folder.get(), temporary.c_str(), folder.get(), name.c_str()) != 0)
            throw Error::from_errno(errno,
                                    "turn nested subvolume " + path->substr(0, 200) + " into a directory");
    }
}

} // namespace gantry::btrfs
