// Directories by descriptor: opened without following a link, listed, and removed with everything below.
// A container can nest directories for ever, so removal holds a bounded number of descriptors and stack
// frames: what lies deeper than kMaxDepth is renamed to the top of the tree and removed from there.
#pragma once

#include <gantry/fd.hpp>

#include <cstdio>
#include <dirent.h>
#include <memory>
#include <string>
#include <sys/stat.h>
#include <vector>

namespace gantry {

inline UniqueFd open_directory(int at, const std::string &path) {
    UniqueFd fd(::openat(at, path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) throw Error::from_errno(errno, "open directory " + path.substr(0, 300));
    return fd;
}

/// Calls `each` with every entry but "." and "..". The descriptor's own position does not move.
template <typename Each> void each_entry(int dir, const std::string &shown, Each each) {
    UniqueFd fd(::openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const std::unique_ptr<DIR, int (*)(DIR *)> stream(fd ? ::fdopendir(fd.get()) : nullptr, ::closedir);
    if (!stream) throw Error::from_errno(errno, "read directory " + shown.substr(0, 300));
    fd.release();
    for (;;) {
        errno = 0;
        const dirent *entry = ::readdir(stream.get());
        if (!entry && errno != 0) throw Error::from_errno(errno, "read directory " + shown.substr(0, 300));
        if (!entry) return;
        const char *name = entry->d_name;
        if (name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0))) continue;
        each(*entry);
    }
}

/// Unsorted; read before anything is changed, because a directory that changes while it is read may
/// show names twice or not at all.
inline std::vector<std::string> names_in(int dir, const std::string &shown) {
    std::vector<std::string> names;
    each_entry(dir, shown, [&](const dirent &entry) { names.emplace_back(entry.d_name); });
    return names;
}

namespace detail {

class TreeRemover {
  public:
    static constexpr int kMaxDepth = 64;

    explicit TreeRemover(int top, dev_t device) : top_(top), device_(device) {}

    void remove_below(int dir, const std::string &shown, int depth) {
        std::vector<std::string> directories;
        for (std::string &name : names_in(dir, shown)) {
            if (::unlinkat(dir, name.c_str(), 0) == 0 || errno == ENOENT) continue;
            if (errno != EISDIR) throw Error::from_errno(errno, "remove " + name);
            directories.push_back(std::move(name));
        }
        for (const std::string &name : directories) {
            if (depth >= kMaxDepth && move_up(dir, name)) continue;
            {
                const UniqueFd fd = open_directory(dir, name);
                struct stat st {};
                if (::fstat(fd.get(), &st) != 0) throw Error::from_errno(errno, "stat " + name);
                if (st.st_dev != device_) // a mount point is somebody else's tree
                    throw Error(ErrorClass::kFailedPrecondition,
                                "remove " + name + ": a file system is mounted there");
                remove_below(fd.get(), name, depth + 1);
            }
            if (::unlinkat(dir, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
                throw Error::from_errno(errno, "remove " + name);
        }
    }
    bool moved() noexcept { return std::exchange(moved_, false); }

  private:
    bool move_up(int dir, const std::string &name) {
        for (;;) {
            const std::string up = "deep-" + std::to_string(++count_);
            if (::renameat(dir, name.c_str(), top_, up.c_str()) == 0) return moved_ = true;
            // Taken by a name that was there before; a file in its place would have been replaced.
            if (errno != ENOTEMPTY && errno != EEXIST && errno != ENOTDIR)
                throw Error::from_errno(errno, "move " + name + " up to remove it");
        }
    }

    int top_;
    dev_t device_;
    unsigned long count_ = 0;
    bool moved_ = false;
};

} // namespace detail

/// Removes `name` below `at` whatever it is: links are not followed, mount points stop it. A missing
/// name is fine.
inline void remove_tree(int at, const std::string &name) {
    if (::unlinkat(at, name.c_str(), 0) == 0 || errno == ENOENT || errno == ENOTDIR) return;
    if (errno != EISDIR) throw Error::from_errno(errno, "remove " + name);
    {
        UniqueFd fd(::openat(at, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!fd && errno == ENOENT) return;
        if (!fd) throw Error::from_errno(errno, "remove " + name);
        struct stat st {};
        if (::fstat(fd.get(), &st) != 0) throw Error::from_errno(errno, "stat " + name);
        detail::TreeRemover remover(fd.get(), st.st_dev);
        do
            remover.remove_below(fd.get(), name, 0);
        while (remover.moved());
    }
    if (::unlinkat(at, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
        throw Error::from_errno(errno, "remove " + name);
}

} // namespace gantry
