#include "core/image/image_source.h"

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/content/content.h"
#include "core/image/blob_source.h"
#include "core/image/download.h"
#include "core/image/fetch_whole.h"
#include "core/store/db.h"

#include <algorithm>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {
namespace {

constexpr size_t kBuffer = 1 << 20;
const char *const kTarLayer = "application/vnd.oci.image.layer.v1.tar";

RegistryReference driver_reference(const ImageReference &ref) {
    return {ref.registry, ref.repository, ref.digest.empty() ? ref.tag : "", ref.digest};
}

/// A blob that the content store gets from a repository; removed again unless it was there or is to stay.
UniqueFd fetch_blob(ImageTransfer::Store &impl, const RegistryReference &from,
                    const std::optional<Credential> &credential, const BlobRef &blob,
                    const CancelSource &cancel, const PullSink &sink) {
    const auto stored = [&]() -> UniqueFd {
        try {
            return impl.content.open(blob.digest);
        } catch (const Error &error) {
            if (error.error_class() == ErrorClass::kNotFound) return UniqueFd();
            throw;
        }
    };
    if (UniqueFd fd = stored()) return fd;
    const auto guard = impl.locks.lock("blob " + blob.digest, cancel);
    if (UniqueFd fd = stored()) return fd;
    Fetch fetch;
    fetch.from = from;
    fetch.descriptor = {blob.media_type, blob.digest, blob.size, ""};
    fetch.credential = credential;
    const std::string id = short_digest(blob.digest);
    return fetch_stored(*impl.registry, impl.content, fetch, impl.retain_blobs, 4, cancel,
                        [&](uint64_t reached) {
                            sink({id, "Fetching", reached, blob.size});
                        });
}

class StoredImage final : public ImageSource {
  public:
    StoredImage(ImageTransfer::Store &impl, const std::string &id, const CancelSource &cancel)
        : impl_(impl), cancel_(cancel) {
        const ImageInfo info = impl.load(id);
        config_ = info.config_json;
        config_blob_ = {"application/vnd.oci.image.config.v1+json", id, config_.size()};
        std::vector<BlobRef> blobs;
        try {
            manifest_ = impl.content.read(info.manifest, kMaxManifestBytes);
            const Manifest manifest = parse_manifest(manifest_, "");
            blob_ = {manifest.media_type, info.manifest, manifest_.size()};
            config_blob_ = manifest.config;
            blobs = manifest.layers;
        } catch (const Error &error) {
            log_debug("manifest of image {}: {}", id, error.message());
        }
        const auto lineage = info.top_layer.empty() ? LayerIds{} : impl.layers.lineage(info.top_layer);
        if (lineage.size() != info.diff_ids.size())
            throw Error(ErrorClass::kDataLoss, "read image " + id + ": its config names " +
                                                   std::to_string(info.diff_ids.size()) + " layers and " +
                                                   std::to_string(lineage.size()) + " are there");
        bool original = blobs.size() == info.diff_ids.size() && !manifest_.empty();
        if (blobs.size() != info.diff_ids.size()) blobs.assign(info.diff_ids.size(), {});
        for (size_t i = 0; i < blobs.size(); ++i) {
            const Layer layer = impl.layers.get(lineage[lineage.size() - 1 - i]);
            BlobRef &blob = blobs[i];
            if (!blob.digest.empty() && impl.content.has(blob.digest)) continue;
            if (const auto size = impl.layers.tar_size(layer)) {
                original = original && blob.digest == layer.diff_id && blob.size == *size;
                blob = {kTarLayer, layer.diff_id, *size};
                tars_[blob.digest] = layer;
                continue;
            }
            const auto from =
                blob.digest.empty() ? std::vector<RegistryReference>{} : origins(id, blob.digest);
            if (from.empty())
                throw Error(
                    ErrorClass::kFailedPrecondition,
                    "read image " + info.id + ": layer " + layer.diff_id +
                        " was unpacked without a record of its tar, its compressed form was not kept, and "
                        "no registry is known to have it",
                    "pull or load the image again, or set storage.retain_blobs = true before");
            remote_[blob.digest] = from;
        }
        if (original) return;
        manifest_ = make_manifest(config_blob_, blobs);
        blob_ = {"application/vnd.oci.image.manifest.v1+json", sha256_of(manifest_), manifest_.size()};
    }

    const std::string &top() const override { return manifest_; }
    const BlobRef &top_blob() const override { return blob_; }
    std::string manifest(const BlobRef &blob) override {
        throw Error(ErrorClass::kNotFound, "read image: " + blob.digest + " is not in the store");
    }
    UniqueFd open(const BlobRef &blob) override {
        if (blob.digest != config_blob_.digest && !tars_.contains(blob.digest)) return open_blob(blob);
        // Written anew: into a file without a name.
        const std::string folder = impl_.content.make_spool();
        UniqueFd fd = open_file(folder + "/blob", O_RDWR | O_CREAT | O_EXCL, 0600);
        remove_tree(folder);
        stream(blob, [&](const void *bytes, size_t size) {
            write_all(fd.get(), {static_cast<const char *>(bytes), size}, "layer " + blob.digest);
        });
        if (::lseek(fd.get(), 0, SEEK_SET) < 0) throw Error::from_errno(errno, "read layer " + blob.digest);
        return fd;
    }
    bool at_hand(const BlobRef &blob) override {
        return !tars_.contains(blob.digest) && !remote_.contains(blob.digest);
    }
    void stream(const BlobRef &blob, const ByteSink &sink) override {
        if (blob.digest == config_blob_.digest) return sink(config_.data(), config_.size());
        if (const auto tar = tars_.find(blob.digest); tar != tars_.end()) {
            CallScope scope(cancelled_by(cancel_));
            return impl_.layers.write_tar(tar->second, sink, scope);
        }
        pour_blob(open_blob(blob).get(), blob, sink);
    }

  private:
    std::vector<RegistryReference> origins(const std::string &image, const std::string &digest) const {
        std::vector<RegistryReference> out;
        for (const BlobOrigin &origin : origins_of(impl_.db, digest))
            out.push_back({origin.registry, origin.repository, "", ""});
        if (!out.empty()) return out;
        impl_.db.transact([&](Db &d) {
            auto rows = d.prepare("SELECT DISTINCT registry, repository FROM image_digest WHERE image=?");
            rows.bind(1, image);
            while (rows.step())
                out.push_back({rows.text(0), rows.text(1), "", ""});
        });
        return out;
    }
    UniqueFd open_blob(const BlobRef &blob) {
        const auto remote = remote_.find(blob.digest);
        if (remote == remote_.end()) return impl_.content.open(blob.digest);
        std::string why;
        for (RegistryReference from : remote->second) {
            try {
                from.digest = blob.digest;
                return fetch_blob(impl_, from, std::nullopt, blob, cancel_, [](const PullProgress &) {});
            } catch (const Error &error) {
                if (error.error_class() == ErrorClass::kCancelled ||
                    error.error_class() == ErrorClass::kNoSpace)
                    throw;
                why += (why.empty() ? "" : "; ") + error.message();
            }
        }
        throw Error(ErrorClass::kUnavailable, "fetch layer " + blob.digest + " again: " + why,
                    "pull the image again, or set storage.retain_blobs = true before");
    }

    ImageTransfer::Store &impl_;
    const CancelSource &cancel_;
    std::string manifest_, config_;
    BlobRef blob_, config_blob_;
    std::map<std::string, Layer> tars_;                            // by digest
    std::map<std::string, std::vector<RegistryReference>> remote_; // by digest
};

class FromArchive final : public ImageSource {
  public:
    FromArchive(const ImageArchive &archive, const ArchivedImage &image)
        : archive_(archive), blob_(image.top), top_(archive.read(image.top.digest, kMaxManifestBytes)) {
        if (blob_.media_type.empty()) blob_.media_type = parse_manifest(top_, "").media_type;
    }
    const std::string &top() const override { return top_; }
    const BlobRef &top_blob() const override { return blob_; }
    std::string manifest(const BlobRef &blob) override {
        return archive_.read(blob.digest, kMaxManifestBytes);
    }
    bool has_manifest(const BlobRef &blob) override { return archive_.has(blob.digest); }
    UniqueFd open(const BlobRef &blob) override {
        if (archive_.size(blob.digest) != blob.size)
            throw Error(ErrorClass::kDataLoss, "read image archive: blob " + blob.digest + " has " +
                                                   std::to_string(archive_.size(blob.digest)) +
                                                   " bytes instead of " + std::to_string(blob.size));
        return open_file(archive_.file(blob.digest), O_RDONLY);
    }

  private:
    const ImageArchive &archive_;
    BlobRef blob_;
    std::string top_;
};

class FromRegistry final : public ImageSource {
  public:
    FromRegistry(ImageTransfer::Store &impl, const ImageReference &ref,
                 const std::optional<Credential> &credential, const CancelSource &cancel,
                 const PullSink &sink)
        : impl_(impl), cancel_(cancel),
          sink_(sink), context_{impl.content,     impl.layers,     *impl.registry,   impl.locks,
                                impl.connections, impl.bandwidth,  impl.config,      driver_reference(ref),
                                credential,       impl.max_unpack, impl.retain_blobs} {
        CallScope scope(cancelled_by(cancel, ref.familiar()));
        const Descriptor found = impl.registry->resolve(scope, context_.from, credential, &top_);
        blob_ = {found.media_type, ref.digest.empty() ? found.digest : ref.digest, top_.size()};
        Hasher hasher(blob_.digest.substr(0, blob_.digest.find(':')));
        hasher.update(top_.data(), top_.size());
        if (const std::string got = hasher.digest(); got != blob_.digest)
            throw Error(ErrorClass::kDataLoss, "copy " + ref.familiar() + ": " + found.endpoint +
                                                   " served a manifest " + got + " for " + blob_.digest);
    }
    const std::string &top() const override { return top_; }
    const BlobRef &top_blob() const override { return blob_; }
    std::string manifest(const BlobRef &blob) override {
        return fetch_small(context_, blob, true, kMaxManifestBytes, cancel_);
    }
    UniqueFd open(const BlobRef &blob) override {
        return fetch_blob(impl_, context_.from, context_.credential, blob, cancel_, sink_);
    }
    bool at_hand(const BlobRef &blob) override { return impl_.content.has(blob.digest); }
    std::optional<RegistryReference> origin() const override { return context_.from; }

  private:
    ImageTransfer::Store &impl_;
    const CancelSource &cancel_;
    PullSink sink_;
    LayerPullContext context_;
    std::string top_;
    BlobRef blob_;
};

} // namespace

void ImageSource::stream(const BlobRef &blob, const ByteSink &sink) {
    pour_blob(open(blob).get(), blob, sink);
}

void pour_blob(int fd, const BlobRef &blob, const ByteSink &sink) {
    const auto buffer = std::make_unique<char[]>(kBuffer);
    Hasher hasher(blob.digest.substr(0, blob.digest.find(':')));
    uint64_t left = blob.size;
    while (left > 0) {
        const ssize_t n = ::read(fd, buffer.get(), std::min<uint64_t>(left, kBuffer));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw Error::from_errno(errno, "read blob " + blob.digest);
        if (n == 0) throw Error(ErrorClass::kDataLoss, "read blob " + blob.digest + ": it is cut short");
        hasher.update(buffer.get(), static_cast<size_t>(n));
        left -= static_cast<uint64_t>(n);
        sink(buffer.get(), static_cast<size_t>(n));
    }
    if (hasher.digest() != blob.digest)
        throw Error(ErrorClass::kDataLoss, "read blob " + blob.digest + ": the content on disk is damaged",
                    "remove the image and pull it again");
}

std::unique_ptr<ImageSource> open_stored_image(ImageTransfer::Store &impl, const std::string &id,
                                               const CancelSource &cancel) {
    return std::make_unique<StoredImage>(impl, id, cancel);
}
std::unique_ptr<ImageSource> open_archived_image(const ImageArchive &archive, const ArchivedImage &image) {
    return std::make_unique<FromArchive>(archive, image);
}
std::unique_ptr<ImageSource> open_remote_image(ImageTransfer::Store &impl, const ImageReference &ref,
                                               const std::optional<Credential> &credential,
                                               const CancelSource &cancel, const PullSink &sink) {
    return std::make_unique<FromRegistry>(impl, ref, credential, cancel, sink);
}

} // namespace gantry
