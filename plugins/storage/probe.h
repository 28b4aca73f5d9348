// Whether a stacking file system works on a root is found by trying it: these are the parts that
// overlayfs and aufs share.
#pragma once

#include "plugins/storage/tree.h"

#include <vector>

namespace gantry::storage {

/// Three empty directories, "lower", "upper" and "work", that vanish with this object.
class ProbeDirectory {
  public:
    ProbeDirectory(int root, const std::string &path);
    ProbeDirectory(const ProbeDirectory &) = delete;
    ProbeDirectory &operator=(const ProbeDirectory &) = delete;
    ~ProbeDirectory();
    /// Short whatever the root's path is, as fsconfig(2) wants it.
    std::string below(const char *sub) const;
    UniqueFd fd;

  private:
    int root_;
    std::string name_;
};

/// A detached mount; "" in `why` when it worked, else the kernel's reason.
UniqueFd try_mount(const char *type, const std::vector<std::string> &options, std::string &why);

/// Whether /proc/filesystems lists a type. A module that is not loaded yet does not show there.
bool kernel_lists(const std::string &type);
/// Whether the running kernel's modules hold it; loads nothing.
bool kernel_could_load(const std::string &module);
/// The directory itself or the nearest above it that exists; none when it cannot be opened.
UniqueFd nearest_directory(std::string path);
/// Has the kernel load the module of a type if it knows one (fs-TYPE), as mount(2) does.
bool kernel_loads(const char *type);
/// Name of the file system that holds a directory, for messages: "ext4", "0x65735546".
std::string filesystem_of(int dir);

} // namespace gantry::storage
