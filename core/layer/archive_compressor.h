// Whole archives leave compressed where that was asked for. One thread; ISA-L for gzip, as fast as most
// disks.
#pragma once

#include "core/layer/layers.h"

#include <memory>
#include <string>

namespace gantry {

/// Not thread-safe.
class ArchiveCompressor {
  public:
    /// `kind`: "gzip", "zstd", or "" to pass everything on. Throws kInvalidArgument for others.
    ArchiveCompressor(const std::string &kind, ByteSink sink);
    ~ArchiveCompressor();
    void write(const void *bytes, size_t size);
    /// Ends the stream; nothing may be written after it.
    void finish();

    struct Impl;

  private:
    std::unique_ptr<Impl> impl_;
};

} // namespace gantry
