// The uncompressed bytes of a layer blob: plain tar, gzip (any number of members) or zstd (any number
// of frames), told apart by their first bytes, never by the media type a registry claims.
#pragma once

#include "core/layer/layers.h"

#include <memory>

namespace gantry {

class Decompressor {
  public:
    virtual ~Decompressor() = default;
    /// Fills the buffer as far as possible; 0 at the end. Throws kDataLoss for a corrupt or
    /// truncated stream.
    virtual size_t read(void *buffer, size_t size) = 0;
    /// Compressed bytes taken from the source so far.
    virtual uint64_t consumed() const = 0;
};

std::unique_ptr<Decompressor> open_decompressor(const ByteSource &source);
/// The same for whole image archives, which people also compress by xz and bzip2.
std::unique_ptr<Decompressor> open_archive_decompressor(const ByteSource &source);

} // namespace gantry
