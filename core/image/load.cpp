// load: the archive is spooled and judged, its blobs become blobs of the content store (by a second name, no
// copy), and from there on it is a pull that finds everything at hand: layers unpack in parallel, are
// shared with what is there, and diff IDs are verified. Names appear at the very end.
#include "core/base/files.h"
#include "core/content/content.h"
#include "core/image/download.h"
#include "core/image/image_archive.h"
#include "core/image/transfer.h"
#include "core/layer/layers.h"

#include <algorithm>
#include <fcntl.h>
#include <unistd.h>

namespace gantry {
namespace {

const char *const kDockerHub = "docker.io"; // what names in archives are familiar to

/// The archive as the pull's registry: asked for what is not a blob of the store yet, or is damaged there.
class ArchiveRegistry final : public RegistryDriver {
  public:
    explicit ArchiveRegistry(const ImageArchive &archive) : archive_(archive) {}
    bool handles(const Call &, const RegistryReference &) override { return true; }
    Descriptor resolve(const Call &, const RegistryReference &, const std::optional<Credential> &,
                       std::string *) override {
        throw Error(ErrorClass::kUnsupported, "load image: there is no registry behind an archive");
    }
    void fetch(const Call &call, const Fetch &fetch, const BlobSink &sink) override {
        const UniqueFd file = open_file(archive_.file(fetch.descriptor.digest), O_RDONLY);
        const uint64_t size = archive_.size(fetch.descriptor.digest);
        const uint64_t end = fetch.length ? std::min(size, fetch.offset + fetch.length) : size;
        std::vector<char> buffer(256 << 10);
        for (uint64_t at = fetch.offset; at < end;) {
            call.check("read image archive");
            const ssize_t n = ::pread(file.get(), buffer.data(), std::min<uint64_t>(buffer.size(), end - at),
                                      static_cast<off_t>(at));
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) throw Error::from_errno(n < 0 ? errno : EIO, "read image archive");
            sink("archive", at, buffer.data(), static_cast<size_t>(n));
            at += static_cast<uint64_t>(n);
        }
    }
    std::vector<EndpointLine> explain(const Call &, const RegistryReference &) override { return {}; }

  private:
    const ImageArchive &archive_;
};

struct Planned {
    BlobRef top, manifest;
    std::string config_json;
    ImageInfo info;
    std::string id;
    std::vector<LayerPlan> layers;
    std::vector<ImageReference> refs;
    bool made = false;
};

/// Of an index that an archive holds a part of: the wanted platform's, else the only one that is there.
BlobRef choose(const Manifest &index, const Platform &wanted, bool given, const ImageArchive &archive) {
    Manifest there = index;
    std::erase_if(there.entries, [&](const IndexEntry &e) {
        return !archive.has(e.blob.digest) || (e.has_platform && e.platform.os == "unknown");
    });
    try {
        return choose_platform(there, wanted);
    } catch (const Error &) {
        if (given || there.entries.size() != 1) throw;
        return there.entries[0].blob;
    }
}

Planned plan_image(const ImageArchive &archive, const ArchivedImage &image, const LoadOptions &options) {
    Planned out;
    out.top = out.manifest = image.top;
    out.made = image.made;
    Manifest manifest =
        parse_manifest(archive.read(image.top.digest, kMaxManifestBytes), image.top.media_type);
    out.top.media_type = manifest.media_type;
    if (manifest.is_index) {
        out.manifest = choose(manifest, parse_platform(options.platform), !options.platform.empty(), archive);
        manifest =
            parse_manifest(archive.read(out.manifest.digest, kMaxManifestBytes), out.manifest.media_type);
        if (manifest.is_index) throw Error(ErrorClass::kUnsupported, "an index within an index");
    }
    out.manifest.media_type = manifest.media_type;
    out.id = manifest.config.digest;
    out.config_json = archive.read(out.id, kMaxConfigBytes);
    out.info = parse_config(out.config_json);
    if (!out.info.os.empty() && out.info.os != "linux")
        throw Error(ErrorClass::kUnsupported,
                    "image operating system \"" + out.info.os + "\" cannot be used on this platform");
    if (out.info.diff_ids.size() != manifest.layers.size())
        throw Error(ErrorClass::kInvalidArgument,
                    "the config names " + std::to_string(out.info.diff_ids.size()) +
                        " layers and the manifest " + std::to_string(manifest.layers.size()));
    for (size_t i = 0; i < manifest.layers.size(); ++i) {
        const BlobRef &layer = manifest.layers[i];
        out.layers.push_back(
            {layer, out.info.diff_ids[i],
             chain_id_of(i ? out.layers[i - 1].chain_id : std::string(), out.info.diff_ids[i])});
        if (archive.has(layer.digest) && archive.size(layer.digest) != layer.size)
            throw Error(ErrorClass::kDataLoss, "layer " + layer.digest + ": " +
                                                   std::to_string(archive.size(layer.digest)) +
                                                   " bytes instead of " + std::to_string(layer.size));
    }
    return out;
}

bool is_called(const ArchivedImage &image, const std::string &select) {
    if (image.label == select) return true;
    std::string full;
    try {
        full = parse_reference(select, kDockerHub, true).full();
    } catch (const Error &) {
        return image.top.digest == select;
    }
    return std::any_of(image.names.begin(), image.names.end(), [&](const std::string &name) {
        try {
            return parse_reference(name, kDockerHub, true).full() == full;
        } catch (const Error &) {
            return false;
        }
    });
}

std::string shown(const ArchivedImage &image) {
    return !image.names.empty() ? image.names[0] : image.label.empty() ? image.top.digest : image.label;
}

} // namespace

std::vector<ArchivedImage> selected(std::vector<ArchivedImage> images, const std::string &select) {
    if (select.empty()) return images;
    std::erase_if(images, [&](const ArchivedImage &image) { return !is_called(image, select); });
    if (images.empty())
        throw Error(ErrorClass::kNotFound, "read image archive: there is no image " + select + " in it");
    return images;
}

std::vector<LoadedImage> ImageTransfer::load(const std::function<size_t(void *, size_t)> &input,
                                             const LoadOptions &options, const CancelSource &cancel,
                                             const PullSink &sink) {
    parse_platform(options.platform); // refused before a byte is read
    ImageArchive archive(impl_.content.make_spool());
    archive.spool(input, [&] {
        if (cancel.cancelled()) throw Error(ErrorClass::kCancelled, "load image: cancelled by the caller");
    });
    const std::vector<ArchivedImage> images = selected(archive.images(), options.select);
    if (options.name && images.size() != 1)
        throw Error(ErrorClass::kInvalidArgument,
                    "load image: the archive holds " + std::to_string(images.size()) + " images",
                    "say which one is meant, by its name in the archive");
    std::vector<Planned> plans;
    for (const ArchivedImage &image : images) {
        try {
            plans.push_back(plan_image(archive, image, options));
            if (options.name)
                plans.back().refs.push_back(*options.name);
            else
                for (const std::string &name : image.names)
                    plans.back().refs.push_back(parse_reference(name, kDockerHub, true));
            const Planned &plan = plans.back();
            for (const ImageReference &ref : plan.refs)
                impl_.admit(ref, {plan.top.digest, plan.manifest.digest}, "load", std::nullopt, cancel);
        } catch (const Error &error) {
            throw error.with_context("load image " + shown(image));
        }
    }

    // What a failure leaves belongs to no image, and the sweep behind the last work takes it.
    struct SweepAfter {
        ImageTransfer::Store &impl;
        ~SweepAfter() {
            std::lock_guard lock(impl.work_mutex);
            impl.sweep_wanted = impl.sweep_wanted || std::uncaught_exceptions() > 0;
        }
    };
    const Images::Impl::Work work(impl_);
    const SweepAfter after{impl_};
    ArchiveRegistry registry(archive);
    LayerPullContext context{impl_.content,     impl_.layers, registry, impl_.locks, impl_.connections,
                             impl_.bandwidth,   impl_.config, {},       {},          impl_.max_unpack,
                             impl_.retain_blobs};
    std::vector<std::string> tops;
    bool repaired = false;
    for (size_t i = 0; i < plans.size(); ++i) {
        const Planned &plan = plans[i];
        const auto turn = impl_.locks.lock("image " + plan.manifest.digest, cancel);
        try {
            for (const LayerPlan &layer : plan.layers)
                if (archive.has(layer.blob.digest) &&
                    (impl_.retain_blobs || !impl_.layers.find(layer.chain_id)))
                    impl_.content.adopt(archive.file(layer.blob.digest), layer.blob.digest, layer.blob.size,
                                        layer.blob.media_type);
            const PullSink progress = [&](const PullProgress &p) {
                if (p.status == "Extracting") sink({p.id, "Loading layer", p.current, p.total});
                if (p.status == "Already exists") sink({p.id, "Layer already exists", 0, 0});
            };
            tops.push_back(pull_layers(context, plan.layers, cancel, progress, repaired));
            impl_.content.put(plan.config_json, "application/vnd.oci.image.config.v1+json", plan.id);
            impl_.content.put(archive.read(plan.manifest.digest, kMaxManifestBytes), plan.manifest.media_type,
                              plan.manifest.digest);
            if (plan.top.digest != plan.manifest.digest)
                impl_.content.put(archive.read(plan.top.digest, kMaxManifestBytes), plan.top.media_type,
                                  plan.top.digest);
        } catch (const Error &error) {
            throw error.with_context("load image " + shown(images[i]));
        }
    }

    // From here on the images are visible.
    std::vector<LoadedImage> out;
    for (size_t i = 0; i < plans.size(); ++i) {
        const Planned &plan = plans[i];
        Images::Impl::Commit what;
        what.id = plan.id;
        what.manifest = plan.manifest.digest;
        what.config = plan.config_json;
        what.top_layer = tops[i];
        what.created_ns = plan.info.created_ns;
        if (!what.top_layer.empty())
            for (const auto &id : impl_.layers.lineage(what.top_layer))
                what.size += impl_.layers.get(id).size;
        LoadedImage loaded{plan.id, {}};
        if (plan.refs.empty()) impl_.commit(what);
        for (const ImageReference &ref : plan.refs) {
            what.ref = ref;
            // Only a manifest that came with the archive is one that a registry may know, too.
            what.ref->digest = plan.made ? "" : plan.top.digest;
            impl_.commit(what);
            ImageReference name = ref;
            name.digest.clear();
            loaded.names.push_back(impl_.shown(name));
        }
        impl_.publish("load", plan.id, loaded.names.empty() ? plan.id : loaded.names[0]);
        out.push_back(std::move(loaded));
    }
    return out;
}

} // namespace gantry
