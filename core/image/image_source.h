// Where a copy's bytes come from: the store, a registry or an archive, all as manifests and blobs by digest.
#pragma once

#include "core/image/image_archive.h"
#include "core/image/impl.h"
#include "core/image/transfer.h"
#include "core/layer/layers.h"

#include <memory>
#include <optional>
#include <string>

namespace gantry {

/// Constructed and asked for manifests by one thread; blobs by any.
class ImageSource {
  public:
    virtual ~ImageSource() = default;
    /// The manifest or index itself, verified.
    virtual const std::string &top() const = 0;
    virtual const BlobRef &top_blob() const = 0;
    /// One that the index names. Throws kNotFound when the source lacks it.
    virtual std::string manifest(const BlobRef &blob) = 0;
    virtual bool has_manifest(const BlobRef &) { return true; }
    /// The whole blob at offset 0, of the blob's size. What is read from a disk is verified by whom it is
    /// given to: registries and clients do.
    virtual UniqueFd open(const BlobRef &blob) = 0;
    /// False: open() may take long, which no driver's call has to wait for.
    virtual bool at_hand(const BlobRef &) { return true; }
    /// Writes the whole blob, with bounded memory and no file in between where that can be.
    virtual void stream(const BlobRef &blob, const ByteSink &sink);
    /// A repository that has the blobs.
    virtual std::optional<RegistryReference> origin() const { return std::nullopt; }
};

/// An image of the store as it can be given away now. Blobs that were kept leave as they came, and when all
/// were, so does the manifest. For the others the layers' tars are made again (Layers::write_tar), and a
/// manifest that names them; the image ID stays. What cannot be made is fetched from where it came.
/// Throws kFailedPrecondition with the way out when neither can be. The caller holds an Images::Impl::Work.
std::unique_ptr<ImageSource> open_stored_image(ImageTransfer::Store &impl, const std::string &id,
                                               const CancelSource &cancel);
/// `archive` outlives it.
std::unique_ptr<ImageSource> open_archived_image(const ImageArchive &archive, const ArchivedImage &image);
/// Blobs pass through the content store and leave it again. The caller holds an Images::Impl::Work.
std::unique_ptr<ImageSource> open_remote_image(ImageTransfer::Store &impl, const ImageReference &ref,
                                               const std::optional<Credential> &credential,
                                               const CancelSource &cancel, const PullSink &sink);

/// Images of the archive that are called so ("" for all); throws kNotFound.
std::vector<ArchivedImage> selected(std::vector<ArchivedImage> images, const std::string &select);

/// Pours an open file into a sink. Throws kDataLoss when it is not of `size` bytes or not of `digest`.
void pour_blob(int fd, const BlobRef &blob, const ByteSink &sink);

} // namespace gantry
