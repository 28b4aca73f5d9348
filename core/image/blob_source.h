// An image as bytes, for whoever sends it on: push, save, copy. An image that came from somewhere leaves with
// the very manifest and blobs it came with, so that its digest stays. Compressed layers are dropped after
// unpacking unless storage.retain_blobs is set; they are then fetched again by digest from the repositories
// that had them. What was made here (commit, import, load) has no blobs yet: they are written from the
// layer store, and a new manifest names them.
#pragma once

#include "core/image/impl.h"

#include <string>
#include <vector>

namespace gantry {

struct Layer;

/// The collaborators, borrowed. Images::Impl::bytes_context() makes one.
struct ImageBytesContext {
    Db &db;
    ContentStore &content;
    Layers &layers;
    RegistryDriver &registry;
    NamedLocks &locks;
    bool retain_blobs;
};

/// A repository that is known to have a blob.
struct BlobOrigin {
    std::string registry, repository;
};

/// A whole blob: read it from offset 0 on (the descriptor is not shared).
struct OpenBlob {
    UniqueFd fd;
    uint64_t size = 0; // bytes
};

/// One image. The caller keeps an Images::Impl::Work alive meanwhile, so that no sweep takes the layers.
class ImageBytes {
  public:
    struct Options {
        /// Shown to origins on its own server, and to no other; `server` must be set.
        std::optional<Credential> credential;
        /// Told bytes while a layer is fetched or written: ("Fetching" or "Preparing", layer, so far, of;
        /// 0 when unknown). From the threads that call open_layer().
        std::function<void(const char *, size_t, uint64_t, uint64_t)> progress;
    };

    /// Reads the manifest. Layers that have no blob anywhere are written at once (their digests are part of
    /// the manifest), the others when they are opened. `image` is an id; throws kNotFound.
    ImageBytes(const ImageBytesContext &context, const std::string &image, Options options,
               const CancelSource &cancel);
    ~ImageBytes();

    const std::string &manifest() const { return manifest_; } // its bytes
    const BlobRef &manifest_blob() const { return manifest_blob_; }
    const std::string &config() const { return config_; } // its bytes
    const BlobRef &config_blob() const { return config_blob_; }
    /// Base first, as the manifest names them.
    const std::vector<BlobRef> &layers() const { return blobs_; }
    /// Of the uncompressed layers, as the config names them.
    const std::vector<std::string> &diff_ids() const { return diff_ids_; }
    /// False: the manifest was written here, now or when the image was sent first.
    bool original() const { return original_; }
    /// Where the layer's blob is known to be.
    std::vector<BlobOrigin> origins(size_t layer) const;

    /// open_layer() has nothing to fetch or make.
    bool at_hand(size_t layer) const;
    /// The layer's blob, verified. From a file of the content store, a fresh one, or its origins (kept
    /// when retain_blobs). Thread-safe. Throws kNotFound with the way out when the bytes cannot be had, and
    /// kCancelled.
    OpenBlob open_layer(size_t layer);

    /// Notes that `to` has all of this image's blobs now, and the manifest as the image's own when it was
    /// written here.
    void remember(const BlobOrigin &to);

  private:
    struct Made { // a layer written here
        UniqueFd fd;
        std::string diff_id;
        BlobRef blob;
    };
    bool read_stored_manifest(const ImageInfo &info);
    void write_manifest(const ImageInfo &info);
    Made make_layer(size_t layer, const Layer &from);
    bool fetch(size_t layer, const BlobOrigin &from, OpenBlob &out);

    ImageBytesContext context_;
    std::string image_;
    Options options_;
    const CancelSource &cancel_;
    std::string manifest_, config_;
    BlobRef manifest_blob_, config_blob_;
    std::vector<BlobRef> blobs_;
    std::vector<std::string> diff_ids_;
    std::vector<std::string> layer_ids_; // base first
    std::vector<UniqueFd> made_;         // of layers that were written here
    bool original_ = true;
};

/// The repositories that are noted for a blob, of any image.
std::vector<BlobOrigin> origins_of(Db &db, const std::string &digest);
/// Notes that a repository has these blobs of an image. Within a transaction.
void note_origins(Db &transaction, const std::string &image, const std::vector<BlobRef> &blobs,
                  const BlobOrigin &where);

} // namespace gantry
