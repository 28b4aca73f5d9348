// A layer's tar without the content of its files, written down while the layer is unpacked. With the tree it
// gives the same bytes again, so that an image whose compressed layers were not kept can be saved or
// pushed without its registry: no tool can make another's tar from a tree alone (order, header dialect,
// padding). Headers repeat themselves: compressed they take about one per mille of the layer.
#pragma once

#include "core/layer/layers.h"

#include <cstdint>
#include <memory>
#include <set>
#include <string>

namespace gantry {

/// Fed with the uncompressed tar, in parts of any size. Not thread-safe.
class TarSkeleton {
  public:
    TarSkeleton();
    ~TarSkeleton();
    void feed(const void *bytes, size_t size);
    /// "" when the tar cannot be made again from the tree: a name came twice, sparse content is large, the
    /// headers are beyond the limit or not understood.
    std::string end();

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// FOLDER/<algorithm>-<hex>, named by diff ID as the tree's records are. Thread-safe.
class TarSkeletons {
  public:
    explicit TarSkeletons(std::string folder); // "" for nowhere
    void put(const std::string &diff_id, TarSkeleton &skeleton, bool durable);
    /// Bytes of the whole tar; nullopt when there is no skeleton.
    std::optional<uint64_t> tar_size(const std::string &diff_id) const;
    /// Writes the tar with the contents under `root_fd`. Throws kNotFound without a skeleton, kDataLoss when
    /// files are not as they were. The caller judges the digest.
    void write_tar(const std::string &diff_id, int root_fd, const ByteSink &sink, const Call &call) const;
    void remove(const std::string &diff_id);
    void keep_only(const std::set<std::string> &diff_ids);

  private:
    std::string path_of(const std::string &diff_id) const;
    std::string folder_;
};

} // namespace gantry
