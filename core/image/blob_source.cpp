// Which bytes an image is sent as, and where they are; see blob_source.h.
//
// A blob counts as had when its file is in the content store or a repository is noted for it. A manifest
// all of whose blobs are had is used as it is. Otherwise a new one is written: had blobs stay, the others
// are made from the layer store. A layer that was committed here gives the tar it was made of, byte for
// byte; one that somebody else's tar was unpacked to (import, load) may give another diff ID, and the
// config is then written with that, so that what is sent is consistent in itself.
#include "core/image/blob_source.h"

#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/content/content.h"
#include "core/image/download.h"
#include "core/image/fetch_whole.h"
#include "core/layer/compress.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

#include <boost/json.hpp>

#include <algorithm>
#include <fcntl.h>
#include <unistd.h>

namespace gantry {
namespace {

namespace json = boost::json;

const char *const kOciConfig = "application/vnd.oci.image.config.v1+json";
const char *const kOciManifest = "application/vnd.oci.image.manifest.v1+json";
const char *const kGzipLayer = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The OCI name of a layer's type: a manifest is of one kind throughout.
std::string oci_layer_type(const std::string &type) {
    if (type == "application/vnd.docker.image.rootfs.diff.tar.gzip") return kGzipLayer;
    if (type == "application/vnd.docker.image.rootfs.diff.tar")
        return "application/vnd.oci.image.layer.v1.tar";
    if (type == "application/vnd.docker.image.rootfs.diff.tar.zstd")
        return "application/vnd.oci.image.layer.v1.tar+zstd";
    return type;
}

std::string with_diff_ids(const std::string &config, const std::vector<std::string> &diff_ids) {
    json::value document = json::parse(config);
    json::array list;
    for (const auto &id : diff_ids)
        list.emplace_back(id);
    document.as_object()["rootfs"] = {{"type", "layers"}, {"diff_ids", std::move(list)}};
    return json::serialize(document);
}

Error no_bytes(const std::string &digest, const std::string &why) {
    return {ErrorClass::kNotFound,
            "read layer " + digest + ": its compressed form is not kept here, and " + why,
            "pull the image again, or set storage.retain_blobs = true before pulling to keep layers"};
}

} // namespace

std::vector<BlobOrigin> origins_of(Db &db, const std::string &digest) {
    std::vector<BlobOrigin> out;
    db.transact([&](Db &t) {
        auto rows = t.prepare("SELECT DISTINCT registry, repository FROM blob_origin WHERE digest=?");
        rows.bind(1, digest);
        while (rows.step())
            out.push_back({rows.text(0), rows.text(1)});
    });
    return out;
}

void note_origins(Db &t, const std::string &image, const std::vector<BlobRef> &blobs,
                  const BlobOrigin &where) {
    for (const BlobRef &blob : blobs)
        t.prepare("INSERT OR IGNORE INTO blob_origin(digest, registry, repository, image) VALUES(?,?,?,?)")
            .bind_all(blob.digest, where.registry, where.repository, image)
            .run();
}

ImageBytesContext Images::Impl::bytes_context() {
    return {db, content, layers, *registry, locks, retain_blobs};
}

ImageBytes::ImageBytes(const ImageBytesContext &context, const std::string &image, Options options,
                       const CancelSource &cancel)
    : context_(context), image_(image), options_(std::move(options)), cancel_(cancel) {
    std::string top;
    ImageInfo info;
    context_.db.transact([&](Db &t) {
        auto row = t.prepare("SELECT manifest, config, top_layer FROM image WHERE id=?");
        row.bind(1, image);
        if (!row.step()) return;
        info.manifest = row.text(0);
        config_ = row.text(1);
        top = row.text(2);
    });
    if (config_.empty()) throw Error(ErrorClass::kNotFound, "No such image: " + image);
    diff_ids_ = parse_config(config_).diff_ids;
    config_blob_ = {kOciConfig, image, config_.size()};
    if (!top.empty()) layer_ids_ = context_.layers.lineage(top);
    std::reverse(layer_ids_.begin(), layer_ids_.end());
    if (layer_ids_.size() != diff_ids_.size())
        throw Error(ErrorClass::kDataLoss, "read image " + image + ": its config names " +
                                               std::to_string(diff_ids_.size()) + " layers and there are " +
                                               std::to_string(layer_ids_.size()));
    made_.resize(diff_ids_.size());
    const bool stored = read_stored_manifest(info);
    // An image of before origins were noted: whoever has its manifest has its layers.
    if (stored && !blobs_.empty() && origins_of(context_.db, blobs_.front().digest).empty())
        context_.db.transact([&](Db &t) {
            std::vector<BlobOrigin> known;
            {
                auto rows = t.prepare("SELECT DISTINCT registry, repository FROM image_digest WHERE image=?");
                rows.bind(1, image);
                while (rows.step())
                    known.push_back({rows.text(0), rows.text(1)});
            }
            for (const BlobOrigin &origin : known)
                note_origins(t, image, blobs_, origin);
        });
    const bool complete =
        stored && std::all_of(blobs_.begin(), blobs_.end(), [&](const BlobRef &blob) {
            return context_.content.has(blob.digest) || !origins_of(context_.db, blob.digest).empty();
        });
    if (!complete) write_manifest(info);
}

ImageBytes::~ImageBytes() = default;

bool ImageBytes::read_stored_manifest(const ImageInfo &info) {
    try {
        manifest_ = context_.content.read(info.manifest, kMaxManifestBytes);
        const Manifest manifest = parse_manifest(manifest_, "");
        if (manifest.is_index || manifest.layers.size() != diff_ids_.size()) return false;
        manifest_blob_ = {manifest.media_type, info.manifest, manifest_.size()};
        config_blob_ = manifest.config;
        blobs_ = manifest.layers;
        return true;
    } catch (const Error &error) {
        log_debug("manifest of image {}: {}", image_, error.message());
        return false;
    }
}

void ImageBytes::write_manifest(const ImageInfo &) {
    original_ = false;
    blobs_.resize(diff_ids_.size());
    std::vector<std::string> diff_ids = diff_ids_;
    for (size_t i = 0; i < blobs_.size(); ++i) {
        BlobRef &blob = blobs_[i];
        if (!blob.digest.empty() &&
            (context_.content.has(blob.digest) || !origins_of(context_.db, blob.digest).empty())) {
            blob.media_type = oci_layer_type(blob.media_type);
            continue;
        }
        Made made = make_layer(i, context_.layers.get(layer_ids_[i]));
        blob = made.blob;
        diff_ids[i] = made.diff_id;
        made_[i] = std::move(made.fd);
    }
    if (diff_ids != diff_ids_) {
        diff_ids_ = diff_ids;
        config_ = with_diff_ids(config_, diff_ids_);
    }
    config_blob_ = {kOciConfig, sha256_of(config_), config_.size()};
    manifest_ = make_manifest(config_blob_, blobs_);
    manifest_blob_ = {kOciManifest, sha256_of(manifest_), manifest_.size()};
}

ImageBytes::Made ImageBytes::make_layer(size_t index, const Layer &from) {
    Made out;
    out.fd = context_.content.scratch();
    Hasher plain, packed;
    uint64_t size = 0, read = 0;
    GzipWriter gzip([&](const void *data, size_t n) {
        packed.update(data, n);
        write_all(out.fd.get(), {static_cast<const char *>(data), n}, "compressed layer");
        size += n;
    });
    CallScope scope(cancelled_by(cancel_));
    const auto tar_size = context_.layers.tar_size(from);
    const ByteSink take = [&](const void *data, size_t n) {
        if (cancel_.cancelled()) throw Error(ErrorClass::kCancelled, "write layer: cancelled by the caller");
        plain.update(data, n);
        gzip.write(data, n);
        read += n;
        if (options_.progress) options_.progress("Preparing", index, read, tar_size.value_or(0));
    };
    if (tar_size)
        context_.layers.write_tar(from, take, scope); // the very one it was unpacked from
    else
        context_.layers.write_diff(
            from.id, take, [&](const std::string &note) { log_warn("write layer {}: {}", from.id, note); },
            scope);
    gzip.finish();
    out.diff_id = plain.digest();
    out.blob = {kGzipLayer, packed.digest(), size};
    if (out.diff_id != from.diff_id)
        log_info("layer {} was unpacked from a tar written elsewhere and leaves as {}", from.diff_id,
                 out.diff_id);
    if (context_.retain_blobs && out.diff_id == from.diff_id) {
        auto ingest = context_.content.ingest(out.blob.digest, size, kGzipLayer);
        std::vector<char> buffer(256 << 10);
        for (uint64_t at = ingest->written(); at < size;) {
            const ssize_t n = ::pread(out.fd.get(), buffer.data(), buffer.size(), static_cast<off_t>(at));
            if (n <= 0) throw Error::from_errno(n < 0 ? errno : EIO, "keep layer " + out.blob.digest);
            ingest->write(buffer.data(), static_cast<size_t>(n));
            at += static_cast<uint64_t>(n);
        }
        ingest->commit();
        context_.db.transact([&](Db &t) {
            t.prepare("UPDATE layer SET blob_digest=?, blob_size=? WHERE id=?")
                .bind_all(out.blob.digest, static_cast<int64_t>(size), from.id)
                .run();
        });
    }
    return out;
}

std::vector<BlobOrigin> ImageBytes::origins(size_t layer) const {
    return origins_of(context_.db, blobs_.at(layer).digest);
}

bool ImageBytes::at_hand(size_t layer) const {
    return made_.at(layer) || context_.content.has(blobs_.at(layer).digest);
}

OpenBlob ImageBytes::open_layer(size_t layer) {
    const BlobRef &blob = blobs_.at(layer);
    OpenBlob out;
    if (made_[layer]) {
        // Another open file description: two readers must not move each other's offset.
        out.fd.reset(
            ::open(("/proc/self/fd/" + std::to_string(made_[layer].get())).c_str(), O_RDONLY | O_CLOEXEC));
        if (!out.fd) throw Error::from_errno(errno, "open layer " + blob.digest);
        out.size = blob.size;
        return out;
    }
    const auto stored = [&] {
        try {
            out.fd = context_.content.open(blob.digest);
        } catch (const Error &error) {
            if (error.error_class() == ErrorClass::kNotFound) return false;
            throw;
        }
        out.size = context_.content.size(blob.digest);
        return out.size == blob.size;
    };
    if (stored()) return out;
    const auto guard = context_.locks.lock("blob " + blob.digest, cancel_);
    if (stored()) return out;
    const auto known = origins(layer);
    if (known.empty()) throw no_bytes(blob.digest, "no repository is known to have it");
    std::string why;
    for (const BlobOrigin &from : known) {
        try {
            if (fetch(layer, from, out)) return out;
        } catch (const Error &error) {
            if (error.error_class() == ErrorClass::kCancelled || error.error_class() == ErrorClass::kNoSpace)
                throw;
            why += (why.empty() ? "" : "; ") + error.message();
        }
    }
    throw no_bytes(blob.digest, "it could not be fetched again: " + why);
}

bool ImageBytes::fetch(size_t layer, const BlobOrigin &from, OpenBlob &out) {
    const BlobRef &blob = blobs_[layer];
    Fetch fetch;
    fetch.from = {from.registry, from.repository, "", blob.digest};
    fetch.descriptor = {blob.media_type, blob.digest, blob.size, ""};
    fetch.credential = options_.credential;
    out.fd = fetch_stored(context_.registry, context_.content, fetch, context_.retain_blobs, 3, cancel_,
                          [&](uint64_t reached) {
                              if (options_.progress) options_.progress("Fetching", layer, reached, blob.size);
                          });
    out.size = blob.size;
    return true;
}

void ImageBytes::remember(const BlobOrigin &to) {
    if (!original_ && config_blob_.digest == image_)
        context_.content.put(manifest_, manifest_blob_.media_type, manifest_blob_.digest);
    context_.db.transact([&](Db &t) {
        note_origins(t, image_, blobs_, to);
        if (original_ || config_blob_.digest != image_) return;
        t.prepare("UPDATE image SET manifest=? WHERE id=?").bind_all(manifest_blob_.digest, image_).run();
    });
}

} // namespace gantry
