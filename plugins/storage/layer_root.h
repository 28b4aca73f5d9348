// A driver's root: one directory per layer, made under a temporary name and renamed, so that an id is
// whole or absent; removed by renaming first, so that list() forgets it at once. Names that begin with
// a dot are leftovers of a killed process and are swept when the driver starts.
#pragma once

#include "plugins/storage/tree.h"

#include <functional>
#include <optional>
#include <string>

namespace gantry::storage {

class LayerRoot {
  public:
    /// How a name below a directory goes, with everything in it.
    using Discard = void (*)(int at, const std::string &name);
    /// Makes the root if needed and sweeps leftovers.
    explicit LayerRoot(const std::string &path, Discard discard = remove_tree);

    int fd() const noexcept { return root_.get(); }
    const std::string &path() const noexcept { return path_; }
    std::string path_of(const std::string &id, const char *below) const;

    /// `fill` gets the new directory while it still has its temporary name. kAlreadyExists.
    void make(const std::string &id, const std::function<void(int dir)> &fill);
    /// "fs" in a new layer's directory. A stack shows the attributes of its first directory at the root:
    /// the nearest parent's are taken over.
    void make_tree(int dir, const std::string &id, const LayerIds &parents) const;
    Fd open(const std::string &id) const; // kNotFound
    void remove(const std::string &id);
    std::vector<std::string> list() const;

    /// The usage noted when the layer was committed; none for an active layer.
    std::optional<Usage> committed(const std::string &id) const;
    /// Writes the marker last; with `durable` everything in the layer and the marker are on disk.
    void commit(const std::string &id, const Usage &usage, bool durable);

  private:
    std::string path_;
    Discard discard_;
    Fd root_;
};

/// A small file "bytes inodes" below `dir`.
void write_usage(int dir, const char *name, const Usage &usage);
std::optional<Usage> read_usage(int dir, const char *name);

} // namespace gantry::storage
