// Trees as comparable text, hand-made tars (honest and hostile) and temporary directories.
#pragma once

#include "core/base/fd.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/content/content.h"
#include "core/layer/layers.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <map>
#include <string>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace gantry::test {

struct TempDir {
    std::string path = "/tmp/gantry-test-" + random_hex(6);
    TempDir() { make_directories(path, 0755); }
    ~TempDir() {
        try {
            remove_tree(path);
        } catch (const std::exception &error) {
            std::fprintf(stderr, "%s\n", error.what());
        }
    }
};

/// Runs a script that stops at the first failure, in a directory that is entered before the shell
/// starts: a script must never run anywhere else.
inline void shell_in(int dir_fd, const std::string &script) {
    const pid_t child = ::fork();
    if (child == 0) {
        // Entered first: the descriptor may itself be number 9.
        if (::fchdir(dir_fd) != 0) ::_exit(125);
        // The shell complains of a working directory without a path; the script gets stderr back.
        ::dup2(2, 9);
        ::dup2(::open("/dev/null", O_WRONLY), 2);
        ::execl("/bin/sh", "sh", "-ec", ("exec 2>&9; " + script).c_str(), nullptr);
        ::_exit(126);
    }
    int status = 0;
    if (child < 0 || ::waitpid(child, &status, 0) != child || status != 0)
        throw std::runtime_error("shell: " + script + " -> " + std::to_string(status));
}
inline void shell_in(const std::string &dir, const std::string &script) {
    // Opened for reading: fchdir refuses nothing then that a test may need.
    shell_in(open_file(dir, O_RDONLY | O_DIRECTORY).get(), script);
}

/// One line per path: everything an unpacked layer must keep.
inline std::map<std::string, std::string> describe(const std::string &root, bool times = true) {
    std::map<std::string, std::string> out;
    std::map<std::pair<dev_t, ino_t>, std::string> links;
    const std::function<void(const std::string &)> walk = [&](const std::string &at) {
        const std::string full = root + at;
        struct stat st {};
        if (::lstat(full.c_str(), &st) != 0) throw std::runtime_error("lstat " + full);
        char head[160];
        std::snprintf(head, sizeof head, "%06o %u:%u %u,%u", st.st_mode, st.st_uid, st.st_gid,
                      major(st.st_rdev), minor(st.st_rdev));
        std::string line = head;
        if (times) line += " " + std::to_string(st.st_mtim.tv_sec) + "." + std::to_string(st.st_mtim.tv_nsec);
        if (S_ISREG(st.st_mode)) {
            line += " size " + std::to_string(st.st_size) + " " +
                    sha256_of(read_file(full, 1u << 30)).substr(7, 12);
            const auto [first, fresh] = links.insert({{st.st_dev, st.st_ino}, at});
            if (!fresh) line += " link " + first->second;
        }
        if (S_ISLNK(st.st_mode)) {
            char target[4096] = {};
            if (::readlink(full.c_str(), target, sizeof target - 1) > 0) line += std::string(" -> ") + target;
        }
        char names[65536];
        const ssize_t size = ::llistxattr(full.c_str(), names, sizeof names);
        std::map<std::string, std::string> attributes;
        for (ssize_t i = 0; i < size; i += static_cast<ssize_t>(std::strlen(names + i)) + 1) {
            char value[65536];
            const ssize_t n = ::lgetxattr(full.c_str(), names + i, value, sizeof value);
            attributes[names + i] = std::string(value, static_cast<size_t>(std::max<ssize_t>(n, 0)));
        }
        for (const auto &[k, v] : attributes)
            line += " " + k + "=" + sha256_of(v).substr(7, 8);
        out[at.empty() ? "/" : at] = line;
        if (S_ISDIR(st.st_mode)) {
            auto children = list_directory(full);
            std::sort(children.begin(), children.end());
            for (const auto &name : children)
                walk(at + "/" + name);
        }
    };
    walk("");
    return out;
}

/// The difference of two descriptions as text; "" when equal.
inline std::string difference(const std::map<std::string, std::string> &a,
                              const std::map<std::string, std::string> &b) {
    std::string out;
    for (const auto &[path, line] : a)
        if (auto it = b.find(path); it == b.end() || it->second != line)
            out += "- " + path + " " + line + "\n";
    for (const auto &[path, line] : b)
        if (auto it = a.find(path); it == a.end() || it->second != line)
            out += "+ " + path + " " + line + "\n";
    return out;
}

/// Ustar records by hand, so that nothing is too odd to write.
class Tar {
  public:
    Tar &entry(char type, const std::string &name, const std::string &body = {}, const std::string &link = {},
               unsigned mode = 0644, unsigned dev_major = 0, unsigned dev_minor = 0) {
        std::string header(512, '\0');
        const auto put = [&](size_t at, const std::string &text) { header.replace(at, text.size(), text); };
        const auto octal = [&](size_t at, int width, unsigned long long value) {
            char text[24];
            std::snprintf(text, sizeof text, "%0*llo", width - 1, value);
            put(at, text);
        };
        if (name.size() > 99) pax("path", name);
        put(0, name.substr(0, 99));
        octal(100, 8, mode);
        octal(108, 8, 0);
        octal(116, 8, 0);
        octal(124, 12, body.size());
        octal(136, 12, 1600000000);
        put(148, "        ");
        header[156] = type;
        put(157, link.substr(0, 99));
        put(257, std::string("ustar\00000", 8));
        octal(329, 8, dev_major);
        octal(337, 8, dev_minor);
        unsigned sum = 0;
        for (const char c : header)
            sum += static_cast<unsigned char>(c);
        char text[8];
        std::snprintf(text, sizeof text, "%06o", sum);
        header.replace(148, 7, std::string(text, 7));
        bytes_ += header + body + std::string((512 - body.size() % 512) % 512, '\0');
        return *this;
    }
    Tar &file(const std::string &name, const std::string &body = "x", unsigned mode = 0644) {
        return entry('0', name, body, {}, mode);
    }
    Tar &dir(const std::string &name, unsigned mode = 0755) { return entry('5', name, {}, {}, mode); }
    Tar &symlink(const std::string &name, const std::string &target) {
        return entry('2', name, {}, target, 0777);
    }
    Tar &hard_link(const std::string &name, const std::string &target) {
        return entry('1', name, {}, target);
    }
    /// Pax records for the next entry.
    Tar &pax(const std::string &key, const std::string &value) {
        const std::string rest = " " + key + "=" + value + "\n";
        size_t size = rest.size() + 1;
        while (std::to_string(size).size() + rest.size() != size)
            size = std::to_string(size).size() + rest.size();
        return entry('x', "PaxHeader", std::to_string(size) + rest);
    }
    std::string done(size_t padding = 1024) const { return bytes_ + std::string(padding, '\0'); }

  private:
    std::string bytes_;
};

inline ByteSource source_of(const std::string &bytes, size_t chunk = 65536) {
    return [&bytes, chunk, at = size_t{0}](void *out, size_t size) mutable {
        const size_t n = std::min({size, chunk, bytes.size() - at});
        std::memcpy(out, bytes.data() + at, n);
        at += n;
        return n;
    };
}
inline ByteSource source_of_fd(int fd) {
    return [fd](void *out, size_t size) {
        const ssize_t n = ::read(fd, out, size);
        if (n < 0) throw Error::from_errno(errno, "read test layer");
        return static_cast<size_t>(n);
    };
}

inline UnpackResult unpack(const std::string &tar, const std::string &into, gantry_whiteout whiteout,
                           const UnpackLimits &limits = {}) {
    const UniqueFd root = open_file(into, O_PATH | O_DIRECTORY);
    const CallScope scope;
    return unpack_layer(source_of(tar), root.get(), whiteout, limits, scope);
}

} // namespace gantry::test
