// Trees as comparable text: one line per path with everything that a layer must keep. A header alone, because
// the tests of layers use it too.
#pragma once

#include "core/base/files.h"
#include "core/content/content.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace gantry::kit {

/// `root` may end in "/." to enter a mount through /proc/self/fd.
inline std::map<std::string, std::string> describe(const std::string &root, bool times = true) {
    std::map<std::string, std::string> out;
    std::map<std::pair<dev_t, ino_t>, std::string> links;
    const std::function<void(const std::string &)> walk = [&](const std::string &at) {
        const std::string full = root + at;
        struct stat st {};
        if (::lstat(full.c_str(), &st) != 0) throw Error::from_errno(errno, "look at " + full);
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
inline std::string difference(const std::map<std::string, std::string> &wanted,
                              const std::map<std::string, std::string> &got) {
    std::string out;
    for (const auto &[path, line] : wanted)
        if (auto it = got.find(path); it == got.end() || it->second != line)
            out += "- " + path + " " + line + "\n";
    for (const auto &[path, line] : got)
        if (auto it = wanted.find(path); it == wanted.end() || it->second != line)
            out += "+ " + path + " " + line + "\n";
    return out;
}

} // namespace gantry::kit
