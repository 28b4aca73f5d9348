// Moving images without a pull: archives in and out of the store, and copies between registries, archives and
// the store that unpack nothing.
#pragma once

#include "core/image/images.h"

#include <functional>
#include <set>
#include <string>
#include <vector>

namespace gantry {

struct LoadOptions {
    std::string platform;               // of an index; "" is the host's
    std::string select;                 // name or label of the one image to load; "" is all
    std::optional<ImageReference> name; // instead of the archive's names; then there must be one image
};

struct LoadedImage {
    std::string id;
    std::vector<std::string> names; // familiar
};

enum class ArchiveFormat {
    kDocker, // manifest.json and, in the same tar, an OCI layout, as Docker writes since 25
    kOci     // the layout alone
};

/// One end of a copy.
struct CopyEnd {
    enum Kind { kRegistry, kStore, kArchive } kind = kStore;
    ImageReference ref; // registry; store: what the copy is to be called
    std::string name;   // store: what is to be copied; archive: label or name within
    std::optional<Credential> credential;
};

struct CopyOptions {
    bool all = false;                   // every platform of an index, the index as it is
    std::vector<std::string> platforms; // "" of both: the host's
    ArchiveFormat format = ArchiveFormat::kOci;
    std::set<std::string> have; // blobs that the receiver of an archive has: left out
};

struct CopyResult {
    std::string digest; // of the manifest or index at the destination
    uint64_t blobs = 0, skipped = 0, bytes = 0;
};

/// Thread-safe, as Images is; borrows it.
class ImageTransfer {
  public:
    using Store = Images::Impl; // for the parts of this class: impl.h

    explicit ImageTransfer(Images &images) : impl_(*images.impl_), images_(images) {}

    /// Everything in an archive: image_archive.h. Nothing of it becomes visible unless all of it is whole.
    std::vector<LoadedImage> load(const std::function<size_t(void *, size_t)> &archive,
                                  const LoadOptions &options, const CancelSource &cancel,
                                  const PullSink &sink);

    /// Names as `docker save` takes them: a repository without a tag means all its tags. Nothing is written
    /// unless every image can be; throws kFailedPrecondition where a layer's bytes cannot be had.
    void save(const std::vector<std::string> &names, ArchiveFormat format,
              const std::function<void(const void *, size_t)> &archive, const CancelSource &cancel);

    /// `in` is read when the source is an archive, `out` written when the destination is one.
    CopyResult copy(const CopyEnd &from, const CopyEnd &to, const CopyOptions &options,
                    const std::function<size_t(void *, size_t)> &in,
                    const std::function<void(const void *, size_t)> &out, const CancelSource &cancel,
                    const PullSink &sink);

  private:
    Store &impl_;
    Images &images_;
};

} // namespace gantry
