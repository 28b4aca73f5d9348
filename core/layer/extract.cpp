#include "core/layer/extract.h"

#include "core/layer/rooted.h"
#include "core/layer/tar_reader.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <fcntl.h>
#include <map>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <vector>

namespace gantry {
namespace {

[[noreturn]] void fail(const std::string &name, int error) {
    throw Error::from_errno(error, "extract " + name.substr(0, 200));
}

class Extraction {
  public:
    Extraction(TarReader &reader, int root, const ExtractRules &rules)
        : reader_(reader), tree_(root), rules_(rules) {}

    uint64_t run() {
        for (TarEntry entry; reader_.next(entry);) {
            if (rules_.check) rules_.check();
            name_ = entry.name;
            const std::string renamed = rules_.rename ? rules_.rename(entry.name) : entry.name;
            const std::string inner = clean(renamed);
            path_ = joined(inner);
            if (rules_.rename && renamed.empty()) continue;
            if (inner.empty()) continue; // the directory itself is not the archive's
            this->entry(entry);
        }
        finish();
        return bytes_;
    }

  private:
    using Place = RootedTree::Place;

    static std::string clean(const std::string &path) {
        try {
            return clean_entry_path(path);
        } catch (const Error &error) {
            const std::string &text = error.message();
            throw Error(ErrorClass::kInvalidArgument,
                        text.starts_with("unpack entry ") ? "extract " + text.substr(13) : text);
        }
    }
    std::string joined(const std::string &inner) const {
        if (rules_.below.empty() || inner.empty()) return rules_.below + inner;
        return rules_.below + "/" + inner;
    }
    std::pair<uid_t, gid_t> owner_of(const TarEntry &e) const {
        return rules_.owner ? *rules_.owner : std::pair{e.uid, e.gid};
    }
    void own_at(const Place &at, const TarEntry &e) {
        const auto [uid, gid] = owner_of(e);
        if (rules_.set_owner && ::fchownat(at.parent, at.name, uid, gid, AT_SYMLINK_NOFOLLOW) != 0)
            fail(name_, errno);
    }
    void own(int fd, const TarEntry &e) {
        const auto [uid, gid] = owner_of(e);
        if (rules_.set_owner && ::fchown(fd, uid, gid) != 0) fail(name_, errno);
    }
    void date_at(const Place &at, const timespec &time) {
        const timespec times[2] = {time, time};
        if (::utimensat(at.parent, at.name, times, AT_SYMLINK_NOFOLLOW) != 0) fail(name_, errno);
    }
    void xattrs(int fd, const TarEntry &e) {
        for (const auto &[key, value] : e.xattrs)
            if (key == "security.capability" ||
                (key.starts_with("user.") && !key.starts_with("user.overlay.")))
                if (::fsetxattr(fd, key.c_str(), value.data(), value.size(), 0) != 0 && errno != EOPNOTSUPP &&
                    errno != EPERM)
                    fail(name_, errno);
    }

    /// What is in the way goes, unless it is a directory that stays. True when one is there.
    bool clear_the_way(const Place &at, bool is_directory) {
        struct stat st {};
        if (::fstatat(at.parent, at.name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
            if (errno == ENOENT) return false;
            fail(name_, errno);
        }
        if (S_ISDIR(st.st_mode) && is_directory) return true;
        if (rules_.keep_kinds && S_ISDIR(st.st_mode) != is_directory)
            throw Error(
                ErrorClass::kInvalidArgument,
                is_directory
                    ? "cannot overwrite non-directory \"/" + path_ + "\" with directory \"" + name_ + "\""
                    : "cannot overwrite directory \"/" + path_ + "\" with non-directory \"" + name_ + "\"");
        if (!S_ISDIR(st.st_mode)) {
            if (::unlinkat(at.parent, at.name, 0) != 0 && errno != ENOENT) fail(name_, errno);
        } else {
            tree_.remove(path_);
        }
        return false;
    }

    void entry(const TarEntry &e) {
        const bool is_directory = S_ISDIR(e.mode) && !e.hard_link;
        const bool there = clear_the_way(tree_.place(path_), is_directory);
        const Place at = tree_.place(path_); // again: removing a tree forgets what is open
        if (e.hard_link) return hard_link(e);
        if (is_directory) {
            if (!there && ::mkdirat(at.parent, at.name, 0700) != 0) fail(name_, errno);
            directories_[path_] = e;
        } else if (S_ISREG(e.mode)) {
            file(e, at);
        } else if (S_ISLNK(e.mode)) {
            if (::symlinkat(e.link.c_str(), at.parent, at.name) != 0) fail(name_, errno);
            own_at(at, e);
            date_at(at, e.mtime);
        } else if (S_ISFIFO(e.mode) || rules_.devices) {
            node(e, at);
        }
    }

    void file(const TarEntry &e, const Place &at) {
        const UniqueFd fd(
            ::openat(at.parent, at.name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        if (!fd) fail(name_, errno);
        buffer_.resize(256 << 10);
        while (const size_t n = reader_.read(buffer_.data(), buffer_.size())) {
            for (size_t done = 0; done < n;) {
                const ssize_t written = ::write(fd.get(), buffer_.data() + done, n - done);
                if (written < 0 && errno == EINTR) continue;
                if (written < 0) fail(name_, errno);
                done += static_cast<size_t>(written);
            }
            bytes_ += n;
        }
        finish_file(fd.get(), e);
    }
    void finish_file(int fd, const TarEntry &e) {
        own(fd, e); // before the mode: it takes set-user-ID away
        if (::fchmod(fd, e.mode & 07777) != 0) fail(name_, errno);
        xattrs(fd, e);
        const timespec times[2] = {e.mtime, e.mtime};
        if (::futimens(fd, times) != 0) fail(name_, errno);
    }

    void node(const TarEntry &e, const Place &at) {
        if (::mknodat(at.parent, at.name, (e.mode & S_IFMT) | 0600, e.rdev) != 0) fail(name_, errno);
        own_at(at, e);
        // chmod(2) would follow a link that took the name's place meanwhile.
        const UniqueFd fd(::openat(at.parent, at.name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
        struct stat st {};
        if (!fd || ::fstat(fd.get(), &st) != 0) fail(name_, errno);
        if ((st.st_mode & S_IFMT) == (e.mode & S_IFMT) &&
            ::chmod(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), e.mode & 07777) != 0)
            fail(name_, errno);
        date_at(at, e.mtime);
    }

    void hard_link(const TarEntry &e) {
        const std::string target = joined(clean(rules_.rename ? rules_.rename(e.link) : e.link));
        if (target == path_) return;
        const Place from = tree_.find(target);
        const UniqueFd parent(from.parent < 0 ? -1 : ::fcntl(from.parent, F_DUPFD_CLOEXEC, 3));
        struct stat st {};
        if (!parent || ::fstatat(parent.get(), from.name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
            S_ISDIR(st.st_mode))
            throw Error(ErrorClass::kInvalidArgument,
                        "extract " + name_.substr(0, 200) + ": the hard link's target is not there");
        const Place at = tree_.place(path_);
        if (::linkat(parent.get(), from.name, at.parent, at.name, 0) != 0) fail(name_, errno);
    }

    /// Last: what is made in a directory needs its mode and moves its time.
    void finish() {
        for (auto it = directories_.rbegin(); it != directories_.rend(); ++it) {
            name_ = it->second.name;
            const Place at = tree_.find(it->first);
            if (at.parent < 0) continue;
            const UniqueFd fd(::openat(at.parent, at.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
            if (fd) finish_file(fd.get(), it->second); // else replaced meanwhile
        }
    }

    TarReader &reader_;
    RootedTree tree_;
    const ExtractRules &rules_;
    std::string name_, path_;
    std::map<std::string, TarEntry> directories_;
    std::vector<char> buffer_;
    uint64_t bytes_ = 0;
};

} // namespace

uint64_t extract_tar(const std::function<size_t(void *, size_t)> &source, int root_fd,
                     const ExtractRules &rules) {
    TarReader reader(source);
    return Extraction(reader, root_fd, rules).run();
}

} // namespace gantry
