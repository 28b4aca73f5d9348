// When two versions of a path differ, and in which order a diff tells it: shared by the walk of both
// trees, which is the referee, and by the drivers that know their changes, so that they agree.
//
// A directory is modified when its own attributes differ or anything below it changed; its line comes
// before theirs. Attributes are what a layer carries: type, mode, owner, device number, size, time, and
// the extended attributes user.* and security.capability.
#pragma once

#include <gantry/storage.hpp>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <vector>

namespace gantry {

/// Content that was rewritten within the same size and time is not seen here.
inline bool same_attributes(const struct stat &below, const struct stat &above) {
    if (below.st_mode != above.st_mode || below.st_uid != above.st_uid || below.st_gid != above.st_gid ||
        below.st_mtim.tv_sec != above.st_mtim.tv_sec || below.st_mtim.tv_nsec != above.st_mtim.tv_nsec)
        return false;
    if (S_ISDIR(below.st_mode)) return true;
    // One link more: its new name can only be told as a link if this name is told too. One link less
    // says nothing about this name.
    return below.st_rdev == above.st_rdev && below.st_size == above.st_size &&
           above.st_nlink <= below.st_nlink;
}

/// The extended attributes of a path that a layer carries; symlinks are not followed.
inline std::map<std::string, std::string> layer_xattrs(const std::string &path) {
    std::map<std::string, std::string> out;
    const ssize_t size = ::llistxattr(path.c_str(), nullptr, 0);
    if (size <= 0) return out;
    std::string names(static_cast<size_t>(size) + 1024, '\0');
    const ssize_t got = ::llistxattr(path.c_str(), names.data(), names.size());
    for (ssize_t at = 0; at < got;) {
        const char *name = names.c_str() + at;
        const std::string_view key = name;
        at += static_cast<ssize_t>(key.size()) + 1;
        if (key != "security.capability" && (!key.starts_with("user.") || key.starts_with("user.overlay.")))
            continue;
        std::string value(64 << 10, '\0');
        const ssize_t n = ::lgetxattr(path.c_str(), name, value.data(), value.size());
        if (n < 0) continue; // gone
        value.resize(static_cast<size_t>(n));
        out.emplace(key, std::move(value));
    }
    return out;
}

/// Emits changes with their ancestors before them, each once.
class ChangeReporter {
  public:
    explicit ChangeReporter(const std::function<void(const Change &)> &found) : found_(found) {}

    void report(gantry_change_kind kind, const std::string &path) {
        for (; reported_ < open_.size(); ++reported_)
            found_({GANTRY_CHANGE_MODIFIED, open_[reported_]});
        found_({kind, path});
    }
    /// `reported`: report() has just told this directory.
    void enter(const std::string &path, bool reported) {
        open_.push_back(path);
        if (reported) reported_ = open_.size();
    }
    void leave() {
        open_.pop_back();
        reported_ = std::min(reported_, open_.size());
    }

  private:
    const std::function<void(const Change &)> &found_;
    std::vector<std::string> open_; // the directories around the current place
    size_t reported_ = 0;
};

} // namespace gantry
