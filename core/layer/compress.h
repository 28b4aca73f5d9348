// Layers leave as gzip: every client and registry takes it. ISA-L compresses about four times as fast as
// zlib for some 5% more bytes, so that a push is bound by the network. The same bytes give the same stream
// on the same machine; other processors may find other matches, which is why digests are remembered.
#pragma once

#include "core/layer/layers.h"

#include <memory>

namespace gantry {

/// One gzip member without name or time. Not thread-safe.
class GzipWriter {
  public:
    explicit GzipWriter(ByteSink sink);
    ~GzipWriter();
    void write(const void *data, size_t size);
    /// Ends the stream; nothing may be written after it.
    void finish();

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace gantry
