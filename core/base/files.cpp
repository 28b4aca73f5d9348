#include "core/base/failpoint.h"
#include "core/base/files.h"

#include "core/base/ids.h"

#include <gantry/directory.hpp>

#include <cerrno>
#include <cstdio>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {
namespace {

std::string parent_of(const std::string &path) {
    const auto slash = path.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : path.substr(0, slash);
}

} // namespace

UniqueFd open_file(const std::string &path, int flags, mode_t mode) {
    UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
    if (!fd) throw Error::from_errno(errno, "open " + path);
    return fd;
}

std::string read_file(const std::string &path, size_t limit) {
    return read_all(open_file(path, O_RDONLY).get(), limit, path);
}

std::string read_file_if(const std::string &path, bool &found, size_t limit) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    found = static_cast<bool>(fd);
    if (!fd) {
        if (errno == ENOENT || errno == ENOTDIR) return {};
        throw Error::from_errno(errno, "open " + path);
    }
    return read_all(fd.get(), limit, path);
}

void write_file_atomically(const std::string &path, std::string_view content, mode_t mode, bool durable) {
    const std::string temporary = path + ".tmp-" + random_hex(4);
    try {
        UniqueFd fd = open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, mode);
        if (::fchmod(fd.get(), mode) != 0) throw Error::from_errno(errno, "chmod " + temporary);
        write_all(fd.get(), content, temporary);
        failpoint("file.written");
        if (durable && ::fsync(fd.get()) != 0) throw Error::from_errno(errno, "sync " + temporary);
        if (::rename(temporary.c_str(), path.c_str()) != 0)
            throw Error::from_errno(errno, "rename " + temporary + " to " + path);
    } catch (...) {
        ::unlink(temporary.c_str());
        throw;
    }
    if (durable) fsync_path(parent_of(path));
}

void write_kernel_file(const std::string &path, std::string_view content) {
    UniqueFd fd = open_file(path, O_WRONLY);
    if (::write(fd.get(), content.data(), content.size()) < 0)
        throw Error::from_errno(errno, "write '" + std::string(content) + "' to " + path);
}

void make_directories(const std::string &path, mode_t mode) {
    if (::mkdir(path.c_str(), mode) == 0) return;
    if (errno == EEXIST) {
        struct stat st {};
        if (::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) return;
        throw Error::from_errno(ENOTDIR, "make directory " + path);
    }
    if (errno != ENOENT) throw Error::from_errno(errno, "make directory " + path);
    make_directories(parent_of(path), mode);
    if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST)
        throw Error::from_errno(errno, "make directory " + path);
}

void remove_tree(const std::string &path) { remove_tree(AT_FDCWD, path); }

bool path_exists(const std::string &path) {
    struct stat st {};
    return ::lstat(path.c_str(), &st) == 0;
}

std::vector<std::string> list_directory(const std::string &path) {
    const UniqueFd dir(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!dir && errno == ENOENT) return {};
    if (!dir) throw Error::from_errno(errno, "read directory " + path);
    return names_in(dir.get(), path);
}

void fsync_path(const std::string &path) {
    UniqueFd fd = open_file(path, O_RDONLY);
    if (::fsync(fd.get()) != 0) throw Error::from_errno(errno, "sync " + path);
}

} // namespace gantry
