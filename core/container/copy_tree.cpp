// Fills a new volume with what the image has at its place. Works on directory descriptors only, so a
// link in the image cannot lead out of it. Owners, modes, times and extended attributes are kept.
#include "core/container/containers_impl.h"

#include "core/base/files.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace gantry {

namespace {

constexpr int kMaxDepth = 200;

[[noreturn]] void failed(const std::string &what, const std::string &name) {
    throw Error::from_errno(errno, "copy image content to volume: " + what + " " + name);
}

void copy_xattrs(int from, int to) {
    char names[4096], value[4096];
    const ssize_t size = ::flistxattr(from, names, sizeof names);
    for (ssize_t at = 0; at < size; at += static_cast<ssize_t>(strlen(names + at)) + 1) {
        const ssize_t got = ::fgetxattr(from, names + at, value, sizeof value);
        // The storage driver's own marks (trusted.overlay.*) must not reach the volume.
        if (got < 0 || strncmp(names + at, "trusted.overlay.", 16) == 0) continue;
        ::fsetxattr(to, names + at, value, static_cast<size_t>(got), 0);
    }
}

void copy_data(int from, int to, const std::string &name) {
    for (;;) {
        ssize_t got = ::copy_file_range(from, nullptr, to, nullptr, 1u << 30, 0);
        if (got == 0) return;
        if (got > 0 || errno == EINTR) continue;
        if (errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP) failed("write", name);
        char buffer[65536];
        got = ::read(from, buffer, sizeof buffer);
        if (got == 0) return;
        if (got < 0) failed("read", name);
        write_all(to, {buffer, static_cast<size_t>(got)}, name);
    }
}

void copy_attributes(int from, int to, const struct stat &info) {
    if (::fchown(to, info.st_uid, info.st_gid) != 0) failed("chown", "");
    if (::fchmod(to, info.st_mode & 07777) != 0) failed("chmod", "");
    copy_xattrs(from, to);
    const timespec times[2] = {info.st_atim, info.st_mtim};
    ::futimens(to, times);
}

void copy_level(int from, int to, int depth) {
    if (depth > kMaxDepth)
        throw Error(ErrorClass::kInvalidArgument, "copy image content to volume: too deep");
    UniqueFd listing(::openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!listing) failed("open", ".");
    DIR *stream = ::fdopendir(listing.get());
    if (!stream) failed("list", ".");
    listing.release();
    std::unique_ptr<DIR, int (*)(DIR *)> guard(stream, ::closedir);
    while (const dirent *entry = ::readdir(stream)) {
        const std::string name = entry->d_name;
        if (name == "." || name == "..") continue;
        struct stat info {};
        if (::fstatat(from, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) failed("stat", name);
        if (S_ISDIR(info.st_mode)) {
            if (::mkdirat(to, name.c_str(), 0700) != 0 && errno != EEXIST) failed("make", name);
            UniqueFd source(::openat(from, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
            UniqueFd target(::openat(to, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
            if (!source || !target) failed("open", name);
            copy_level(source.get(), target.get(), depth + 1);
            copy_attributes(source.get(), target.get(), info);
        } else if (S_ISREG(info.st_mode)) {
            UniqueFd source(::openat(from, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
            UniqueFd target(
                ::openat(to, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
            if (!source || !target) failed("open", name);
            copy_data(source.get(), target.get(), name);
            copy_attributes(source.get(), target.get(), info);
        } else if (S_ISLNK(info.st_mode)) {
            char link[4096];
            const ssize_t size = ::readlinkat(from, name.c_str(), link, sizeof link - 1);
            if (size < 0) failed("read link", name);
            link[size] = 0;
            if (::symlinkat(link, to, name.c_str()) != 0) failed("make link", name);
            if (::fchownat(to, name.c_str(), info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW) != 0) {
                failed("chown", name);
            }
        } else {
            if (::mknodat(to, name.c_str(), info.st_mode, info.st_rdev) != 0) failed("make node", name);
            if (::fchownat(to, name.c_str(), info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW) != 0) {
                failed("chown", name);
            }
            if (::fchmodat(to, name.c_str(), info.st_mode & 07777, 0) != 0) failed("chmod", name);
        }
    }
}

} // namespace

void copy_tree(int source_fd, int target_fd) {
    copy_level(source_fd, target_fd, 0);
    struct stat info {};
    if (::fstat(source_fd, &info) == 0) copy_attributes(source_fd, target_fd, info);
}

} // namespace gantry
