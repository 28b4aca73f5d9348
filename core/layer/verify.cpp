// The records of a layer, played again as the unpacker would have written them, against what is on disk.
// Times of directories are not compared: drivers that take whiteouts at their word move them. Times of
// files are compared by the second, which every file system keeps.
#include "core/base/fd.h"
#include "core/layer/layers.h"
#include "core/layer/record.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace gantry {
namespace {

constexpr size_t kShown = 5;
constexpr int kMaxLinks = 40;
constexpr int64_t kLastSafeTime = 0x7fffffff; // what every file system can store

struct Expected {
    mode_t type = S_IFDIR; // S_IFMT part
    bool implied = true;   // a directory that no archive listed: its attributes are not known
    bool opaque = false;
    size_t layer = 0; // who touched it last
    RecordedEntry entry;
    bool seen = false;
};
using Tree = std::map<std::string, Expected>;

std::string parent_of(const std::string &path) {
    const size_t slash = path.rfind('/');
    return slash == path.npos ? std::string() : path.substr(0, slash);
}
std::string name_of(const std::string &path) { return path.substr(path.rfind('/') + 1); }
std::string join(const std::string &dir, const std::string &name) {
    return dir.empty() ? name : dir + "/" + name;
}

/// Plays entries as core/layer/unpack.cpp writes them.
class Replay {
  public:
    Replay(Tree &tree, gantry_whiteout whiteout) : tree_(tree), whiteout_(whiteout) { tree_.try_emplace(""); }
    void layer(const std::vector<RecordedEntry> &entries, size_t number) {
        number_ = number;
        for (const RecordedEntry &e : entries)
            entry(e);
    }

  private:
    void entry(const RecordedEntry &e) {
        using Kind = RecordedEntry::Kind;
        const std::string path = e.path.empty() ? "" : join(place(parent_of(e.path)), name_of(e.path));
        switch (e.kind) {
        case Kind::kWhiteout: return hide(path);
        case Kind::kOpaque: return clear(e.path.empty() ? "" : place(e.path));
        case Kind::kHardLink: {
            const auto from = tree_.find(join(place(parent_of(e.target)), name_of(e.target)));
            if (from == tree_.end()) return;
            Expected copy = from->second;
            return put(path, std::move(copy));
        }
        default: break;
        }
        Expected made;
        made.entry = e;
        made.implied = false;
        made.type = e.kind == Kind::kDirectory ? S_IFDIR
                    : e.kind == Kind::kFile    ? S_IFREG
                    : e.kind == Kind::kSymlink ? S_IFLNK
                                               : e.mode & S_IFMT;
        put(path, std::move(made));
    }
    void put(const std::string &path, Expected made) {
        made.layer = number_;
        if (whiteout_ == GANTRY_WHITEOUT_AUFS && !path.empty())
            tree_.erase(join(parent_of(path), ".wh." + name_of(path)));
        if (const auto there = tree_.find(path); there != tree_.end()) {
            if (S_ISDIR(there->second.type) && !S_ISDIR(made.type)) erase_below(path);
            if (S_ISDIR(made.type)) made.opaque = there->second.opaque;
        }
        tree_[path] = std::move(made);
    }
    /// The directory as the kernel would find it, links followed within the root; made where it is missing.
    std::string place(const std::string &dir) {
        std::string done, rest = dir;
        for (int links = 0; !rest.empty();) {
            const size_t slash = rest.find('/');
            const std::string name = rest.substr(0, slash);
            rest = slash == rest.npos ? "" : rest.substr(slash + 1);
            if (name.empty() || name == ".") continue;
            if (name == "..") {
                done = parent_of(done);
                continue;
            }
            const std::string path = join(done, name);
            const auto it = tree_.find(path);
            if (it != tree_.end() && S_ISLNK(it->second.type) && ++links <= kMaxLinks) {
                const std::string &target = it->second.entry.target;
                if (target.starts_with('/')) done.clear();
                rest = rest.empty() ? target : target + "/" + rest;
                continue;
            }
            Expected &there = it != tree_.end() ? it->second : tree_[path];
            if (!S_ISDIR(there.type)) there = {};
            there.layer = number_;
            done = path;
        }
        return done;
    }
    void erase_below(const std::string &path, bool spare_own = false) {
        const std::string below = path.empty() ? "" : path + "/";
        for (auto it = tree_.upper_bound(below); it != tree_.end() && it->first.starts_with(below);)
            it = spare_own && it->second.layer == number_ ? std::next(it) : tree_.erase(it);
    }
    void hide(const std::string &path) {
        const auto it = tree_.find(path);
        if (whiteout_ == GANTRY_WHITEOUT_NONE) {
            erase_below(path, true);
            if (it != tree_.end() && it->second.layer != number_) tree_.erase(path);
            return;
        }
        if (it != tree_.end()) {
            if (S_ISDIR(it->second.type)) it->second.opaque = true;
            return;
        }
        Expected mark;
        mark.implied = false;
        mark.layer = number_;
        if (whiteout_ == GANTRY_WHITEOUT_AUFS) {
            mark.type = S_IFREG;
            mark.entry.kind = RecordedEntry::kWhiteout;
            tree_[join(parent_of(path), ".wh." + name_of(path))] = std::move(mark);
        } else {
            mark.type = S_IFCHR;
            mark.entry.kind = RecordedEntry::kWhiteout;
            tree_[path] = std::move(mark);
        }
    }
    void clear(const std::string &path) {
        if (whiteout_ == GANTRY_WHITEOUT_NONE)
            erase_below(path, true);
        else
            tree_[path].opaque = true;
    }

    Tree &tree_;
    const gantry_whiteout whiteout_;
    size_t number_ = 0;
};

class Comparison {
  public:
    Comparison(Tree &expected, gantry_whiteout whiteout, const Call &call, LayerVerdict &out, bool contents)
        : expected_(expected), whiteout_(whiteout), call_(call), out_(out), contents_(contents),
          buffer_(contents ? 1 << 20 : 0) {}

    void run(int root) {
        UniqueFd fd(::openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!fd) throw Error::from_errno(errno, "open the root of the layer");
        struct stat st {};
        if (::fstat(fd.get(), &st) != 0) throw Error::from_errno(errno, "stat the root of the layer");
        entry("", root, ".", st);
        folder("", std::move(fd), 0);
        for (const auto &[path, e] : expected_)
            if (!e.seen) say(path, "is gone");
    }

  private:
    void say(const std::string &path, const std::string &what) {
        ++out_.damaged;
        if (out_.first.size() < kShown) out_.first.push_back("/" + path.substr(0, 300) + " " + what);
    }
    void folder(const std::string &path, UniqueFd fd, int depth) {
        if (depth > 2000) return say(path, "is nested too deeply");
        const std::unique_ptr<DIR, int (*)(DIR *)> dir(::fdopendir(fd.get()), ::closedir);
        if (!dir) return say(path, std::string("cannot be read: ") + std::strerror(errno));
        const int at = fd.release();
        std::vector<std::string> below;
        for (errno = 0; const dirent *d = ::readdir(dir.get()); errno = 0) {
            const std::string name = d->d_name;
            if (name == "." || name == "..") continue;
            if (whiteout_ == GANTRY_WHITEOUT_AUFS && name.starts_with(".wh..wh.")) {
                if (name != ".wh..wh..opq") continue; // aufs' own
                const auto it = expected_.find(path);
                if (it != expected_.end()) it->second.opaque = false; // found
                continue;
            }
            call_.check("check layer");
            struct stat st {};
            const std::string inner = join(path, name);
            if (::fstatat(at, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
                say(inner, std::string("cannot be read: ") + std::strerror(errno));
                continue;
            }
            entry(inner, at, name.c_str(), st);
            if (S_ISDIR(st.st_mode)) below.push_back(name);
        }
        if (errno != 0) say(path, std::string("cannot be read: ") + std::strerror(errno));
        if (const auto it = expected_.find(path); it != expected_.end() && it->second.opaque)
            check_opaque(path, at);
        for (const std::string &name : below) {
            UniqueFd inner(::openat(at, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
            if (!inner)
                say(join(path, name), std::string("cannot be read: ") + std::strerror(errno));
            else
                folder(join(path, name), std::move(inner), depth + 1);
        }
    }
    void check_opaque(const std::string &path, int fd) {
        char value = 0;
        if (whiteout_ == GANTRY_WHITEOUT_AUFS ||
            (whiteout_ == GANTRY_WHITEOUT_OVERLAY &&
             (::fgetxattr(fd, "trusted.overlay.opaque", &value, 1) != 1 || value != 'y')))
            say(path, "no longer hides what is below it");
    }

    void entry(const std::string &path, int parent, const char *name, const struct stat &st) {
        ++out_.entries;
        const auto it = expected_.find(path);
        if (it == expected_.end()) {
            return say(path, "was added");
        }
        Expected &e = it->second;
        e.seen = true;
        if ((st.st_mode & S_IFMT) != e.type) return say(path, "is of another kind");
        if (e.implied) return;
        const RecordedEntry &was = e.entry;
        if (was.kind == RecordedEntry::kWhiteout) {
            if (S_ISCHR(e.type) && st.st_rdev != 0) say(path, "is another device");
            return;
        }
        if (st.st_uid != was.uid || st.st_gid != was.gid) return say(path, "has another owner");
        if (!S_ISLNK(e.type) && (st.st_mode & 07777) != (was.mode & 07777))
            return say(path, "has other permissions");
        const uint64_t before = out_.damaged;
        if (S_ISREG(e.type)) {
            file(path, parent, name, st, was);
        } else if (S_ISDIR(e.type)) {
            if (!contents_) return;
            const UniqueFd fd(::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
            if (fd) attributes(path, fd.get(), was);
        } else if (S_ISLNK(e.type)) {
            char target[4096];
            const ssize_t n = ::readlinkat(parent, name, target, sizeof target);
            if (n < 0 || std::string_view(target, static_cast<size_t>(n)) != was.target)
                say(path, "points elsewhere");
        } else if (!S_ISFIFO(e.type) && st.st_rdev != was.rdev) {
            say(path, "is another device");
        }
        if (out_.damaged == before && !S_ISDIR(e.type) && was.mtime >= 0 && was.mtime <= kLastSafeTime &&
            st.st_mtim.tv_sec != was.mtime)
            say(path, "has another time");
    }
    void file(const std::string &path, int parent, const char *name, const struct stat &st,
              const RecordedEntry &was) {
        if (static_cast<uint64_t>(st.st_size) != was.size)
            return say(path,
                       "has " + std::to_string(st.st_size) + " of " + std::to_string(was.size) + " bytes");
        if (!contents_) return;
        const UniqueFd fd(::openat(parent, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME));
        if (!fd) return say(path, std::string("cannot be read: ") + std::strerror(errno));
        attributes(path, fd.get(), was);
        if (!was.content) return;
        if (st.st_nlink > 1)
            if (const auto [it, fresh] = linked_.emplace(st.st_ino, *was.content);
                !fresh && it->second == *was.content)
                return; // read under another name
        uint64_t sum = 0, read = 0;
        for (;;) {
            call_.check("check layer");
            const ssize_t n = ::read(fd.get(), buffer_.data(), buffer_.size());
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return say(path, std::string("cannot be read: ") + std::strerror(errno));
            if (n == 0) break;
            sum = sum_of(sum, buffer_.data(), static_cast<size_t>(n));
            read += static_cast<uint64_t>(n);
        }
        out_.bytes += read;
        if (sum != *was.content) say(path, "has other content");
    }
    void attributes(const std::string &path, int fd, const RecordedEntry &was) {
        char names[65536];
        const ssize_t size = ::flistxattr(fd, names, sizeof names);
        if (size <= 0 && was.attributes == 0) return;
        std::map<std::string, std::string> found;
        for (const char *n = names; size > 0 && n < names + size; n += std::strlen(n) + 1) {
            const std::string_view key = n;
            if (key != "security.capability" &&
                (!key.starts_with("user.") || key.starts_with("user.overlay.")))
                continue;
            std::string value(65536, '\0');
            const ssize_t length = ::fgetxattr(fd, n, value.data(), value.size());
            if (length < 0) continue;
            value.resize(static_cast<size_t>(length));
            found.emplace(key, std::move(value));
        }
        if (attributes_sum(found) != was.attributes) say(path, "has other extended attributes");
    }

    Tree &expected_;
    const gantry_whiteout whiteout_;
    const Call &call_;
    LayerVerdict &out_;
    const bool contents_;
    std::vector<char> buffer_;
    std::map<ino_t, uint64_t> linked_;
};

} // namespace

LayerVerdict verify_layer(const Layers &layers, const LayerRecords &records, const std::string &id,
                          const Call &call, bool contents) {
    LayerVerdict out;
    LayerIds parts = layers.independent() ? LayerIds{id} : layers.lineage(id);
    std::reverse(parts.begin(), parts.end());
    Tree tree;
    Replay replay(tree, layers.whiteout());
    for (size_t i = 0; i < parts.size(); ++i) {
        const std::string diff = layers.get(parts[i]).diff_id;
        if (records.has(diff))
            replay.layer(records.read(diff), i + 1);
        else
            out.unrecorded.push_back(parts[i]);
    }
    // What an unrecorded layer below brought or took away is not known; all of it would look added or gone.
    if (!out.unrecorded.empty()) return out;
    const UniqueFd own = layers.own_tree(id);
    Comparison(tree, layers.whiteout(), call, out, contents).run(own.get());
    return out;
}

} // namespace gantry
