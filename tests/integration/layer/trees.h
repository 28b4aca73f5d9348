// Trees as comparable text, hand-made tars (honest and hostile) and temporary directories.
#pragma once

#include "core/base/fd.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/content/content.h"
#include "core/layer/layers.h"
#include "sdk/kit/trees.h"

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

using kit::describe;
using kit::difference;

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
