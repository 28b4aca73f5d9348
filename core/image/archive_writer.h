// An image archive as one tar stream: documents first, so that a reader may know early what comes, then each
// blob once. The same images give the same bytes.
#pragma once

#include "core/image/image_source.h"
#include "core/image/transfer.h"
#include "core/layer/tar_writer.h"

#include <set>
#include <string>
#include <vector>

namespace gantry {

struct ArchiveEntry {
    BlobRef top;                       // manifest or index
    std::vector<ImageReference> names; // tags
    std::string label;                 // org.opencontainers.image.ref.name where there are no names
    // For manifest.json, of an image of one platform.
    std::string config;
    std::vector<std::string> layers;
};

class ArchiveWriter {
  public:
    /// `have`: blobs that are left out.
    ArchiveWriter(ByteSink sink, ArchiveFormat format, std::set<std::string> have);
    void documents(const std::vector<ArchiveEntry> &images);
    /// Once for each digest; later ones, and those to be left out, are skipped: false.
    bool blob(const BlobRef &blob, const std::function<void(const ByteSink &)> &write);
    void finish();

  private:
    void file(const std::string &name, const std::string &text);
    void directory(const std::string &name);

    ArchiveFormat format_;
    std::set<std::string> done_, algorithms_;
    TarWriter tar_;
};

} // namespace gantry
