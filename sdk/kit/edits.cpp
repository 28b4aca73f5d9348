#include "edits.h"

#include "core/base/fd.h"

#include <gantry/directory.hpp>

#include <cstring>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

namespace gantry::kit {
namespace {

constexpr const char *kKinds[] = {
    "directory", "file",   "append", "sparse", "symlink", "hardlink",   "device", "fifo",
    "remove",    "rename", "mode",   "owner",  "xattr",   "capability", "touch",  "replace-directory"};

std::string folder_of(const std::string &path) { return path.substr(0, path.rfind('/')); }
std::string name_of(const std::string &path) { return path.substr(path.rfind('/') + 1); }

UniqueFd open_folder(int root, const std::string &path) {
    const std::string folder = folder_of(path);
    return UniqueFd(::openat(root, folder.empty() ? "." : folder.c_str() + 1,
                             O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}
std::string proc(int dir, const std::string &name) {
    return "/proc/self/fd/" + std::to_string(dir) + "/" + name;
}
std::string content(unsigned value, size_t size) {
    std::string out(size, 'x');
    std::mt19937 random(value);
    for (char &c : out)
        c = static_cast<char>('a' + random() % 26);
    return out;
}
bool write_at(int fd, const std::string &bytes, off_t at) {
    return ::pwrite(fd, bytes.data(), bytes.size(), at) == static_cast<ssize_t>(bytes.size());
}

} // namespace

std::string Edit::text() const {
    return std::string(kKinds[kind]) + " " + path + (other.empty() ? "" : " from " + other) + " (" +
           std::to_string(value) + ")";
}

bool Edit::apply(int root) const {
    const UniqueFd dir = open_folder(root, path);
    if (!dir) return false;
    const std::string name = name_of(path);
    struct stat st {};
    const bool there = ::fstatat(dir.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0;
    const bool is_dir = there && S_ISDIR(st.st_mode), is_file = there && S_ISREG(st.st_mode);
    const char *n = name.c_str();
    // A copy made on the first write parts names of one file; which of them follows is nobody's promise.
    const bool single = is_dir || (there && st.st_nlink == 1);
    bool done = false;
    switch (kind) {
    case kDirectory: done = !there && ::mkdirat(dir.get(), n, 0755) == 0; break;
    case kFile:
    case kSparse: {
        if (is_dir) return false;
        if (there && ::unlinkat(dir.get(), n, 0) != 0) return false;
        const UniqueFd fd(::openat(dir.get(), n, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
        done = fd && write_at(fd.get(), content(value, kind == kFile ? value % 9000 : 10), 0) &&
               (kind == kFile || write_at(fd.get(), "end", 1 << 20));
        break;
    }
    case kAppend: {
        if (!is_file || !single) return false;
        const UniqueFd fd(::openat(dir.get(), n, O_WRONLY | O_CLOEXEC));
        done = fd && write_at(fd.get(), content(value, 100), st.st_size);
        break;
    }
    case kSymlink: done = !there && ::symlinkat(other.c_str(), dir.get(), n) == 0; break;
    case kHardLink: {
        const UniqueFd from = open_folder(root, other);
        if (!from || there || ::fstatat(from.get(), name_of(other).c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(st.st_mode) || st.st_nlink > 1)
            return false;
        done = ::linkat(from.get(), name_of(other).c_str(), dir.get(), n, 0) == 0;
        break;
    }
    case kDevice:
        done = !there && ::mknodat(dir.get(), n, S_IFCHR | 0640, makedev(1, value % 9 + 1)) == 0;
        break;
    case kFifo: done = !there && ::mknodat(dir.get(), n, S_IFIFO | 0640, 0) == 0; break;
    case kRemove:
        if (!there) return false;
        remove_tree(dir.get(), name);
        done = true;
        break;
    case kRename: {
        const UniqueFd from = open_folder(root, other);
        const std::string old = name_of(other);
        if (!from || there || ::fstatat(from.get(), old.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 ||
            S_ISDIR(st.st_mode) || st.st_nlink > 1 || ::renameat(from.get(), old.c_str(), dir.get(), n) != 0)
            return false;
        const timespec times[2] = {{value, 1}, {value, 1}};
        ::futimens(from.get(), times);
        done = true;
        break;
    }
    case kMode:
        done = single && !S_ISLNK(st.st_mode) && ::fchmodat(dir.get(), n, 0400 | (value & 07377), 0) == 0;
        break;
    case kOwner:
        done = single && ::fchownat(dir.get(), n, value % 70000, value % 1000, AT_SYMLINK_NOFOLLOW) == 0;
        break;
    case kUserXattr:
        done = single && (is_dir || is_file) &&
               ::lsetxattr(proc(dir.get(), name).c_str(), "user.test", &value, sizeof value, 0) == 0;
        break;
    case kCapability: {
        vfs_cap_data caps{};
        caps.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE;
        caps.data[0].permitted = 1u << (value % 30);
        done = single && is_file &&
               ::lsetxattr(proc(dir.get(), name).c_str(), "security.capability", &caps, sizeof caps, 0) == 0;
        break;
    }
    case kTouch: done = single; break;
    case kReplaceDirectory:
        if (!is_dir) return false;
        remove_tree(dir.get(), name);
        done = ::mkdirat(dir.get(), n, 0711) == 0;
        break;
    }
    if (!done) return false;
    const timespec times[2] = {{value, 7},
                               {1'500'000'000 + value, static_cast<long>(value) * 1000 % 1000000000}};
    if (kind != kHardLink) ::utimensat(dir.get(), n, times, AT_SYMLINK_NOFOLLOW);
    ::futimens(dir.get(), times);
    return true;
}

std::vector<Edit> random_edits(std::mt19937 &random, int root, int count) {
    // Few names, so that edits meet; some that are awkward to write down.
    static const std::vector<std::string> kNames{
        "a",         "b",         "c",    "d e",     "\xc3\xa9t\xc3\xa9",
        "x:y,z=1\\", "new\nline", "wh.a", ".hidden", std::string(240, 'n')};
    const auto name = [&] { return "/" + kNames[random() % kNames.size()]; };
    const auto path = [&] {
        std::string out = name();
        for (unsigned depth = random() % 3; depth > 0; --depth)
            out += name();
        return out;
    };
    std::vector<Edit> out;
    for (int tries = 0; static_cast<int>(out.size()) < count && tries < count * 200; ++tries) {
        Edit edit{
            static_cast<Edit::Kind>(random() % 16), path(), {}, static_cast<unsigned>(random() % 1'000'000)};
        if (edit.kind == Edit::kHardLink || edit.kind == Edit::kRename) edit.other = path();
        if (edit.kind == Edit::kSymlink) edit.other = "../target" + std::to_string(edit.value);
        // Trees have to grow before there is something to do in them.
        if (edit.kind == Edit::kRemove && random() % 2) continue;
        if (edit.apply(root)) out.push_back(std::move(edit));
    }
    return out;
}

} // namespace gantry::kit
