// Small file operations with errors that name the path. None of these follows untrusted paths:
// rooted resolution lives in core/layer.
#pragma once

#include "core/base/fd.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

namespace gantry {

/// open(2) with O_CLOEXEC. Throws Error("open <path>: ...").
UniqueFd open_file(const std::string &path, int flags, mode_t mode = 0644);
std::string read_file(const std::string &path, size_t limit = 16u << 20);
/// nullopt-like: "" when the file does not exist, `found` false.
std::string read_file_if(const std::string &path, bool &found, size_t limit = 16u << 20);

/// Replaces the file by rename, so that readers see the old or the new content and never a part.
/// `durable` adds fsync of file and directory (survives power loss).
void write_file_atomically(const std::string &path, std::string_view content, mode_t mode, bool durable);
/// Writes into an existing kernel file (cgroup, sysctl) in one write(2).
void write_kernel_file(const std::string &path, std::string_view content);

/// mkdir -p; directories that are made get `mode`.
void make_directories(const std::string &path, mode_t mode);
/// rm -rf that does not cross mount points and never follows links; a missing path is fine.
void remove_tree(const std::string &path);
bool path_exists(const std::string &path);
/// Names in a directory without "." and "..", unsorted; a missing directory gives none.
std::vector<std::string> list_directory(const std::string &path);
void fsync_path(const std::string &path);

} // namespace gantry
