#include "core/layer/tree_tar.h"

#include <gantry/error.hpp>
#include <gantry/fd.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <memory>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace gantry {
namespace {

constexpr int kMaxDepth = 256; // each level holds a descriptor open, and stack
constexpr size_t kMaxXattrBytes = 64 << 10;

std::string shown(const std::string &stored) { return "/" + stored.substr(0, 200); }

std::vector<std::string> sorted_names(int directory, const std::string &stored) {
    const int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    std::unique_ptr<DIR, int (*)(DIR *)> stream(copy < 0 ? nullptr : ::fdopendir(copy), ::closedir);
    if (!stream) {
        const int error = errno;
        if (copy >= 0) ::close(copy);
        throw Error::from_errno(error, "read directory " + shown(stored));
    }
    std::vector<std::string> names;
    while (const dirent *entry = ::readdir(stream.get()))
        if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0)
            names.emplace_back(entry->d_name);
    std::sort(names.begin(), names.end());
    return names;
}

/// The attributes that unpacking restores: trusted.* is the storage driver's own, labels are this host's.
void read_xattrs(int fd, TarEntry &entry) {
    std::string names(4096, 0);
    ssize_t size = ::flistxattr(fd, names.data(), names.size());
    if (size < 0 && errno == ERANGE) {
        names.resize(kMaxXattrBytes);
        size = ::flistxattr(fd, names.data(), names.size());
    }
    for (ssize_t at = 0; at < size; at += static_cast<ssize_t>(std::strlen(names.data() + at)) + 1) {
        const std::string key = names.data() + at;
        if (key != "security.capability" && (!key.starts_with("user.") || key.starts_with("user.overlay.")))
            continue;
        if (key.find('=') != std::string::npos) continue; // no PAX record can hold it
        std::string value(kMaxXattrBytes, 0);
        const ssize_t got = ::fgetxattr(fd, key.c_str(), value.data(), value.size());
        if (got < 0) continue; // removed meanwhile
        value.resize(static_cast<size_t>(got));
        entry.xattrs.emplace_back(key, std::move(value));
    }
    std::sort(entry.xattrs.begin(), entry.xattrs.end());
}

/// A path that is a symlink nowhere on its way is what a driver means by a change's path.
UniqueFd open_directory(int root, const std::string &path) {
    open_how how{};
    how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    for (;;) {
        const long fd = ::syscall(SYS_openat2, root, path.empty() ? "." : path.c_str(), &how, sizeof how);
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) return UniqueFd(static_cast<int>(fd));
    }
}

std::string folder_of(const std::string &path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash);
}
std::string base_of(const std::string &path) { return path.substr(path.rfind('/') + 1); }

} // namespace

bool before(const Change &a, const Change &b) {
    return std::lexicographical_compare(
        a.path.begin(), a.path.end(), b.path.begin(), b.path.end(),
        [](unsigned char x, unsigned char y) { return (x == '/' ? 0 : x + 1) < (y == '/' ? 0 : y + 1); });
}

TreeTar::TreeTar(ByteSink sink, TreeTarOptions options)
    : writer_(std::move(sink)), options_(std::move(options)) {}

bool TreeTar::add(int directory, const std::string &name, const std::string &stored, bool deep) {
    return add_entry(directory, name, stored, deep, 0);
}

void TreeTar::add_children(int directory, const std::string &prefix) { add_below(directory, prefix, 0); }

void TreeTar::add_below(int directory, const std::string &prefix, int depth) {
    if (depth > kMaxDepth)
        throw Error(ErrorClass::kInvalidArgument, "write tar: " + shown(prefix) + " is nested too deeply");
    for (const std::string &name : sorted_names(directory, prefix))
        add_entry(directory, name, prefix + name, true, depth);
}

bool TreeTar::add_entry(int directory, const std::string &name, const std::string &stored, bool deep,
                        int depth) {
    if (options_.check) options_.check();
    // O_PATH first: opening a device or a fifo that took the name's place could block or do worse.
    const UniqueFd path(::openat(directory, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat st {};
    if (!path || ::fstat(path.get(), &st) != 0) {
        if (errno == ENOENT) return false;
        throw Error::from_errno(errno, "open " + shown(stored));
    }
    TarEntry entry;
    entry.name = stored;
    entry.mode = st.st_mode;
    entry.uid = st.st_uid;
    entry.gid = st.st_gid;
    entry.mtime = st.st_mtim;
    entry.rdev = st.st_rdev;
    if (S_ISSOCK(st.st_mode)) {
        note(shown(stored) + ": sockets cannot be stored");
        return true;
    }
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) {
        const auto [first, fresh] = links_.try_emplace({st.st_dev, st.st_ino}, stored);
        if (!fresh && first->second != stored) {
            entry.hard_link = true;
            entry.link = first->second;
            writer_.begin(entry);
            return true;
        }
    }
    if (S_ISLNK(st.st_mode)) {
        std::string target(4096, 0);
        const ssize_t size = ::readlinkat(path.get(), "", target.data(), target.size());
        if (size < 0) throw Error::from_errno(errno, "read link " + shown(stored));
        target.resize(static_cast<size_t>(size));
        entry.link = std::move(target);
        writer_.begin(entry);
        return true;
    }
    if (S_ISREG(st.st_mode)) {
        const UniqueFd file(
            ::open(("/proc/self/fd/" + std::to_string(path.get())).c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
        if (!file) throw Error::from_errno(errno, "open " + shown(stored));
        if (options_.xattrs) read_xattrs(file.get(), entry);
        entry.size = static_cast<uint64_t>(st.st_size);
        writer_.begin(entry);
        if (const uint64_t missing = writer_.data_from(file.get(), shown(stored)))
            note(shown(stored) + ": shrank by " + std::to_string(missing) +
                 " bytes while it was read; zeros stand for them");
        return true;
    }
    if (!S_ISDIR(st.st_mode)) {
        writer_.begin(entry);
        return true;
    }
    const UniqueFd below(::openat(path.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!below) throw Error::from_errno(errno, "open directory " + shown(stored));
    if (options_.xattrs) read_xattrs(below.get(), entry);
    writer_.begin(entry);
    if (deep && (!options_.enter || options_.enter(below.get())))
        add_below(below.get(), stored.ends_with('/') ? stored : stored + "/", depth + 1);
    return true;
}

void TreeTar::whiteout(const std::string &stored) {
    TarEntry entry;
    const std::string folder = folder_of(stored);
    entry.name = folder + (folder.empty() ? "" : "/") + ".wh." + base_of(stored);
    entry.mode = S_IFREG;
    writer_.begin(entry);
}

size_t write_changes_tar(int root, std::vector<Change> changes, const ByteSink &sink,
                         const TreeTarOptions &options) {
    std::sort(changes.begin(), changes.end(), before);
    TreeTar tar(sink, options);
    std::set<std::string> stored; // directories that are in the tar
    std::string open_path;
    UniqueFd open_parent;
    size_t count = 0;

    const auto enter = [&](const std::string &folder) {
        if (!open_parent || open_path != folder) {
            open_parent = open_directory(root, folder);
            open_path = folder;
        }
        return open_parent.get();
    };
    const std::function<bool(const std::string &)> with_parents = [&](const std::string &folder) {
        if (folder.empty() || stored.contains(folder)) return true;
        if (!with_parents(folder_of(folder))) return false;
        const int parent = enter(folder_of(folder));
        if (parent < 0 || !tar.add(parent, base_of(folder), folder, false)) return false;
        stored.insert(folder);
        return true;
    };
    for (const Change &change : changes) {
        const std::string path =
            change.path.substr(std::min(change.path.find_first_not_of('/'), change.path.size()));
        if (path.empty()) {
            tar.add(root, ".", ".", false);
            ++count;
            continue;
        }
        if (base_of(path).starts_with(".wh."))
            throw Error(ErrorClass::kInvalidArgument,
                        "store " + shown(path) +
                            " in a layer: names that begin with .wh. mark deletions there",
                        "rename or remove the file");
        if (!with_parents(folder_of(path))) continue; // the directory has gone meanwhile
        if (change.kind == GANTRY_CHANGE_DELETED) {
            tar.whiteout(path);
            ++count;
            continue;
        }
        if (stored.contains(path)) continue;
        const int parent = enter(folder_of(path));
        if (parent < 0 || !tar.add(parent, base_of(path), path, false)) continue;
        stored.insert(path); // parents of later changes; files here are harmless
        ++count;
    }
    tar.finish();
    return count;
}

void write_tree_tar(int root, const ByteSink &sink, const TreeTarOptions &options) {
    TreeTar tar(sink, options);
    struct stat st {};
    if (::fstat(root, &st) != 0) throw Error::from_errno(errno, "stat the root of the tree");
    if ((st.st_mode & 07777) != 0755 || st.st_uid != 0 || st.st_gid != 0) tar.add(root, ".", ".", false);
    tar.add_children(root, "");
    tar.finish();
}

} // namespace gantry
