// A directory tree written on behalf of an untrusted archive. Every parent is resolved by openat2(2)
// with RESOLVE_IN_ROOT, so that symlinks of the archive lead nowhere else; the last component is never
// followed. The last few parents stay open: archives list directories in order.
#pragma once

#include "core/base/fd.h"

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <sys/stat.h>

namespace gantry {

/// "./a//b/../c" -> "a/c"; "" is the root. Throws kInvalidArgument when the path leaves the root, or
/// a name or the path is too long.
std::string clean_entry_path(std::string_view path);

class RootedTree {
  public:
    explicit RootedTree(int root_fd) : root_(root_fd) {}

    struct Place {
        int parent;       // valid until the next call
        const char *name; // points into the path given
        bool setgid;      // files made here inherit the directory's group
    };
    /// The parent of a clean, non-empty path; missing directories are made (0755, root).
    Place place(const std::string &path);
    /// Like place() but makes nothing: parent -1 when a directory is missing.
    Place find(const std::string &path);
    /// Removes what is at the path, a tree if need be. `keep` may spare entries (full clean path);
    /// true when everything is gone.
    bool remove(const std::string &path, const std::function<bool(const std::string &)> &keep = {});
    /// Removes the children of a directory, sparing as above.
    void clear(const std::string &path, const std::function<bool(const std::string &)> &keep);
    /// After a directory's mode changed.
    void refresh() { forget(); }

  private:
    struct Parent {
        std::string path;
        UniqueFd fd;
        bool setgid = false;
        uint64_t used = 0;
    };
    Parent *open_parent(std::string_view path, bool make);
    UniqueFd resolve(const std::string &path) const;
    void forget() {
        for (auto &p : cache_)
            p = {};
    }
    bool remove_at(int parent, const std::string &path, const char *name,
                   const std::function<bool(const std::string &)> &keep, int depth);

    int root_;
    std::array<Parent, 8> cache_;
    uint64_t clock_ = 0;
};

} // namespace gantry
